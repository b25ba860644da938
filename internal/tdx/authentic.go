package tdx

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-tdx-guest/abi"
	"github.com/google/go-tdx-guest/verify"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// intelVendor is the vendor of Intel's quoting enclave.
var intelVendor = []byte{0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07}

// Parse reads a quote of exactly its length.
func Parse(quote []byte) (*Quote, error) {
	a, err := read(quote)
	if err != nil {
		return nil, err
	}
	return &a.Quote, nil
}

// Authenticated is a quote whose signatures lead to the root: a platform of
// Intel's signed it. Whether the platform is still to be trusted is for
// Appraise to say.
type Authenticated struct {
	Quote
	layout   *layout
	platform *platform // nil where the PPID is encrypted
}

func read(quote []byte) (*Authenticated, error) {
	l, err := cut(bytes.Clone(quote))
	if err != nil {
		return nil, err
	}
	a := &Authenticated{layout: l}
	if l.innerType != typePEMChain {
		a.EncryptedPPID = true
		return a, nil
	}
	if a.platform, err = readPlatform(l.inner); err != nil {
		return nil, err
	}
	a.FMSPC, a.CA = a.platform.fmspc, authorityName(a.platform.ca.Subject.CommonName)
	return a, nil
}

// Authenticate verifies all that can be verified of a quote without
// collateral: the platform's certificate, the quoting enclave's report, the
// attestation key and the signature, and that the TD is not open to debuggers.
// Collateral is fetched only for quotes that passed, so that nobody makes us
// ask for platforms that do not exist.
func Authenticate(quote []byte, o Options, now time.Time) (*Authenticated, error) {
	a, err := read(quote)
	if err != nil {
		return nil, err
	}
	switch {
	case a.EncryptedPPID && !o.AllowEncryptedPPID:
		return nil, api.Refuse(api.PPIDEncrypted, "certification data of type %d", a.layout.innerType)
	case a.EncryptedPPID:
		err = a.layout.verify(nil)
	default:
		if err = a.platform.verify(o.roots(), now); err == nil {
			err = a.layout.verify(a.platform.leaf)
		}
		if err == nil && a.CA == "platform" {
			err = second(a.layout.raw, o.roots(), now)
		}
	}
	if err == nil {
		err = a.layout.closed()
	}
	if err != nil {
		return nil, err
	}
	return a, nil
}

// verify verifies, from the platform's certificate down, who vouches for whom:
// certificate → enclave report → attestation key → quote. Without a
// certificate the enclave report vouches for nothing and is compared only.
func (l *layout) verify(pck *x509.Certificate) error {
	if pck != nil {
		signature, err := abi.SignatureToDER(l.enclaveSg)
		if err != nil {
			return api.Because(api.QEReportInvalid, err)
		}
		if err := pck.CheckSignature(x509.ECDSAWithSHA256, l.enclave, signature); err != nil {
			return api.Because(api.QEReportInvalid, err)
		}
	}
	var want [64]byte
	bound := sha256.Sum256(slices.Concat(l.key, l.authData))
	copy(want[:], bound[:])
	if !bytes.Equal(l.enclave.reportData(), want[:]) {
		return api.Refuse(api.QEReportInvalid, "the report vouches for another key")
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append([]byte{4}, l.key...))
	if err != nil {
		return &api.Error{Reason: api.QuoteMalformed, Detail: "attestation key", Err: err}
	}
	signature, err := abi.SignatureToDER(l.signature)
	if err != nil {
		return api.Because(api.QuoteSignature, err)
	}
	digest := sha256.Sum256(l.signed())
	if !ecdsa.VerifyASN1(key, digest[:], signature) {
		return api.Refuse(api.QuoteSignature, "the attestation key did not sign this")
	}
	return nil
}

// second has the library verify what was verified already: two
// implementations must agree before a quote is believed. The library knows the
// platform authority only. Its options are its working memory, so each call
// has its own.
func second(raw []byte, roots *x509.CertPool, now time.Time) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &api.Error{Reason: api.QuoteMalformed, Detail: "second reading", Err: fmt.Errorf("panic: %v", p)}
		}
	}()
	quote, err := abi.QuoteToProto(raw)
	if err != nil {
		return &api.Error{Reason: api.QuoteMalformed, Detail: "second reading", Err: brief(err)}
	}
	options := &verify.Options{TrustedRoots: roots, Now: &verify.TimeSet{PckCertChain: now}}
	if err := verify.TdxQuote(quote, options); err != nil {
		return &api.Error{Reason: api.QuoteSignature, Detail: "second verification", Err: brief(err)}
	}
	return nil
}

// closed refuses TDs that their host can read, and enclaves that are not
// Intel's on their face. The low byte of TDATTRIBUTES makes a TD untrusted
// whichever bit of it is set; bit 0 is DEBUG.
func (l *layout) closed() error {
	if !bytes.Equal(l.at(offVendor, lenVendor), intelVendor) {
		return api.Refuse(api.QEIdentityMismatch, "vendor %x is not Intel", l.at(offVendor, lenVendor))
	}
	const sgxDebug = 2
	if l.enclave.attributes()[0]&sgxDebug != 0 {
		return api.Refuse(api.QEIdentityMismatch, "the quoting enclave runs in debug mode")
	}
	switch low := l.at(offTDAttr, 8)[0]; {
	case low&1 != 0:
		return api.Refuse(api.DebugTD, "attributes %x", l.at(offTDAttr, 8))
	case low != 0:
		return api.Refuse(api.TDAttributes, "attributes %x make the VM untrusted", l.at(offTDAttr, 8))
	}
	return nil
}

func (a *Authenticated) evidence() *Evidence {
	l := a.layout
	m := api.Measurements{
		MRTD: l.measurement(offMRTD), MRSEAM: l.measurement(offMRSEAM),
		MRConfigID: l.measurement(offMRConfigID), MROwner: l.measurement(offMROwner),
		TDAttributes: l.at(offTDAttr, 8), XFAM: l.at(offXFAM, 8),
	}
	for i := range m.RTMRs {
		m.RTMRs[i] = l.measurement(offRTMR + 48*i)
	}
	return &Evidence{
		ReportData: [64]byte(l.at(offReportData, 64)), FMSPC: a.FMSPC,
		Measurements: m, MROwnerConfig: l.measurement(offMROwnerConf),
	}
}

// unauthenticated is what a quote with an encrypted PPID says: its own word.
func (a *Authenticated) unauthenticated() *Evidence {
	e := a.evidence()
	e.TCBStatus = Unauthenticated
	return e
}

func hexOf(b []byte) string { return hex.EncodeToString(b) }
