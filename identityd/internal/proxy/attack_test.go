package proxy_test

import (
	"crypto/tls"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/ratls"
)

// The host leads the owner's connection to the published port: TLS has the same key
// there, and the workload could show an attestation that it fetched.
func TestOwnersConnectionDoesNotEndAtTheWorkload(t *testing.T) {
	f := handled(t, func(http.ResponseWriter, *http.Request) {})
	for _, name := range []string{api.ServerName, strings.ToUpper(api.ServerName), api.ServerName + "."} {
		c := ratls.Client(verifier, nil, time.Now)
		c.ServerName = name
		_, err := (&tls.Dialer{Config: c}).DialContext(t.Context(), "tcp", f.address)
		require.Error(t, err, name)
	}
	c := ratls.Client(verifier, nil, time.Now)
	c.ServerName = "app.example"
	conn, err := (&tls.Dialer{Config: c}).DialContext(t.Context(), "tcp", f.address)
	require.NoError(t, err)
	require.NoError(t, conn.Close())
}
