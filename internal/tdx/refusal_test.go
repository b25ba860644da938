package tdx_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tdx"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

type (
	quote  = func(*tdxlab.Quote)
	intels = func(*tdxlab.Collateral)
	cert   = func(*tdxlab.Certificate)
)

func certificate(edit cert) quote {
	return func(q *tdxlab.Quote) { q.Certificate = append(q.Certificate, edit) }
}

// replaced changes a text that must be there.
func replaced(old, with string) func(string) string {
	return func(s string) string {
		if !strings.Contains(s, old) {
			panic("nothing to forge: " + old)
		}
		return strings.Replace(s, old, with, 1)
	}
}

// threats is one forgery each, with the reason that it has to be refused for.
var threats = []struct {
	name       string
	reason     api.Reason
	quote      quote
	collateral intels
}{
	// The quote's form.
	{"AuthDataLengthBeyondTheQuote", api.QuoteLength, func(q *tdxlab.Quote) { q.AuthDataLength = new(uint16(0xffff)) }, nil},
	{"AuthDataLengthOneTooLong", api.QuoteLength, func(q *tdxlab.Quote) { q.AuthDataLength = new(uint16(33)) }, nil},
	{"TrailingByte", api.QuoteLength, func(q *tdxlab.Quote) { q.Trailing = []byte{0} }, nil},
	{"TrailingByteThatTheLengthCovers", api.QuoteLength, func(q *tdxlab.Quote) { q.InsideCertificate = []byte{0} }, nil},
	{"LastByteMissing", api.QuoteLength, func(q *tdxlab.Quote) { q.MissingLast = 1 }, nil},
	{"SignatureLengthWraps", api.QuoteLength, func(q *tdxlab.Quote) { q.SignatureLength = new(uint32(0xffffffff)) }, nil},
	{"OuterLengthZero", api.QuoteLength, func(q *tdxlab.Quote) { q.OuterLength = new(uint32(0)) }, nil},
	{"InnerLengthWraps", api.QuoteLength, func(q *tdxlab.Quote) { q.InnerLength = new(uint32(0xfffffffa)) }, nil},
	{"Huge", api.QuoteLength, func(q *tdxlab.Quote) { q.Chain = make([]byte, tdx.MaxQuote) }, nil},
	{"OtherVersion", api.QuoteUnsupported, func(q *tdxlab.Quote) { q.Version = 5 }, nil},
	{"SGXEnclaveInPlaceOfTD", api.QuoteUnsupported, func(q *tdxlab.Quote) { q.TEEType = 0 }, nil},
	{"OtherKeyType", api.QuoteUnsupported, func(q *tdxlab.Quote) { q.KeyType = 3 }, nil},
	{"ChainWithoutEnclaveReport", api.QuoteCertificationData, func(q *tdxlab.Quote) { q.OuterType = 5 }, nil},
	{"PlainPPIDWithoutCertificate", api.QuoteCertificationData, func(q *tdxlab.Quote) { q.InnerType = 1 }, nil},
	{"EncryptedPPID", api.PPIDEncrypted, func(q *tdxlab.Quote) { q.InnerType = 2 }, nil},
	{"EncryptedPPIDLonger", api.PPIDEncrypted, func(q *tdxlab.Quote) { q.InnerType = 3 }, nil},
	{"EncryptedPPIDOfOtherLength", api.QuoteLength, func(q *tdxlab.Quote) { q.InnerType, q.EncryptedPPID = 2, make([]byte, 255) }, nil},
	{"ChainIsNoPEM", api.QuoteMalformed, func(q *tdxlab.Quote) { q.Chain = []byte("no certificate") }, nil},
	{"ChainWithoutRoot", api.QuoteMalformed, func(q *tdxlab.Quote) { q.Chain = lab.RootPEM() }, nil},
	{"TextBeforeChain", api.QuoteMalformed, func(q *tdxlab.Quote) { q.Chain = append([]byte("hidden\n"), lab.ChainPEM()...) }, nil},
	{"FourthCertificate", api.QuoteMalformed, func(q *tdxlab.Quote) { q.Chain = append(lab.ChainPEM(), lab.RootPEM()...) }, nil},
	{"AttestationKeyOffTheCurve", api.QuoteMalformed, func(q *tdxlab.Quote) { q.KeyOffCurve = true }, nil},

	// Who signed it.
	{"ForeignRoot", api.PCKUntrusted, func(q *tdxlab.Quote) { q.Chain = foreign.ChainPEM() }, nil},
	{"RootSwappedBehindTheChain", api.PCKUntrusted, func(q *tdxlab.Quote) { q.Chain = swapRoot() }, nil},
	{"SelfMadeCertificate", api.PCKUntrusted, certificate(func(c *tdxlab.Certificate) { c.SelfMade = true }), nil},
	{"TCBSigningKeyPosesAsPlatform", api.PCKUntrusted, certificate(func(c *tdxlab.Certificate) { c.Template.Subject.CommonName = "Intel SGX TCB Signing" }), nil},
	{"ExpiredCertificate", api.PCKUntrusted, certificate(func(c *tdxlab.Certificate) { c.Template.NotAfter = now.Add(-time.Second) }), nil},
	{"CertificateFromTheFuture", api.PCKUntrusted, certificate(func(c *tdxlab.Certificate) { c.Template.NotBefore = now.Add(time.Hour) }), nil},
	{"CertificateWithoutPPID", api.PCKExtensions, certificate(func(c *tdxlab.Certificate) { c.Extensions = []int{2, 3, 4, 5} }), nil},
	{"CertificateWithoutTCB", api.PCKExtensions, certificate(func(c *tdxlab.Certificate) { c.Extensions = []int{1, 3, 4, 5} }), nil},
	{"CertificateWithoutPCEID", api.PCKExtensions, certificate(func(c *tdxlab.Certificate) { c.Extensions = []int{1, 2, 4, 5} }), nil},
	{"CertificateWithoutFMSPC", api.PCKExtensions, certificate(func(c *tdxlab.Certificate) { c.Extensions = []int{1, 2, 3, 5} }), nil},
	{"SignatureChanged", api.QuoteSignature, func(q *tdxlab.Quote) { q.BadSignature = true }, nil},
	{"ReportDataChangedAfterSigning", api.QuoteSignature, func(q *tdxlab.Quote) { q.AfterSigning = func(b []byte) { b[631] ^= 1 } }, nil},
	{"MeasurementChangedAfterSigning", api.QuoteSignature, func(q *tdxlab.Quote) { q.AfterSigning = func(b []byte) { b[184] ^= 1 } }, nil},
	{"EnclaveSignatureChanged", api.QEReportInvalid, func(q *tdxlab.Quote) { q.BadQESignature = true }, nil},
	{"EnclaveVouchesForAnotherKey", api.QEReportInvalid, func(q *tdxlab.Quote) { q.ForeignKey = true }, nil},
	{"EnclaveVouchesForSomethingElse", api.QEReportInvalid, func(q *tdxlab.Quote) { q.BadQEReportData = true }, nil},
	{"EnclaveReportDataGoesOn", api.QEReportInvalid, func(q *tdxlab.Quote) { q.QEReportPadding = true }, nil},

	// The quoting enclave.
	{"ForeignEnclave", api.QEIdentityMismatch, func(q *tdxlab.Quote) { q.QEMRSigner[0] ^= 1 }, nil},
	{"ForeignVendor", api.QEIdentityMismatch, func(q *tdxlab.Quote) { q.QEVendor[0] ^= 1 }, nil},
	{"OtherEnclaveOfIntels", api.QEIdentityMismatch, func(q *tdxlab.Quote) { q.QEProdID = 1 }, nil},
	{"EnclaveMiscSelect", api.QEIdentityMismatch, func(q *tdxlab.Quote) { q.QEMiscSelect = 1 }, nil},
	{"EnclaveAttributes", api.QEIdentityMismatch, func(q *tdxlab.Quote) { q.QEAttributes[1] = 1 }, nil},
	{"EnclaveInDebugMode", api.QEIdentityMismatch, func(q *tdxlab.Quote) { q.QEAttributes[0] |= 2 }, nil},
	{"EnclaveBelowEveryLevel", api.TCBStatusNotAccepted, func(q *tdxlab.Quote) { q.QESVN = 1 }, nil},

	// The TD and its module.
	{"DebugTD", api.DebugTD, func(q *tdxlab.Quote) { q.TDAttributes[0] = 1 }, nil},
	{"TDUntrustedByAReservedBit", api.TDAttributes, func(q *tdxlab.Quote) { q.TDAttributes[0] = 0x80 }, nil},
	{"ForeignModule", api.SEAMMismatch, func(q *tdxlab.Quote) { q.MRSignerSEAM[0] = 1 }, nil},
	{"DebugModule", api.SEAMMismatch, func(q *tdxlab.Quote) { q.SEAMAttributes[0] = 1 }, nil},
	{"ForeignModuleOfNewerVersion", api.SEAMMismatch, func(q *tdxlab.Quote) { q.TEETCBSVN = [16]byte{4, 1, 5}; q.MRSignerSEAM[47] = 1 }, nil},
	{"ModuleThatIntelDoesNotKnow", api.SEAMMismatch, func(q *tdxlab.Quote) { q.TEETCBSVN = [16]byte{4, 9, 5} }, nil},
	{"ModuleBelowEveryLevel", api.TCBStatusNotAccepted, func(q *tdxlab.Quote) { q.TEETCBSVN = [16]byte{1, 1, 5} }, nil},
	{"PlatformBelowEveryLevel", api.TCBStatusNotAccepted, certificate(func(c *tdxlab.Certificate) { c.SGXSVN[7] = 0 }), nil},

	// Revocation.
	{"RevokedPlatform", api.PCKRevoked, nil, func(c *tdxlab.Collateral) { c.PCKCRL.Revoked = serials(0) }},
	{"RevokedAuthority", api.PCKRevoked, nil, func(c *tdxlab.Collateral) { c.RootCRL.Revoked = serials(1) }},
	{"RevokedTCBSigning", api.CollateralUntrusted, nil, func(c *tdxlab.Collateral) { c.RootCRL.Revoked = serials(2) }},
	{"ForgedListOfPlatforms", api.CollateralUntrusted, nil, func(c *tdxlab.Collateral) { c.PCKCRL.ForeignKey = true }},
	{"ForgedListOfAuthorities", api.CollateralUntrusted, nil, func(c *tdxlab.Collateral) { c.RootCRL.ForeignKey = true }},
	{"ListOfThePast", api.CollateralExpired, nil, func(c *tdxlab.Collateral) { c.PCKCRL.NextUpdate = now.Add(-time.Second) }},
	{"RootListOfThePast", api.CollateralExpired, nil, func(c *tdxlab.Collateral) { c.RootCRL.NextUpdate = now.Add(-time.Second) }},
	{"ListOfTheFuture", api.CollateralExpired, nil, func(c *tdxlab.Collateral) { c.PCKCRL.ThisUpdate = now.Add(time.Hour) }},
	{"ListThatIsLimited", api.CollateralMalformed, nil, func(c *tdxlab.Collateral) {
		c.PCKCRL.Template = func(l *x509.RevocationList) {
			l.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: []byte{0x30, 0}}}
		}
	}},

	// Collateral: who signed it.
	{"CollateralOfForeignRoot", api.CollateralUntrusted, nil, func(c *tdxlab.Collateral) {
		c.TCBInfoChain = foreign.Collateral(now).TCBInfoChain
	}},
	{"CollateralSignedByAnotherKey", api.CollateralUntrusted, nil, func(c *tdxlab.Collateral) { c.TCBInfo.ForeignKey = true }},
	{"TCBInfoChangedAfterSigning", api.CollateralUntrusted, nil, func(c *tdxlab.Collateral) { c.TCBInfo.After = replaced("OutOfDate", "UpToDate") }},
	{"TCBInfoWithASpaceMore", api.CollateralUntrusted, nil, func(c *tdxlab.Collateral) { c.TCBInfo.After = replaced(`"fmspc":`, `"fmspc": `) }},
	{"IdentityChangedAfterSigning", api.CollateralUntrusted, nil, func(c *tdxlab.Collateral) {
		c.QEIdentity.After = replaced(`"isvprodid":2`, `"isvprodid":1`)
	}},
	{"IdentitySignatureChanged", api.CollateralUntrusted, nil, func(c *tdxlab.Collateral) { c.QEIdentity.BadSignature = true }},
	{"CertificateAuthorityPosesAsTCBSigning", api.CollateralUntrusted, nil, func(c *tdxlab.Collateral) {
		c.TCBInfoChain = lab.Collateral(now).PCKCRLChain
	}},
	{"TCBSigningPosesAsCertificateAuthority", api.CollateralUntrusted, nil, func(c *tdxlab.Collateral) {
		c.PCKCRLChain = lab.Collateral(now).TCBInfoChain
	}},
	{"ExpiredSigner", api.CollateralExpired, nil, func(c *tdxlab.Collateral) {
		c.Signer = func(t *x509.Certificate) { t.NotAfter = now.Add(-time.Second) }
	}},
	{"IssuerChainIsNoPEM", api.CollateralMalformed, nil, func(c *tdxlab.Collateral) { c.QEIdentityChain = []byte("none") }},
	{"IssuerChainWithMore", api.CollateralMalformed, nil, func(c *tdxlab.Collateral) {
		c.TCBInfoChain = append(lab.Collateral(now).TCBInfoChain, lab.RootPEM()...)
	}},

	// Collateral: what it says.
	{"CaseVariantBesideTheSignedMember", api.CollateralMalformed, nil, func(c *tdxlab.Collateral) {
		c.TCBInfo.After = replaced(`,"signature"`, `,"TcbInfo":{"id":"TDX"},"signature"`)
	}},
	{"CaseVariantInPlaceOfTheMember", api.CollateralMalformed, nil, func(c *tdxlab.Collateral) { c.TCBInfo.After = replaced(`"tcbInfo"`, `"TcbInfo"`) }},
	{"MemberTwice", api.CollateralMalformed, nil, func(c *tdxlab.Collateral) { c.TCBInfo.After = replaced(`,"signature"`, `,"tcbInfo":{},"signature"`) }},
	{"MemberTwiceInside", api.CollateralMalformed, nil, func(c *tdxlab.Collateral) { c.TCBInfo.Before = replaced(`"tcbType":0`, `"tcbType":0,"tcbType":0`) }},
	{"CaseVariantInside", api.CollateralMalformed, nil, func(c *tdxlab.Collateral) {
		c.TCBInfo.Before = replaced(`"tcbStatus":"OutOfDate"`, `"tcbStatus":"OutOfDate","TcbStatus":"UpToDate"`)
	}},
	{"MemberMore", api.CollateralMalformed, nil, func(c *tdxlab.Collateral) { c.TCBInfo.Before = replaced(`"tcbType":0`, `"tcbType":0,"override":true`) }},
	{"MemberLess", api.CollateralMalformed, nil, func(c *tdxlab.Collateral) { c.TCBInfo.Before = replaced(`"tcbType":0,`, ``) }},
	{"SomethingAfterTheAnswer", api.CollateralMalformed, nil, func(c *tdxlab.Collateral) { c.TCBInfo.After = func(s string) string { return s + "{}" } }},
	{"NullInPlaceOfANumber", api.CollateralMalformed, nil, func(c *tdxlab.Collateral) { c.TCBInfo.Before = replaced(`"pcesvn":11`, `"pcesvn":null`) }},
	{"NumberTooLarge", api.CollateralMalformed, nil, func(c *tdxlab.Collateral) { c.TCBInfo.Before = replaced(`"svn":5`, `"svn":261`) }},
	{"FifteenComponents", api.CollateralMalformed, nil, func(c *tdxlab.Collateral) { c.TCBInfo.Before = replaced(`,{"svn":3}`, ``) }},
	{"NoLevels", api.CollateralMalformed, nil, func(c *tdxlab.Collateral) { c.TCBInfo.Levels = nil }},
	{"InventedStatus", api.CollateralMalformed, nil, func(c *tdxlab.Collateral) { c.TCBInfo.Levels[0].Status = "Fine" }},
	{"TCBInfoOfSGX", api.CollateralMalformed, nil, func(c *tdxlab.Collateral) { c.TCBInfo.ID = "SGX" }},
	{"TCBInfoOfOtherVersion", api.CollateralMalformed, nil, func(c *tdxlab.Collateral) { c.TCBInfo.Version = 2 }},
	{"IdentityOfTheEnclaveForSGX", api.CollateralMalformed, nil, func(c *tdxlab.Collateral) { c.QEIdentity.ID = "QE" }},
	{"ModuleTwice", api.CollateralMalformed, nil, func(c *tdxlab.Collateral) { c.TCBInfo.Modules[0].ID = "TDX_01" }},
	{"ExpiredTCBInfo", api.CollateralExpired, nil, func(c *tdxlab.Collateral) { c.TCBInfo.NextUpdate = now.Add(-time.Second) }},
	{"ExpiredIdentity", api.CollateralExpired, nil, func(c *tdxlab.Collateral) { c.QEIdentity.NextUpdate = now.Add(-time.Second) }},
	{"TCBInfoOfTheFuture", api.CollateralExpired, nil, func(c *tdxlab.Collateral) { c.TCBInfo.IssueDate = now.Add(time.Hour) }},
	{"TCBInfoOfAnotherPlatform", api.CollateralMismatch, nil, func(c *tdxlab.Collateral) { c.TCBInfo.FMSPC = "00906ed50000" }},
	{"TCBInfoOfAnotherPCE", api.CollateralMismatch, nil, func(c *tdxlab.Collateral) { c.TCBInfo.PCEID = "0001" }},
	{"ListOfAnotherAuthority", api.CollateralMismatch, certificate(func(c *tdxlab.Certificate) { c.CA = tdxlab.ProcessorCA }), nil},
}

func serials(i int) []*big.Int {
	pck, ca, signing := lab.Serials()
	return []*big.Int{[]*big.Int{pck, ca, signing}[i]}
}

// swapRoot is the lab's leaf and authority before another root.
func swapRoot() []byte {
	chain := string(lab.ChainPEM())
	return append([]byte(chain[:strings.LastIndex(chain, "-----BEGIN")]), foreign.RootPEM()...)
}

func TestForgeriesAreRefused(t *testing.T) {
	for _, threat := range threats {
		t.Run(threat.name, func(t *testing.T) {
			var quotes []quote
			if threat.quote != nil {
				quotes = append(quotes, threat.quote)
			}
			var collaterals []intels
			if threat.collateral != nil {
				collaterals = append(collaterals, threat.collateral)
			}
			e, err := tdx.Verify(lab.Quote(report, quotes...), collateral(collaterals...), trusted, now)
			require.True(t, e == nil, "a refusal comes without evidence")
			requireReason(t, threat.reason, err)
		})
	}
}

// Every reason of the family is met by a forgery above or by the test named.
func TestEveryReasonIsTested(t *testing.T) {
	elsewhere := map[api.Reason]string{
		api.MeasurementMismatch:   "TestUnpinnedVMIsRefused",
		api.AdvisoryNotAccepted:   "TestAdvisoryThatNobodyAcceptedIsRefused",
		api.CollateralUnavailable: "TestMissingCollateralIsRefused",
		api.CollateralRolledBack:  "collateral: TestRolledBackCollateralIsRefused",
	}
	met := map[api.Reason]bool{}
	for _, threat := range threats {
		met[threat.reason] = true
	}
	family := false
	for _, r := range api.Reasons() {
		family = family || r == api.QuoteMalformed
		if family && elsewhere[r] == "" {
			require.True(t, met[r], "no forgery is refused for %s", r)
		}
		if r == api.CollateralMismatch {
			return // the last of the family
		}
	}
	t.Fatal("the family has no end")
}

func TestMissingCollateralIsRefused(t *testing.T) {
	_, err := tdx.Verify(lab.Quote(report), nil, trusted, now)
	requireReason(t, api.CollateralUnavailable, err)
}

func TestLabRootIsNotTrustedByDefault(t *testing.T) {
	_, err := tdx.Verify(lab.Quote(report), collateral(), tdx.Options{}, now)
	requireReason(t, api.PCKUntrusted, err)
}

// What a forger writes into his certificates stays short in our logs.
func TestNamesInForgedCertificatesAreBounded(t *testing.T) {
	long := strings.Repeat("\n\x1b[31m", 1000)
	for _, edit := range []cert{
		func(c *tdxlab.Certificate) { c.SelfMade = true; c.Template.Subject.Organization = []string{long} },
		func(c *tdxlab.Certificate) { c.Template.Subject.CommonName = long },
		func(c *tdxlab.Certificate) {
			c.Template.NotAfter = now.Add(-time.Hour)
			c.Template.Subject.Organization = []string{long}
		},
	} {
		_, err := tdx.Verify(lab.Quote(report, certificate(edit)), collateral(), trusted, now)
		requireReason(t, api.PCKUntrusted, err)
		require.Less(t, len(err.Error()), 600)
		require.NotContains(t, err.Error(), "\n")
	}
}
