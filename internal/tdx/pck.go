package tdx

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	_ "embed"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-tdx-guest/pcs"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// The root of everything that Intel says of SGX and TDX platforms. SHA-256 of
// its DER: 44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3.
//
//go:embed intel_sgx_root_ca.pem
var intelRoot []byte

var intelRoots = func() *x509.CertPool {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(intelRoot) {
		panic("tdx: the embedded root is no certificate")
	}
	return pool
}()

// IntelRoots returns a pool with Intel's SGX root certificate alone.
func IntelRoots() *x509.CertPool { return intelRoots.Clone() }

// The names that Intel gives its certificates.
const (
	nameRoot       = "Intel SGX Root CA"
	namePlatform   = "Intel SGX PCK Platform CA"
	nameProcessor  = "Intel SGX PCK Processor CA"
	namePCK        = "Intel SGX PCK Certificate"
	nameTCBSigning = "Intel SGX TCB Signing"
)

// authorityName is the short name of an authority for platform certificates,
// as the service's URLs have it; empty for others.
func authorityName(common string) string {
	switch common {
	case namePlatform:
		return "platform"
	case nameProcessor:
		return "processor"
	default:
		return ""
	}
}

// platform is what a PCK certificate says of its machine.
type platform struct {
	leaf, ca, root *x509.Certificate
	ppid           []byte
	fmspc, pceID   string // lower case
	sgxSVN         []byte // 16
	pceSVN         uint16
}

// certificates reads exactly n certificates, with nothing but line breaks
// between and after them, and a NUL at the end where a C library left one.
func certificates(b []byte, n int) ([]*x509.Certificate, error) {
	b = bytes.TrimSuffix(b, []byte{0})
	out := make([]*x509.Certificate, 0, n)
	for {
		b = bytes.TrimLeft(b, "\r\n")
		if len(b) == 0 {
			break
		}
		if !bytes.HasPrefix(b, []byte("-----BEGIN CERTIFICATE-----")) {
			return nil, errors.New("something stands between certificates")
		}
		if len(out) == n {
			return nil, fmt.Errorf("more than %d certificates", n)
		}
		block, rest := pem.Decode(b)
		if block == nil || block.Type != "CERTIFICATE" || len(block.Headers) != 0 || bytes.Count(b[:len(b)-len(rest)], []byte("-----BEGIN")) != 1 {
			return nil, errors.New("not PEM of a certificate")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		if key, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
			return nil, errors.New("a certificate's key is not ECDSA P-256")
		}
		out, b = append(out, cert), rest
	}
	if len(out) != n {
		return nil, fmt.Errorf("%d certificates in place of %d", len(out), n)
	}
	return out, nil
}

// readPlatform reads the PEM chain of a quote. Nothing of it is verified.
func readPlatform(chain []byte) (*platform, error) {
	certs, err := certificates(chain, 3)
	if err != nil {
		return nil, &api.Error{Reason: api.QuoteMalformed, Detail: "certificate chain", Err: brief(err)}
	}
	p := &platform{leaf: certs[0], ca: certs[1], root: certs[2]}
	if p.leaf.Subject.CommonName != namePCK || authorityName(p.ca.Subject.CommonName) == "" || p.root.Subject.CommonName != nameRoot {
		return nil, api.Refuse(api.PCKUntrusted, "the certificates are named %.40q, %.40q and %.40q",
			p.leaf.Subject.CommonName, p.ca.Subject.CommonName, p.root.Subject.CommonName)
	}
	ext, err := pcs.PckCertificateExtensions(p.leaf)
	if err != nil {
		return nil, api.Because(api.PCKExtensions, brief(err))
	}
	if len(ext.PPID) != 32 || len(ext.FMSPC) != 12 || len(ext.PCEID) != 4 || len(ext.TCB.CPUSvnComponents) != 16 {
		return nil, api.Refuse(api.PCKExtensions, "one of PPID, FMSPC, PCE-ID and TCB is missing")
	}
	p.fmspc, p.pceID = ext.FMSPC, ext.PCEID
	p.sgxSVN, p.pceSVN = ext.TCB.CPUSvnComponents, ext.TCB.PCESvn
	p.ppid, err = hex.DecodeString(ext.PPID)
	if err != nil {
		return nil, api.Because(api.PCKExtensions, brief(err))
	}
	return p, nil
}

// verify verifies the chain to one of the roots at a time.
func (p *platform) verify(roots *x509.CertPool, now time.Time) error {
	between := x509.NewCertPool()
	between.AddCert(p.ca)
	chains, err := p.leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return api.Because(api.PCKUntrusted, brief(err))
	}
	for _, chain := range chains {
		if len(chain) == 3 && chain[1].Equal(p.ca) && chain[2].Equal(p.root) {
			return nil
		}
	}
	return api.Refuse(api.PCKUntrusted, "the chain that verifies is not the one that the quote carries")
}

// brief bounds what others put into an error: certificates' names, and bytes
// that could not be read.
func brief(err error) error { return fmt.Errorf("%.240q", err.Error()) }
