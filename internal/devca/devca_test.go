package devca

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const day = 24 * time.Hour

var now = time.Now()

func newCA(t *testing.T) *Pair {
	t.Helper()
	ca, err := NewCA("test CA", now, 100*day)
	require.NoError(t, err)
	return ca
}

func issue(t *testing.T, ca *Pair, hosts ...string) *Pair {
	t.Helper()
	p, err := ca.Issue("gateway", hosts, now, 10*day)
	require.NoError(t, err)
	return p
}

func keyPair(t *testing.T, p *Pair) tls.Certificate {
	t.Helper()
	key, err := p.KeyPEM()
	require.NoError(t, err)
	pair, err := tls.X509KeyPair(p.CertificatePEM(), key)
	require.NoError(t, err)
	return pair
}

// handshake connects with mutual TLS and returns the client's error.
func handshake(t *testing.T, ca, server, client *Pair, name string) error {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(ca.Certificate)
	here, there := net.Pipe()
	go func() {
		s := tls.Server(there, &tls.Config{Certificates: []tls.Certificate{keyPair(t, server)}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13})
		_, _ = s.Write([]byte("x"))
		_ = there.Close()
	}()
	c := tls.Client(here, &tls.Config{Certificates: []tls.Certificate{keyPair(t, client)}, RootCAs: pool, ServerName: name, MinVersion: tls.VersionTLS13})
	defer func() { _ = here.Close() }()
	if err := c.Handshake(); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}

func TestCertificatesWorkOnBothSidesOfTLS(t *testing.T) {
	ca := newCA(t)
	server, client := issue(t, ca, "gateway", "127.0.0.1", "::1"), issue(t, ca, "agent")
	for _, name := range []string{"gateway", "127.0.0.1", "::1"} {
		require.NoError(t, handshake(t, ca, server, client, name), name)
	}
}

func TestACertificateForAnotherNameIsRefused(t *testing.T) {
	ca := newCA(t)
	require.Error(t, handshake(t, ca, issue(t, ca, "gateway"), issue(t, ca, "agent"), "collector"))
}

func TestACertificateOfAnotherAuthorityIsRefused(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	require.Error(t, handshake(t, ca, issue(t, other, "gateway"), issue(t, ca, "agent"), "gateway"))
	require.Error(t, handshake(t, ca, issue(t, ca, "gateway"), issue(t, other, "agent"), "gateway"))
}

func TestALeafCannotIssue(t *testing.T) {
	ca := newCA(t)
	leaf := issue(t, ca, "gateway")
	key, err := leaf.KeyPEM()
	require.NoError(t, err)
	_, err = ParseCA(leaf.CertificatePEM(), key)
	require.ErrorIs(t, err, ErrNotCA)

	// Whoever issues with it all the same makes what nobody accepts.
	forged := issue(t, leaf, "gateway")
	pool, middle := x509.NewCertPool(), x509.NewCertPool()
	pool.AddCert(ca.Certificate)
	middle.AddCert(leaf.Certificate)
	_, err = forged.Certificate.Verify(x509.VerifyOptions{Roots: pool, Intermediates: middle, DNSName: "gateway"})
	require.Error(t, err)
}

func TestAnAuthorityIsReadBack(t *testing.T) {
	ca := newCA(t)
	key, err := ca.KeyPEM()
	require.NoError(t, err)
	again, err := ParseCA(ca.CertificatePEM(), key)
	require.NoError(t, err)
	require.NoError(t, handshake(t, ca, issue(t, again, "gateway"), issue(t, ca, "agent"), "gateway"))
}

func TestKeyAndCertificateMustBelongTogether(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	key, err := other.KeyPEM()
	require.NoError(t, err)
	_, err = ParseCA(ca.CertificatePEM(), key)
	require.ErrorIs(t, err, ErrPair)
	_, err = ParseCA([]byte("no PEM"), key)
	require.ErrorContains(t, err, "CERTIFICATE")
	_, err = ParseCA(ca.CertificatePEM(), ca.CertificatePEM())
	require.ErrorContains(t, err, "PRIVATE KEY")
}

func TestCertificatesEndWithTheirAuthority(t *testing.T) {
	ca := newCA(t)
	p, err := ca.Issue("gateway", nil, now, 1000*day)
	require.NoError(t, err)
	require.Equal(t, ca.Certificate.NotAfter, p.Certificate.NotAfter)
	_, err = ca.Issue("gateway", nil, now.Add(101*day), day)
	require.ErrorIs(t, err, ErrExpired)
}

func TestSerialNumbersDiffer(t *testing.T) {
	ca := newCA(t)
	require.NotEqual(t, issue(t, ca, "a").Certificate.SerialNumber, issue(t, ca, "a").Certificate.SerialNumber)
}
