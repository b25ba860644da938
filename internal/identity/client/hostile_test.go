package client_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/identity/client"
	"github.com/telemark-otel/telemark/internal/identity/identitytest"
	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/tdx/collateral"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

func TestOldQuoteIsNotBelieved(t *testing.T) {
	vm, url := instance(t)
	c := dial(t, url)
	vm.Lie(identitytest.Lies{Nonce: func(n []byte) []byte { return make([]byte, len(n)) }})
	_, err := c.Attest(t.Context())
	doubted(t, err, client.QuoteMismatch)

	// One that was recorded, byte for byte.
	var recorded *api.Attestation
	vm.Lie(identitytest.Lies{Attestation: func(a *api.Attestation) { recorded = &api.Attestation{Statement: a.Statement, Quote: a.Quote} }})
	attest(t, c)
	vm.Lie(identitytest.Lies{Attestation: func(a *api.Attestation) { *a = *recorded }})
	_, err = c.Attest(t.Context())
	doubted(t, err, client.QuoteMismatch)
}

func TestQuoteOfAnotherInstanceIsNotBelieved(t *testing.T) {
	vm, url := instance(t)
	other, err := identitytest.New(lab)
	require.NoError(t, err)
	otherKey := other.Key()
	// The host shows the key of its own VM, and the attestation of a good one.
	vm.Lie(identitytest.Lies{Pubkey: func([]byte) []byte { return otherKey }})
	_, err = dial(t, url).Attest(t.Context())
	doubted(t, err, client.InstanceMismatch)
	vm.Lie(identitytest.Lies{})
	_, err = dial(t, url, func(o *client.Options) { o.Instance = otherKey }).Attest(t.Context())
	doubted(t, err, client.InstanceMismatch)
	_, err = dial(t, url, func(o *client.Options) { o.Instance = vm.Key() }).Attest(t.Context())
	require.NoError(t, err)
}

func TestStatementThatTheQuoteDoesNotCoverIsNotBelieved(t *testing.T) {
	vm, url := instance(t)
	vm.Lie(identitytest.Lies{Attestation: func(a *api.Attestation) {
		a.Statement = bytes.Replace(a.Statement, []byte(`"counter":1`), []byte(`"counter":9`), 1)
	}})
	_, err := dial(t, url).Attest(t.Context())
	doubted(t, err, client.QuoteMismatch)

	vm.Lie(identitytest.Lies{Statement: func(s *statement.Statement) {
		s.Log = statement.Log{Register: statement.RTMR3, Base: make([]byte, 48), Events: []statement.Event{{Name: statement.Image, Data: "app:1@" + identitytest.Digest}}}
	}})
	_, err = dial(t, url).Attest(t.Context())
	doubted(t, err, client.StatementInvalid)
}

func TestForgedQuoteIsNotBelieved(t *testing.T) {
	vm, url := instance(t)
	for name, edit := range map[string]func(*tdxlab.Quote){
		"foreign key": func(q *tdxlab.Quote) { q.ForeignKey = true },
		"signature":   func(q *tdxlab.Quote) { q.BadSignature = true },
		"debug":       func(q *tdxlab.Quote) { q.TDAttributes[0] = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			vm.Lie(identitytest.Lies{Quote: []func(*tdxlab.Quote){edit}})
			_, err := dial(t, url).Attest(t.Context())
			doubted(t, err, client.QuoteRefused)
		})
	}
	vm.Lie(identitytest.Lies{Attestation: func(a *api.Attestation) { a.Quote = nil }})
	_, err := dial(t, url).Attest(t.Context())
	doubted(t, err, client.QuoteRefused)

	// A laboratory's quotes are worth nothing to who trusts another root.
	vm.Lie(identitytest.Lies{})
	strict, err := collateral.New(collateral.Options{Source: collateral.Bundle{Dir: t.TempDir()}})
	require.NoError(t, err)
	defer strict.Close()
	_, err = dial(t, url, func(o *client.Options) { o.Quotes = strict }).Attest(t.Context())
	doubted(t, err, client.QuoteRefused)
}

// relay is a host between the tool and the instance: it ends TLS with a key of its
// own, and passes on what it reads.
func relay(t *testing.T, vm *identitytest.Instance) (url string, reads *[]string) {
	t.Helper()
	certificate, err := identitytest.Certificate()
	require.NoError(t, err)
	reads = &[]string{}
	handler := vm.Handler()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*reads = append(*reads, r.URL.Path)
		handler.ServeHTTP(w, r)
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL, reads
}

func TestManInTheMiddleOfTLSGetsNothing(t *testing.T) {
	vm, _ := instance(t)
	url, reads := relay(t, vm)
	_, err := dial(t, url).Attest(t.Context())
	doubted(t, err, client.TLSKeyMismatch)
	require.Equal(t, []string{api.PathPubkey, api.PathAttestation}, *reads)
}

func TestServerThatChangesItsTLSKeyAfterTheAttestationGetsNothing(t *testing.T) {
	vm, _ := instance(t)
	intruder, err := identitytest.Certificate()
	require.NoError(t, err)
	taken := false
	var posts int
	handler := vm.Handler()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			posts++
		}
		w.Header().Set("Connection", "close")
		handler.ServeHTTP(w, r)
	}))
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		if taken {
			return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{intruder}}, nil
		}
		return vm.TLSConfig().GetConfigForClient(h)
	}}
	s.StartTLS()
	defer s.Close()
	i := attest(t, dial(t, s.URL))
	taken = true
	_, err = i.RegisterOperator(t.Context(), newKey(t), nil)
	doubted(t, err, client.TLSKeyMismatch)
	require.Zero(t, posts)
}

func TestProxyWithACertificateOfTheAuthorityIsTakenWhereItIsNamed(t *testing.T) {
	vm, _ := instance(t)
	proxy := httptest.NewTLSServer(vm.Handler())
	defer proxy.Close()
	_, err := dial(t, proxy.URL).Attest(t.Context())
	doubted(t, err, client.TLSKeyMismatch)
	roots := x509.NewCertPool()
	roots.AddCert(proxy.Certificate())
	i := attest(t, dial(t, proxy.URL, func(o *client.Options) { o.Roots = roots }))
	require.Equal(t, client.Authority, i.Channel())
	_, err = dial(t, proxy.URL, func(o *client.Options) { o.Roots = x509.NewCertPool() }).Attest(t.Context())
	require.Error(t, err)
	_, ok := errors.AsType[*x509.UnknownAuthorityError](err)
	_, ok2 := errors.AsType[x509.UnknownAuthorityError](err)
	require.True(t, ok || ok2, "%v", err)
}
