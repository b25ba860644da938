package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/telemark-otel/telemark/internal/devca"
	"github.com/telemark-otel/telemark/registryd/internal/auth"
)

// reloading is a registryd with TLS whose files the test replaces.
type reloading struct {
	*child
	dir string
	ca  *devca.Pair
}

func authority(t *testing.T, name string) *devca.Pair {
	t.Helper()
	ca, err := devca.NewCA(name, time.Now(), time.Hour)
	require.NoError(t, err)
	return ca
}

func issued(t *testing.T, ca *devca.Pair, name string) *devca.Pair {
	t.Helper()
	p, err := ca.Issue(name, []string{"127.0.0.1"}, time.Now(), time.Hour)
	require.NoError(t, err)
	return p
}

func startReloading(t *testing.T, clients *devca.Pair) *reloading {
	t.Helper()
	r := &reloading{dir: t.TempDir(), ca: authority(t, "servers")}
	r.serve(t, issued(t, r.ca, "registry"))
	r.write(t, "clients.crt", clients.CertificatePEM())
	r.child = startChild(t, r.dir, "--tls-cert", "tls.crt", "--tls-key", "tls.key", "--client-ca", "clients.crt")
	r.base = strings.Replace(r.base, "http:", "https:", 1)
	return r
}

func (r *reloading) write(t *testing.T, name string, content []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(r.dir, name), content, 0o600))
}

// serve writes what the registry shows.
func (r *reloading) serve(t *testing.T, p *devca.Pair) {
	t.Helper()
	key, err := p.KeyPEM()
	require.NoError(t, err)
	r.write(t, "tls.crt", p.CertificatePEM())
	r.write(t, "tls.key", key)
}

// client trusts r and shows p, if there is one, whether or not r asks for such a
// one. Its connections stay open.
func (r *reloading) client(t *testing.T, p *devca.Pair) *http.Client {
	t.Helper()
	c := &tls.Config{RootCAs: x509.NewCertPool(), ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	c.RootCAs.AddCert(r.ca.Certificate)
	if p != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &tls.Certificate{Certificate: [][]byte{p.Certificate.Raw}, PrivateKey: p.Key}, nil
		}
	}
	transport := &http.Transport{TLSClientConfig: c}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second} // for streams, too
}

// ask asks for what viewers see, without the administrator's token.
func (r *reloading) ask(client *http.Client, path string) (*http.Response, error) {
	req := r.request(context.Background(), http.MethodGet, path, "")
	req.Header.Del("Authorization")
	return client.Do(req)
}

// answer is ask to its end, so that the connection can be used again.
func (r *reloading) answer(t *testing.T, client *http.Client, path string) *http.Response {
	t.Helper()
	resp, err := r.ask(client, path)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp
}

func (r *reloading) code(t *testing.T, client *http.Client) int {
	t.Helper()
	return r.answer(t, client, "/v1/machines").StatusCode
}

// shown is whose certificate the registry shows.
func (r *reloading) shown(t *testing.T, client *http.Client) string {
	t.Helper()
	return r.answer(t, client, "/health").TLS.PeerCertificates[0].Subject.CommonName
}

// reload has the files read again and returns what the log says of it.
func (r *reloading) reload(t *testing.T) []string {
	t.Helper()
	require.NoError(t, r.cmd.Process.Signal(syscall.SIGHUP))
	return []string{r.said(t, "Certificates"), r.said(t, "auth file")}
}

func TestCertificateThatWasReplacedIsShownAndABadOneIsNot(t *testing.T) {
	r := startReloading(t, authority(t, "clients"))
	open := r.client(t, nil)
	require.Equal(t, "registry", r.shown(t, open))

	r.serve(t, issued(t, r.ca, "renewed"))
	require.Contains(t, r.reload(t)[0], "were read again")
	require.Equal(t, "renewed", r.shown(t, r.client(t, nil)))
	require.Equal(t, "registry", r.shown(t, open), "who is connected stays so")

	good := issued(t, r.ca, "good")
	for name, spoil := range map[string]func(){
		"key of another certificate":  func() { r.write(t, "tls.crt", issued(t, r.ca, "other").CertificatePEM()) },
		"key that everybody may read": func() { require.NoError(t, os.Chmod(filepath.Join(r.dir, "tls.key"), 0o644)) },
		"authority that is none":      func() { r.write(t, "clients.crt", []byte("none")) },
		"key among the authorities": func() {
			key, err := good.KeyPEM()
			require.NoError(t, err)
			r.write(t, "clients.crt", append(good.CertificatePEM(), key...))
		},
	} {
		r.serve(t, good)
		r.write(t, "clients.crt", authority(t, "clients").CertificatePEM())
		spoil()
		require.Contains(t, r.reload(t)[0], "the ones from before stay", name)
		require.Equal(t, "renewed", r.shown(t, r.client(t, nil)), name)
		require.NoError(t, os.Chmod(filepath.Join(r.dir, "tls.key"), 0o600))
	}
}

// The key of an authority was stolen, and the authority is taken from the file.
// The thief holds connections open, and the ticket of a session.
func TestClientOfAnAuthorityThatWasTakenAwayIsAStranger(t *testing.T) {
	stolen := authority(t, "stolen")
	r := startReloading(t, stolen)
	said, err := yaml.Marshal(auth.File{MTLS: []auth.FileMTLS{{Subject: "desk", Roles: []string{"viewer"}}}})
	require.NoError(t, err)
	r.write(t, "auth.yaml", said)
	require.Contains(t, r.reload(t)[1], "event streams begin anew")

	desk := issued(t, stolen, "desk")
	connected, listening, resuming := r.client(t, desk), r.client(t, desk), r.client(t, desk)
	for _, c := range []*http.Client{connected, listening, resuming} {
		require.Equal(t, http.StatusOK, r.code(t, c))
	}
	stream, err := r.ask(listening, "/v1/events")
	require.NoError(t, err)
	defer func() { _ = stream.Body.Close() }()
	require.Equal(t, http.StatusOK, stream.StatusCode)
	resuming.CloseIdleConnections()
	again := r.answer(t, resuming, "/v1/machines")
	require.True(t, again.TLS.DidResume, "a ticket is good while the authority is")
	require.Equal(t, http.StatusOK, again.StatusCode)

	clients := authority(t, "clients")
	r.write(t, "clients.crt", clients.CertificatePEM())
	r.write(t, "auth.yaml", []byte("broken: true\n"))
	log := r.reload(t)
	require.Contains(t, log[0], "were read again")
	require.Contains(t, log[1], "what it said before holds")

	_, err = io.Copy(io.Discard, stream.Body)
	require.NoError(t, err, "the stream has come to its end")
	require.Equal(t, http.StatusUnauthorized, r.code(t, connected), "on the connection from before")
	resuming.CloseIdleConnections()
	_, err = r.ask(resuming, "/v1/machines")
	require.ErrorContains(t, err, "certificate", "the ticket is worth nothing")
	require.Equal(t, http.StatusOK, r.code(t, r.client(t, issued(t, clients, "desk"))))
}
