// Package tlsfiles is the TLS side of a listener (RFC 8446, RFC 5246) from files
// that can be replaced while it serves. Client certificates are asked for and
// verified, but not required: who shows none may have a token. What it leaves
// out: revocation lists; certificates for clients should be short-lived.
package tlsfiles

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
)

// Files are the certificates of a listener. They serve any number of goroutines.
type Files struct {
	cert, key, clientCA string
	current             atomic.Pointer[read]
}

// read is what the files held when they were read.
type read struct {
	config      *tls.Config
	authorities []*x509.Certificate // of clients
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
	now := &read{config: &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"},
	}}
	if f.clientCA != "" {
		if now.authorities, err = readAuthorities(f.clientCA); err != nil {
			return fmt.Errorf("--client-ca %w", err)
		}
		now.config.ClientAuth, now.config.ClientCAs = tls.VerifyClientCertIfGiven, x509.NewCertPool()
		for _, c := range now.authorities {
			now.config.ClientCAs.AddCert(c)
		}
	}
	f.current.Store(now)
	return nil
}

// readAuthorities reads every certificate of a file. One that cannot be read is
// an error: whom it vouches for would be refused without a word.
func readAuthorities(name string) ([]*x509.Certificate, error) {
	rest, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var found []*x509.Certificate
	for {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%s holds a block of type %q; only certificates belong there", name, b.Type)
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: certificate %d: %w", name, len(found)+1, err)
		}
		found = append(found, c)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s holds no certificate", name)
	}
	return found, nil
}

// Config is for tls.Config.GetConfigForClient.
func (f *Files) Config(*tls.ClientHelloInfo) (*tls.Config, error) {
	return f.current.Load().config, nil
}

// VouchesFor reports whether the certificate that a client showed, when its
// connection began, is one that would be taken now: that may be long ago, and its
// authority may have been taken away.
func (f *Files) VouchesFor(s *tls.ConnectionState) bool {
	authorities := f.current.Load().authorities
	return slices.ContainsFunc(s.VerifiedChains, func(chain []*x509.Certificate) bool {
		return slices.ContainsFunc(authorities, chain[len(chain)-1].Equal)
	})
}
