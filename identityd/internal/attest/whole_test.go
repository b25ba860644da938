package attest_test

import (
	"crypto/x509"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/attest"
	"github.com/telemark-otel/telemark/identityd/internal/measure"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/ratls"
	"github.com/telemark-otel/telemark/internal/tdx"
	"github.com/telemark-otel/telemark/internal/tdx/guest"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

// From an event to what a client knows who did nothing but a handshake: the log
// in the run directory, the register, the quote, the certificate, verified by the
// lab's root.
func TestEventIsSeenInTheCertificate(t *testing.T) {
	server := httptest.NewServer((&tdxlab.Server{Lab: lab}).Handler())
	defer server.Close()
	machine, err := guest.Open(t.Context(), guest.Options{Mock: server.URL + "/td/one"})
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "run")
	require.NoError(t, os.Mkdir(path, 0o700))
	dir, err := state.OpenRunDir(path, true)
	require.NoError(t, err)
	defer func() { require.NoError(t, dir.Close()) }()
	events, err := measure.Open(t.Context(), measure.Options{Guest: machine, RunDir: dir, BootID: "b"})
	require.NoError(t, err)
	image := statement.Event{Name: statement.Image, Data: statement.ImageData("app", "sha256:"+strings.Repeat("a", 64))}
	require.NoError(t, events.Record(t.Context(), image))

	i := newInstance(t)
	say := func() (*statement.Statement, error) {
		s, err := i.say()
		s.Log = events.View()
		return s, err
	}
	c := attest.NewCertificate(attest.CertificateOptions{Service: attest.New(attest.Options{Guest: machine}), Key: i.key, Statement: say})
	go c.Run(t.Context())
	current, err := c.Current(t.Context())
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(current.Certificate[0])
	require.NoError(t, err)
	r, err := ratls.Verify(cert, func(quote []byte) (*ratls.Quoted, error) {
		if _, err := tdx.Authenticate(quote, tdx.Options{Roots: lab.Roots()}, time.Now()); err != nil {
			return nil, err
		}
		data, err := tdx.ReportData(quote)
		if err != nil {
			return nil, err
		}
		rtmr3, err := tdx.RTMR3(quote)
		return &ratls.Quoted{ReportData: data, RTMR3: rtmr3}, err
	}, time.Now())
	require.NoError(t, err)
	require.Equal(t, statement.ByRegister, r.Facts.Evidence)
	require.Equal(t, []statement.Event{image}, r.Statement.Log.Events)
}
