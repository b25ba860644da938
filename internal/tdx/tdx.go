// Package tdx verifies quotes of Intel TDX and holds them against a
// deployment's policy. It does no I/O: collateral is given to it
// (internal/tdx/collateral fetches and caches), and so is the time. Errors are
// *api.Error.
//
// It implements the verifier's side of the Intel TDX DCAP Quoting Library API
// (quote version 4 with certification data of type 6 around type 5), the Intel
// SGX PCK Certificate and CRL Profile 1.5, and the appraisal of TCB
// information (version 3) and enclave identity (version 2) of Intel's
// Provisioning Certification Service, version 4. It stands on
// google/go-tdx-guest, which reads the quote and the certificate's extensions
// and verifies the signatures a second time; lengths, collateral, revocation
// and TCB status are judged here.
//
// It leaves out quotes of version 5, attestation keys other than ECDSA P-256,
// TD migration, and fetching a platform's certificate for quotes that carry an
// encrypted PPID in its place: nothing of such a quote is verified.
package tdx

import (
	"crypto/x509"
	"time"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// Quote is a quote that could be read and whose certification data names its
// platform. Nothing of it is verified.
type Quote struct {
	FMSPC string // 12 lower-case hexadecimal digits
	CA    string // platform or processor
	// EncryptedPPID says that the quote carries no certificate but an
	// encrypted PPID. FMSPC and CA are empty then.
	EncryptedPPID bool
}

// Collateral is what Intel says of a platform, as its service answers.
type Collateral struct {
	TCBInfo, TCBInfoChain       []byte // JSON body; PEM chain of the header
	QEIdentity, QEIdentityChain []byte
	PCKCRL, PCKCRLChain         []byte // DER; PEM
	RootCRL                     []byte // DER
}

// Options of Verify.
type Options struct {
	Roots              *x509.CertPool // Intel's SGX root when nil
	AllowEncryptedPPID bool
}

func (o Options) roots() *x509.CertPool {
	if o.Roots != nil {
		return o.Roots
	}
	return intelRoots
}

// Unauthenticated is the TCB status of a quote with an encrypted PPID: it was
// read, and it is signed by the key that it carries, but nothing shows that
// the key, or anything else in it, is of Intel hardware.
const Unauthenticated = "Unauthenticated"

// Evidence is what a verified quote says.
type Evidence struct {
	ReportData     [64]byte
	PPID           []byte // 16 bytes; nil where it is encrypted
	FMSPC          string
	Measurements   api.Measurements
	MROwnerConfig  api.Hex
	TCBStatus      string // the worse of platform, module and quoting enclave
	PlatformStatus string
	ModuleStatus   string
	QEStatus       string
	Advisories     []string  // of all three, sorted
	TCBDate        time.Time // the oldest of the three levels' dates
	// BehindSince is when the status ceased to be UpToDate: the date of the
	// first newer level that Intel published. Zero while it is UpToDate.
	BehindSince time.Time
}

// Verify verifies a quote with its collateral at now.
func Verify(quote []byte, c *Collateral, o Options, now time.Time) (*Evidence, error) {
	a, err := Authenticate(quote, o, now)
	if err != nil {
		return nil, err
	}
	if a.EncryptedPPID {
		return a.unauthenticated(), nil
	}
	e, err := Open(c, o, now)
	if err != nil {
		return nil, err
	}
	return a.Appraise(e, now)
}
