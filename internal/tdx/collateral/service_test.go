package collateral_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tdx/collateral"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

// hostile serves the lab, except for paths that begin with one of the others.
func hostile(t *testing.T, others map[string]http.HandlerFunc) *httptest.Server {
	t.Helper()
	honest := (&tdxlab.Server{Lab: lab, Now: func() time.Time { return now }}).Handler()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for path, other := range others {
			if strings.HasPrefix(r.URL.Path, path) {
				other(w, r)
				return
			}
		}
		honest.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server
}

const (
	tcb     = "/tdx/certification/v4/tcb"
	qe      = "/tdx/certification/v4/qe/identity"
	pckCRL  = "/sgx/certification/v4/pckcrl"
	rootCRL = "/sgx/certification/v4/rootcacrl"
)

func TestHostileServiceIsBounded(t *testing.T) {
	endless := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("SGX-PCK-CRL-Issuer-Chain", "x")
		chunk := make([]byte, 64<<10)
		for r.Context().Err() == nil {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
	silent := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	dripping := func(w http.ResponseWriter, r *http.Request) {
		for {
			if _, err := fmt.Fprint(w, "{"); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	for name, c := range map[string]struct {
		path   string
		answer http.HandlerFunc
		reason api.Reason
	}{
		"silent":       {tcb, silent, api.CollateralUnavailable},
		"dripping":     {qe, dripping, api.CollateralUnavailable},
		"endless":      {pckCRL, endless, api.CollateralMalformed},
		"endless root": {rootCRL, endless, api.CollateralMalformed},
		"oversized":    {tcb, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 2<<20)) }, api.CollateralMalformed},
		"not found":    {tcb, status(http.StatusNotFound), api.CollateralUnavailable},
		"failing":      {qe, status(http.StatusInternalServerError), api.CollateralUnavailable},
		"no chain":     {tcb, status(http.StatusOK), api.CollateralMalformed},
		"chain twice": {qe, func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Sgx-Enclave-Identity-Issuer-Chain"] = []string{"a", "b"}
		}, api.CollateralMalformed},
		"chain unreadable": {qe, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("SGX-Enclave-Identity-Issuer-Chain", "%zz")
		}, api.CollateralMalformed},
		"headers too long": {tcb, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("TCB-Info-Issuer-Chain", strings.Repeat("a", 200<<10))
		}, api.CollateralUnavailable},
		"redirect": {tcb, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		}, api.CollateralUnavailable},
		"compressed": {tcb, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Header().Set("TCB-Info-Issuer-Chain", "x")
		}, api.CollateralMalformed},
		"no list":    {rootCRL, func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "<html>") }, api.CollateralMalformed},
		"empty list": {rootCRL, status(http.StatusOK), api.CollateralMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := collateral.NewService(hostile(t, map[string]http.HandlerFunc{c.path: c.answer}).URL, nil)
			require.NoError(t, err)
			v := verifier(t, collateral.Options{Source: s, Timeout: time.Second})
			begin := time.Now()
			_, err = v.Verify(t.Context(), good, now)
			requireReason(t, c.reason, err)
			require.Less(t, time.Since(begin), 8*time.Second)
		})
	}
}

// Some caching services send lists in DER for encoding=der, some as digits.
func TestListsInEitherEncoding(t *testing.T) {
	docs := lab.Collateral(now)
	for name, answer := range map[string]http.HandlerFunc{
		"der":               func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(docs.RootCRL) },
		"hex":               func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintf(w, "%x", docs.RootCRL) },
		"hex in upper case": func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintf(w, "%X\n", docs.RootCRL) },
	} {
		t.Run(name, func(t *testing.T) {
			s, err := collateral.NewService(hostile(t, map[string]http.HandlerFunc{rootCRL: answer}).URL, nil)
			require.NoError(t, err)
			_, err = verifier(t, collateral.Options{Source: s}).Verify(t.Context(), good, now)
			require.NoError(t, err)
		})
	}
}

func TestServiceOverTLSNeedsItsAuthority(t *testing.T) {
	server := httptest.NewTLSServer((&tdxlab.Server{Lab: lab, Now: func() time.Time { return now }}).Handler())
	defer server.Close()
	s, err := collateral.NewService(server.URL, nil)
	require.NoError(t, err)
	_, err = s.Get(t.Context(), lab.FMSPC(), "platform")
	requireReason(t, api.CollateralUnavailable, err)

	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	s, err = collateral.NewService(server.URL, &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12})
	require.NoError(t, err)
	_, err = s.Get(t.Context(), lab.FMSPC(), "platform")
	require.NoError(t, err)
}

func TestServiceEndsWithItsContext(t *testing.T) {
	s, err := collateral.NewService(hostile(t, nil).URL, nil)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.Get(ctx, lab.FMSPC(), "platform")
	requireReason(t, api.CollateralUnavailable, err)
}

func TestServiceURLIsChecked(t *testing.T) {
	for _, at := range []string{"pccs", "ftp://pccs", "https://", "https://pccs/sgx/certification/v3/", "https://user:secret@pccs", "https://pccs?x=1", "https://pccs#x", ":"} {
		_, err := collateral.NewService(at, nil)
		require.Error(t, err, at)
	}
	for _, at := range []string{"", "https://pccs:8081", "https://pccs:8081/sgx/certification/v4/", "http://localhost:8081/proxy"} {
		_, err := collateral.NewService(at, nil)
		require.NoError(t, err, at)
	}
}
