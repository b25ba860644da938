package nonceextension

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/config/configtls"
)

// authorityFiles is a CA with one certificate for 127.0.0.1, for both sides.
type authorityFiles struct{ ca, cert, key string }

func newCertificates(t *testing.T) authorityFiles {
	t.Helper()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	require.NoError(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		p := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(p, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return p
	}
	return authorityFiles{
		write("ca.pem", "CERTIFICATE", caDER), write("cert.pem", "CERTIFICATE", leafDER), write("key.pem", "PRIVATE KEY", keyDER),
	}
}

func TestIssuerAndRelaySpeakMutualTLS(t *testing.T) {
	files := newCertificates(t)
	server := configtls.NewDefaultServerConfig()
	server.CertFile, server.KeyFile, server.ClientCAFile = files.cert, files.key, files.ca
	issuing := start(t, componenttest.NewNopHost(), testConfig(t, func(c *Config) {
		c.ServerConfig.TLS = configoptional.Some(server)
	}))
	url := "https://" + issuing.cfg.ServerConfig.NetAddr.Endpoint

	client := configtls.NewDefaultClientConfig()
	client.CAFile, client.CertFile, client.KeyFile = files.ca, files.cert, files.key
	gateway := start(t, componenttest.NewNopHost(), testConfig(t, func(c *Config) {
		up := *createDefaultConfig().(*Config).Upstream.GetOrInsertDefault()
		up.Endpoint, up.TLS = url, client
		c.Upstream = configoptional.Some(up)
	}))
	var a nonceAnswer
	require.Equal(t, http.StatusOK, get(t, gateway.url+"/nonce?kid="+kid1, &a).StatusCode)

	stranger := plainClient(t)
	pool := x509.NewCertPool()
	pemCA, err := os.ReadFile(files.ca)
	require.NoError(t, err)
	require.True(t, pool.AppendCertsFromPEM(pemCA))
	stranger.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/health", nil)
	require.NoError(t, err)
	resp, err := stranger.Do(req)
	if err == nil {
		_ = resp.Body.Close()
	}
	require.Error(t, err, "a client without certificate gets no answer")
}
