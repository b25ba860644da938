// Package tlsfiles is the TLS side of a listener (RFC 8446, RFC 5246) from files
// that can be replaced while it serves. Client certificates are asked for and
// verified, but not required: who shows none may have a token. What it leaves
// out: revocation lists; certificates for clients should be short-lived.
package tlsfiles

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync/atomic"
)

// Files are the certificates of a listener. They serve any number of goroutines.
type Files struct {
	cert, key, clientCA string
	current             atomic.Pointer[tls.Config]
}

// Open reads the files; clientCA may be "".
func Open(cert, key, clientCA string) (*Files, error) {
	f := &Files{cert: cert, key: key, clientCA: clientCA}
	return f, f.Reload()
}

// Reload reads the files again. What was there before stays when that fails.
func (f *Files) Reload() error {
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return fmt.Errorf("--tls-cert %s and --tls-key %s: %w", f.cert, f.key, err)
	}
	info, err := os.Stat(f.key)
	if err != nil {
		return fmt.Errorf("--tls-key: %w", err)
	}
	if info.Mode().Perm()&0o007 != 0 {
		return fmt.Errorf("--tls-key %s has mode %#o: everybody on this machine could be this server; run chmod 600 on it", f.key, info.Mode().Perm())
	}
	c := &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"},
	}
	if f.clientCA != "" {
		b, err := os.ReadFile(f.clientCA)
		if err != nil {
			return fmt.Errorf("--client-ca: %w", err)
		}
		c.ClientCAs = x509.NewCertPool()
		if !c.ClientCAs.AppendCertsFromPEM(b) {
			return fmt.Errorf("--client-ca %s holds no certificate", f.clientCA)
		}
		c.ClientAuth = tls.VerifyClientCertIfGiven
	}
	f.current.Store(c)
	return nil
}

// Config is for tls.Config.GetConfigForClient.
func (f *Files) Config(*tls.ClientHelloInfo) (*tls.Config, error) { return f.current.Load(), nil }
