// Package tdxlab forges what Intel and a TDX host make, under a root of its
// own: platform certificates with the SGX extensions, quotes, TCB information,
// the identity of the quoting enclave, revocation lists, and a server that
// answers like a provisioning certificate caching service. A verifier that
// trusts the lab's root runs on it as it does on Intel's; nothing else of it
// has to be changed.
//
// It follows the Intel TDX DCAP Quoting Library API (quote version 4), the
// Intel SGX PCK Certificate and CRL Profile Specification 1.5, and the API of
// Intel's Provisioning Certification Service, version 4. It leaves out quotes
// of SGX enclaves, quotes of version 5 and the service's registration calls.
//
// Everything follows from a seed: the same seed gives the same root, keys,
// certificates and signatures.
package tdxlab

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"sync"
)

// The authorities that sign platform certificates.
const (
	PlatformCA  = "platform"
	ProcessorCA = "processor"
)

// Platform is a machine with TDX.
type Platform struct {
	PPID   [16]byte
	FMSPC  [6]byte
	PCEID  [2]byte
	SGXSVN [16]byte // of the SGX TCB components
	CPUSVN [16]byte
	PCESVN uint16
	CA     string // PlatformCA or ProcessorCA
}

// Lab is a root and what it signs. It is safe for concurrent use.
type Lab struct {
	seed     []byte
	platform Platform

	root, platformCA, processorCA, tcbSigning *authority
	pck                                       *ecdsa.PrivateKey
	attestation                               *ecdsa.PrivateKey

	mu   sync.Mutex
	leaf []byte // PEM chain of the unchanged platform, made once
}

// authority is a key and its certificate.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// New returns the lab of a seed, with one platform.
func New(seed string) *Lab {
	l := &Lab{seed: []byte(seed), platform: Platform{
		FMSPC:  [6]byte{0x50, 0x80, 0x6f},
		SGXSVN: [16]byte{5, 5, 2, 2, 3, 1, 0, 3},
		CPUSVN: [16]byte{5, 5, 2, 2, 3, 1, 0, 3},
		PCESVN: 11,
		CA:     PlatformCA,
	}}
	copy(l.platform.PPID[:], l.bytes("ppid"))
	l.root = l.authority("Intel SGX Root CA", nil)
	l.platformCA = l.authority("Intel SGX PCK Platform CA", l.root)
	l.processorCA = l.authority("Intel SGX PCK Processor CA", l.root)
	l.tcbSigning = l.authority("Intel SGX TCB Signing", l.root)
	l.pck = l.key("pck")
	l.attestation = l.key("attestation")
	return l
}

// Platform returns the lab's platform.
func (l *Lab) Platform() Platform { return l.platform }

// FMSPC returns the platform's FMSPC as lower-case hexadecimal digits.
func (l *Lab) FMSPC() string { return fmt.Sprintf("%x", l.platform.FMSPC) }

// Root returns the root certificate.
func (l *Lab) Root() *x509.Certificate { return l.root.cert }

// Roots returns a pool with the root certificate alone.
func (l *Lab) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(l.root.cert)
	return pool
}

// RootPEM returns the root certificate.
func (l *Lab) RootPEM() []byte { return encode(l.root.cert.Raw) }

func encode(certs ...[]byte) []byte {
	var out []byte
	for _, der := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

// bytes returns 32 bytes that follow from the seed and a label.
func (l *Lab) bytes(label string) []byte {
	mac := hmac.New(sha256.New, l.seed)
	mac.Write([]byte("tdxlab\x00" + label))
	return mac.Sum(nil)
}

// key returns the private key of a label.
func (l *Lab) key(label string) *ecdsa.PrivateKey {
	for n := uint32(0); ; n++ {
		scalar := l.bytes(string(binary.BigEndian.AppendUint32([]byte("key\x00"+label+"\x00"), n)))
		if key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar); err == nil {
			return key
		}
	}
}

func (l *Lab) serial(label string) *big.Int {
	b := l.bytes("serial\x00" + label)[:20]
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b)
}

// signer signs the same way each time (RFC 6979).
type signer struct{ key *ecdsa.PrivateKey }

func (s signer) Public() crypto.PublicKey { return &s.key.PublicKey }

func (s signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.key.Sign(nil, digest, opts)
}

// With returns the lab with another platform, under the same root.
func (l *Lab) With(edit func(*Platform)) *Lab {
	other := New(string(l.seed))
	edit(&other.platform)
	return other
}
