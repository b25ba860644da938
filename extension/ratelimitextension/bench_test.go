package ratelimitextension

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/extension/extensiontest"

	"github.com/telemark-otel/telemark/extension/ratelimitextension/internal/metadata"
)

func unlimited(b testing.TB, change func(*Config)) *Extension {
	cfg := createDefaultConfig().(*Config)
	change(cfg)
	e, err := newExtension(extensiontest.NewNopSettings(metadata.Type), cfg)
	require.NoError(b, err)
	return e
}

var nothing = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})

// What admitting a request costs, on one processor and on all.
func BenchmarkHTTP(b *testing.B) {
	plenty := RateConfig{Rate: maxRate, Burst: maxRate}
	for name, change := range map[string]func(*Config){
		"off":               func(*Config) {},
		"address":           func(c *Config) { c.Requests, c.Bytes = plenty, plenty },
		"query":             func(c *Config) { c.Requests, c.KeyBy = plenty, "query:kid" },
		"header":            func(c *Config) { c.Requests, c.KeyBy = plenty, "header:x-tenant" },
		"forwarded":         func(c *Config) { c.Requests, c.TrustedProxies = plenty, []string{"192.0.2.0/24"} },
		"address, 16 procs": func(c *Config) { c.Requests, c.Bytes = plenty, plenty },
	} {
		b.Run(name, func(b *testing.B) {
			h := wrap(b, unlimited(b, change), nothing)
			requests := make([]*http.Request, 1000)
			for i := range requests {
				requests[i] = httptest.NewRequest(http.MethodPost, fmt.Sprintf("/v1/logs?kid=%064x", i), nil)
				requests[i].RemoteAddr = fmt.Sprintf("192.0.2.%d:4711", i%250)
				requests[i].Header.Set("X-Tenant", fmt.Sprint(i))
				requests[i].Header.Set("X-Forwarded-For", fmt.Sprintf("198.51.100.%d", i%250))
			}
			b.ReportAllocs()
			if name == "address, 16 procs" {
				b.SetParallelism(16)
				b.RunParallel(func(pb *testing.PB) {
					for i := 0; pb.Next(); i++ {
						h.ServeHTTP(nil, requests[i%len(requests)])
					}
				})
				return
			}
			i := 0
			for b.Loop() {
				h.ServeHTTP(nil, requests[i%len(requests)])
				i++
			}
		})
	}
}

// The hot path makes nothing that has to be collected.
func TestAdmittingAllocatesNothing(t *testing.T) {
	plenty := RateConfig{Rate: maxRate, Burst: maxRate}
	for _, by := range []string{"client_address", "query:kid", "header:x-tenant"} {
		h := wrap(t, unlimited(t, func(c *Config) { c.Requests, c.Bytes, c.KeyBy = plenty, plenty, by }), nothing)
		r := httptest.NewRequest(http.MethodPost, "/v1/logs?kid=00", nil)
		r.Header.Set("X-Tenant", "blue")
		h.ServeHTTP(nil, r)
		require.Zero(t, testing.AllocsPerRun(100, func() { h.ServeHTTP(nil, r) }), by)
	}
}
