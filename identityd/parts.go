package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/identityd/internal/attest"
	"github.com/telemark-otel/telemark/identityd/internal/config"
	"github.com/telemark-otel/telemark/identityd/internal/proxy"
	"github.com/telemark-otel/telemark/identityd/internal/server"
	"github.com/telemark-otel/telemark/identityd/internal/storage"
	"github.com/telemark-otel/telemark/internal/daemon"
	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/ratls"
)

// files are what flags name, read once. What is wrong with one is wrong usage.
type files struct {
	registryKey, registryCA []byte
	vaultCA                 *x509.CertPool // nil: the system's
}

func readFiles(c *config.Config) (*files, error) {
	f := &files{}
	var vaultCA []byte
	for _, one := range []struct {
		flag, name string
		into       *[]byte
	}{{"registry-key", c.RegistryKey, &f.registryKey}, {"registry-ca", c.RegistryCA, &f.registryCA}, {"vault-ca", c.VaultCA, &vaultCA}} {
		if one.name == "" {
			continue
		}
		b, err := os.ReadFile(one.name)
		if err != nil {
			return nil, fmt.Errorf("--%s: %w", one.flag, err)
		}
		*one.into = b
	}
	if vaultCA != nil {
		f.vaultCA = x509.NewCertPool()
		if !f.vaultCA.AppendCertsFromPEM(vaultCA) {
			return nil, fmt.Errorf("--vault-ca %s holds no certificate", c.VaultCA)
		}
	}
	if c.VaultTokenFile != "" {
		if _, err := daemon.Secret("vault-token-file", c.VaultTokenFile); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// openVault returns nil unless the volume's key comes from there.
func openVault(c *config.Config, f *files) (storage.Source, error) {
	if c.Storage() != storage.VaultKey {
		return nil, nil
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: f.vaultCA}
	return storage.Vault(storage.VaultOptions{
		Address: c.VaultAddress, Mount: c.VaultMount, Key: c.VaultKey, Transport: transport, Insecure: c.Dev,
		Token: func(context.Context) (string, error) { return daemon.Secret("vault-token-file", c.VaultTokenFile) },
	})
}

// openKeys derives the keys of this boot from the instance's.
func (p *program) openKeys(context.Context) error {
	seed := p.machine.Derive("ssh-host-key")
	p.ssh = ed25519.NewKeyFromSeed(seed[:])
	var err error
	if p.tls, err = tlsKey(p.machine.Derive); err != nil {
		return err
	}
	if p.doors.tls == nil && p.doors.publish == nil {
		return nil
	}
	p.tlsHash, err = ratls.KeyHash(&p.tls.PublicKey)
	return err
}

// tlsKey takes the first derived value that is a scalar of P-256: nearly every
// one is.
func tlsKey(derive func(purpose string) [32]byte) (*ecdsa.PrivateKey, error) {
	purpose := "tls-key"
	for n := 2; n < 16; n++ {
		scalar := derive(purpose)
		if key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar[:]); err == nil {
			return key, nil
		}
		purpose = "tls-key-" + strconv.Itoa(n)
	}
	return nil, errors.New("derive the TLS key: no value is a scalar of P-256")
}

var errStarting = errors.New("the service is starting")

// statement is what the instance says of itself now.
func (p *program) statement() (*statement.Statement, error) {
	c := p.control.Load()
	if c == nil {
		return nil, errStarting
	}
	return c.Statement()
}

func (p *program) openServer(context.Context) error {
	c := p.config
	p.certificate = attest.NewCertificate(attest.CertificateOptions{
		Service: p.attest, Key: p.tls, Statement: p.statement, Now: time.Now, Logger: p.logger.Named("certificate"),
	})
	if p.doors.publish != nil {
		var err error
		p.proxy, err = proxy.New(proxy.Options{
			Upstream: netip.AddrPortFrom(c.HostAddress(), uint16(c.Publish)), Instance: p.machine.Instance(),
			GetCertificate: p.certificate.Get, Connections: c.MaxConnections, Logger: p.logger.Named("proxy"),
		})
		if err != nil {
			return err
		}
	}
	o := server.Options{
		Control: p.control.Load(), Machine: p.machine, Events: p.events, Metrics: p.metrics, Fixed: p.fixed(),
		PerAddress: c.PerAddress(), PerToken: c.PerToken(), PerQuote: c.PerQuote(), RateTable: c.RateTable,
		MaxCalls: c.MaxCalls, StepTimeout: c.PullTimeout + stepTimeout, Changed: p.certificate.Changed, Logger: p.logger.Named("server"),
	}
	if p.registrar != nil {
		o.Registrar = p.registrar
	}
	p.server = server.New(o)
	return nil
}

// stepTimeout is what a step may take besides the pulling of an image.
const stepTimeout = 5 * time.Minute

// fixed is what never changes while the service runs.
func (p *program) fixed() api.State {
	s := api.State{
		Version:  daemon.Version(version),
		SSH:      api.SSH{Port: portOf(p.config.SSHListen), HostKey: api.Hex(p.ssh.Public().(ed25519.PublicKey))},
		Storage:  api.Storage{Source: p.config.StorageKey},
		Warnings: p.warnings(), RequireV1: p.config.RequireV1, RequireTLS: p.config.RequireTLS,
	}
	if p.doors.tls != nil {
		s.TLS = &api.TLS{Port: portOf(p.doors.tls.Addr().String()), Key: p.tlsHash}
	}
	return s
}

func portOf(address string) int {
	_, port, _ := net.SplitHostPort(address)
	n, _ := strconv.Atoi(port)
	return n
}

// facts are for the log when it serves.
func (p *program) facts() []zap.Field {
	out := []zap.Field{
		zap.String("address", p.doors.plain.Addr().String()), zap.String("instance", api.Hex(p.machine.Instance()).String()),
		zap.String("state", string(p.machine.View().State)), zap.String("version", daemon.Version(version)),
	}
	if p.doors.tls != nil {
		out = append(out, zap.String("tls", p.doors.tls.Addr().String()))
	}
	if p.doors.publish != nil {
		out = append(out, zap.String("publish", p.doors.publish.Addr().String()))
	}
	return out
}
