package server_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/limit"
	"github.com/telemark-otel/telemark/internal/registry/api"
)

// behind says that requests come from clients of a proxy.
func behind(s *settings) {
	s.handler = from("10.0.0.1")
	s.Proxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
}

// Everybody knows the key of an instance, and some know those of machines. Who
// registers invented things under it must not keep its owner from renewing.
func TestStrangersDoNotUseUpTheAttemptsOfAMachineOrInstance(t *testing.T) {
	r := newRig(t, behind, func(s *settings) { s.PerKey = limit.Rate{Events: 3, Per: time.Hour} })
	stranger, owner := header("X-Forwarded-For", "198.51.100.1"), header("X-Forwarded-For", "203.0.113.5")
	start := api.EnrolmentStart{Hierarchy: api.Hierarchy{EK: []byte{1}, AK: []byte{2}, Key: []byte{3}}}
	good := r.first(1)
	bad := body(t, r.first(1))
	bad["ppid"] = "00"
	for range 10 {
		r.do(http.MethodPost, "/v1/enrolments", start, stranger)
		r.do(http.MethodPost, "/register", bad, stranger)
	}
	refused(t, api.RateLimited, r.do(http.MethodPost, "/v1/enrolments", start, stranger))
	refused(t, api.RateLimited, r.do(http.MethodPost, "/register", bad, stranger))
	refused(t, api.EKMalformed, r.do(http.MethodPost, "/v1/enrolments", start, owner))
	require.Equal(t, http.StatusOK, r.do(http.MethodPost, "/register", good, owner).StatusCode)
}

// A machine that was revoked comes back by whoever may revoke, and by nobody
// who may only let in what waits.
func TestApproverDoesNotUndoARevocation(t *testing.T) {
	r := newRig(t)
	hash := strings.Repeat("ab", 32)
	in := api.ImportRequest{Machines: []api.AllowEntry{{EKHash: hash, Name: "edge-a"}}}
	require.Equal(t, http.StatusOK, r.do(http.MethodPost, "/v1/machines/import", in, r.as("admin")).StatusCode)
	require.Equal(t, http.StatusOK, r.do(http.MethodPost, "/v1/machines/edge-a/revoke", api.RevokeRequest{Reason: "stolen"}, r.as("admin")).StatusCode)
	for _, request := range []api.ApproveRequest{{}, {Vouch: true}, {Vouch: true, Name: "edge-b"}} {
		refused(t, api.Conflict, r.do(http.MethodPost, "/v1/machines/edge-a/approve", request, r.as("approver")))
	}
	refused(t, api.Forbidden, r.do(http.MethodPost, "/v1/machines/edge-a/approve", api.ApproveRequest{Reinstate: true}, r.as("approver")))
	got := ok[api.Machine](t, r.do(http.MethodPost, "/v1/machines/edge-a/approve", api.ApproveRequest{Reinstate: true}, r.as("admin")))
	require.Empty(t, got.Revoked)
}

// Nobody told the registry of this proxy: whom it speaks for, and over what, is
// not known.
func TestAdminCallsAreNotTakenThroughAProxyThatNobodyNamed(t *testing.T) {
	r := newRig(t)
	for name, value := range map[string]string{"X-Forwarded-For": "198.51.100.1", "Forwarded": "for=198.51.100.1", "X-Real-Ip": "198.51.100.1"} {
		refused(t, api.Forbidden, r.do(http.MethodGet, "/v1/tokens", nil, r.as("admin"), header(name, value)))
	}
	require.Equal(t, http.StatusOK, r.do(http.MethodGet, "/v1/tokens", nil, r.as("admin")).StatusCode)
}

// Bodies that arrive slowly are in memory all the while.
func TestBodiesOfManyConnectionsDoNotFillTheMemory(t *testing.T) {
	r := newRig(t, func(s *settings) { s.MaxBodies, s.MaxBodiesOfOne, s.BodyTimeout = 1<<20, 256<<10, 2*time.Second })
	half := strings.Repeat(" ", 50<<10)
	for range 8 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(r.http.URL, "http://"))
		require.NoError(t, err)
		defer func() { _ = conn.Close() }()
		_, err = fmt.Fprintf(conn, "POST /v1/enrolments/complete HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", 100<<10)
		require.NoError(t, err)
		_, _ = io.WriteString(conn, half) // those that are refused end early
	}
	large := `{"name": "` + strings.Repeat("a", 60<<10) + `"}`
	require.Eventually(t, func() bool {
		return r.do(http.MethodPost, "/v1/enrolments/complete", large).StatusCode == http.StatusServiceUnavailable
	}, 1500*time.Millisecond, 10*time.Millisecond)
	resp := r.do(http.MethodPost, "/v1/enrolments/complete", large)
	refused(t, api.Busy, resp)
	require.NotEmpty(t, resp.Header.Get("Retry-After"))
	// Once they are gone there is room again.
	require.Eventually(t, func() bool {
		return r.do(http.MethodPost, "/v1/enrolments/complete", large).StatusCode != http.StatusServiceUnavailable
	}, 10*time.Second, 50*time.Millisecond)
}

func TestOneClientDoesNotUseUpTheRoomForBodies(t *testing.T) {
	r := newRig(t, behind, func(s *settings) { s.MaxBodies, s.MaxBodiesOfOne = 1<<20, 8<<10 })
	large := `{"name": "` + strings.Repeat("a", 20<<10) + `"}`
	refused(t, api.Busy, r.do(http.MethodPost, "/v1/enrolments", large, header("X-Forwarded-For", "198.51.100.1")))
	small := `{"name": "` + strings.Repeat("a", 2<<10) + `"}`
	for range 20 {
		resp := r.do(http.MethodPost, "/v1/enrolments", small, header("X-Forwarded-For", "198.51.100.1"))
		require.Equal(t, http.StatusBadRequest, resp.StatusCode, "%s", resp.body)
	}
}
