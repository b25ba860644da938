package tpmattest_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"slices"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tpmattest"
	"github.com/telemark-otel/telemark/internal/tpmattest/attesttest"
)

// bench is one TPM with an attestation key and a signing key.
type bench struct {
	m       *attesttest.TPM
	ak, key *attesttest.Object
}

func newBench(t testing.TB) *bench {
	t.Helper()
	m := attesttest.New(t)
	return &bench{m: m, ak: m.Primary(tpm2.TPMRHEndorsement, attesttest.AK()), key: m.Primary(tpm2.TPMRHOwner, attesttest.Key())}
}

func TestReplayedCertifyIsRefused(t *testing.T) {
	b := newBench(t)
	a := b.m.Certify(b.ak, b.key, question("yesterday"))
	require.NoError(t, tpmattest.VerifyCertify(&a, parseAK(t, b.ak), parseKey(t, b.key), question("yesterday")))
	err := tpmattest.VerifyCertify(&a, parseAK(t, b.ak), parseKey(t, b.key), question("today"))
	refusedFor(t, api.CertifyNonce, err)
	err = tpmattest.VerifyCertify(&a, parseAK(t, b.ak), parseKey(t, b.key), question("yesterday")[:31])
	refusedFor(t, api.CertifyNonce, err)
}

func TestCertifyOfAnotherKeyIsRefused(t *testing.T) {
	b := newBench(t)
	other := b.m.Primary(tpm2.TPMRHOwner, attesttest.ECDSA(tpm2.TPMECCNistP256, attesttest.KeyAttributes, "other"))
	a := b.m.Certify(b.ak, other, question("q"))
	refusedFor(t, api.CertifyName, tpmattest.VerifyCertify(&a, parseAK(t, b.ak), parseKey(t, b.key), question("q")))
}

// The same key with other attributes has another Name.
func TestCertifyOfTheKeyWithOtherAttributesIsRefused(t *testing.T) {
	b := newBench(t)
	restricted := b.m.Primary(tpm2.TPMRHOwner, attesttest.ECDSA(tpm2.TPMECCNistP256, attesttest.AKAttributes, "key"))
	claimed, err := tpmattest.ParseKey(withAttributes(restricted.Public, without(bitRestricted)))
	require.NoError(t, err)
	a := b.m.Certify(b.ak, restricted, question("q"))
	refusedFor(t, api.CertifyName, tpmattest.VerifyCertify(&a, parseAK(t, b.ak), claimed, question("q")))
}

func TestCertifyByAnotherAKIsRefused(t *testing.T) {
	b := newBench(t)
	other := b.m.Primary(tpm2.TPMRHEndorsement, attesttest.ECDSA(tpm2.TPMECCNistP256, attesttest.AKAttributes, "other"))
	a := b.m.Certify(other, b.key, question("q"))
	refusedFor(t, api.CertifySignature, tpmattest.VerifyCertify(&a, parseAK(t, b.ak), parseKey(t, b.key), question("q")))
}

// The TPM does not certify a key of which it has the public area only, so that
// a key of software gets no attestation even with attributes that are lies.
func TestTPMDoesNotCertifyASoftwareKey(t *testing.T) {
	b := newBench(t)
	software, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	point, err := software.PublicKey.Bytes()
	require.NoError(t, err)
	public := slices.Concat(b.key.Public[:len(b.key.Public)-68], []byte{0, 32}, point[1:33], []byte{0, 32}, point[33:])
	key, err := tpmattest.ParseKey(public)
	require.NoError(t, err, "its public area looks right")

	loaded, err := b.m.LoadExternal(public)
	if err == nil {
		_, err = b.m.TryCertify(b.ak, loaded, question("q"))
	}
	require.Error(t, err, "the TPM vouched for a key that it does not hold")

	a := b.m.Certify(b.ak, b.key, question("q"))
	refusedFor(t, api.CertifyName, tpmattest.VerifyCertify(&a, parseAK(t, b.ak), key, question("q")))
}

// An unrestricted key signs anything, also what looks like a TPM's word: it is
// what ParseAK is there for.
func TestUnrestrictedAKForgesAnAttestation(t *testing.T) {
	b := newBench(t)
	liar := b.m.Primary(tpm2.TPMRHOwner, attesttest.ECDSA(tpm2.TPMECCNistP256, attesttest.KeyAttributes, "liar"))
	real := b.m.Certify(b.ak, b.key, question("q"))
	digest := sha256.Sum256(real.Attest)
	signature, err := b.m.Sign(liar, digest[:])
	require.NoError(t, err)
	forged := api.Attestation{Attest: real.Attest, Signature: signature}

	_, err = tpmattest.ParseAK(liar.Public)
	refusedFor(t, api.AKNotRestricted, err)
	// With the lie in the public area its Name is another one, so that the
	// credential for it is not opened; but the signature is good.
	lie, err := tpmattest.ParseAK(withAttributes(liar.Public, with(bitRestricted)))
	require.NoError(t, err)
	require.NotEqual(t, liar.Name.Buffer, lie.Name)
	require.NoError(t, tpmattest.VerifyCertify(&forged, lie, parseKey(t, b.key), question("q")))

	_, err = b.m.Sign(b.ak, digest[:])
	require.Error(t, err, "a restricted key does not sign what begins with the TPM's magic")
}

func TestSpoiltCertifyIsRefused(t *testing.T) {
	b := newBench(t)
	good := b.m.Certify(b.ak, b.key, question("q"))
	n := len(good.Attest)
	for name, c := range map[string]struct {
		attest, signature []byte
		reason            api.Reason
	}{
		"magic":               {patched(good.Attest, 0, 0), good.Signature, api.CertifyMagic},
		"a quote":             {patched(good.Attest, 5, 0x18), good.Signature, api.CertifyType},
		"an NV certification": {patched(good.Attest, 5, 0x14), good.Signature, api.CertifyType},
		"nothing":             {nil, good.Signature, api.CertifyMalformed},
		"five bytes":          {good.Attest[:5], good.Signature, api.CertifyMalformed},
		"too large":           {make([]byte, api.MaxAttest+1), good.Signature, api.CertifyMalformed},
		"signer of no form":   {patched(good.Attest, 8, 0xFF), good.Signature, api.CertifyMalformed},
		"changed":             {patched(good.Attest, n-1, ^good.Attest[n-1]), good.Signature, api.CertifySignature},
		"cut short":           {good.Attest[:n-1], good.Signature, api.CertifySignature},
		"trailing byte":       {append(good.Attest[:n:n], 0), good.Signature, api.CertifySignature},
		"no signature":        {good.Attest, nil, api.CertifyMalformed},
		"signature cut":       {good.Attest, good.Signature[:len(good.Signature)-1], api.CertifyMalformed},
		"signature longer":    {good.Attest, append(slices.Clone(good.Signature), 0), api.CertifyMalformed},
		"signature changed":   {good.Attest, patched(good.Signature, 10, ^good.Signature[10]), api.CertifySignature},
		"signature by SHA-1":  {good.Attest, patched(good.Signature, 2, 0, 4), api.CertifySignature},
		"signature by RSA":    {good.Attest, patched(good.Signature, 0, 0, 0x14), api.CertifySignature},
		"signature too large": {good.Attest, make([]byte, api.MaxSignature+1), api.CertifyMalformed},
		"all zero":            {good.Attest, patched(good.Signature, 4, make([]byte, 68)...), api.CertifyMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			a := api.Attestation{Attest: c.attest, Signature: c.signature}
			refusedFor(t, c.reason, tpmattest.VerifyCertify(&a, parseAK(t, b.ak), parseKey(t, b.key), question("q")))
		})
	}
}

// A restricted key in software, as an attacker with a genuine AK does not have
// it, shows what is refused behind the signature.
func TestMalformedCertifyInfoUnderAGoodSignatureIsRefused(t *testing.T) {
	b := newBench(t)
	good := b.m.Certify(b.ak, b.key, question("q"))
	liar := b.m.Primary(tpm2.TPMRHOwner, attesttest.ECDSA(tpm2.TPMECCNistP256, attesttest.KeyAttributes, "liar"))
	lie, err := tpmattest.ParseAK(withAttributes(liar.Public, with(bitRestricted)))
	require.NoError(t, err)
	n := len(good.Attest)
	for name, attest := range map[string][]byte{
		"trailing byte":                append(good.Attest[:n:n], 0),
		"cut short":                    good.Attest[:n-1],
		"qualified name of no form":    patched(good.Attest, n-34, 0xFF),
		"name of no form":              patched(good.Attest, n-34-2-34, 0xFF),
		"no qualified name":            append(good.Attest[:n-36:n-36], 0, 0),
		"safe is neither yes nor no":   patched(good.Attest, 6+2+34+2+32+16, 7),
		"a signature over other bytes": nil,
	} {
		t.Run(name, func(t *testing.T) {
			digest := sha256.Sum256(attest)
			signature, err := b.m.Sign(liar, digest[:])
			require.NoError(t, err)
			a := api.Attestation{Attest: attest, Signature: signature}
			refusedFor(t, api.CertifyMalformed, tpmattest.VerifyCertify(&a, lie, parseKey(t, b.key), question("q")))
		})
	}
}

func TestQuoteOfOtherRegistersIsRefused(t *testing.T) {
	b := newBench(t)
	ak := parseAK(t, b.ak)
	q := b.m.Quote(b.ak, question("q"), tpm2.TPMAlgSHA256, 0, 7)
	require.NoError(t, tpmattest.VerifyQuote(q, ak, question("q"), []uint{7, 0}))
	for name, pcrs := range map[string][]uint{"fewer": {0}, "more": {0, 7, 8}, "none": nil, "one that does not exist": {0, 7, 24}} {
		t.Run(name, func(t *testing.T) {
			refusedFor(t, api.PCRQuoteSelection, tpmattest.VerifyQuote(q, ak, question("q"), pcrs))
		})
	}
	sha1 := b.m.Quote(b.ak, question("q"), tpm2.TPMAlgSHA1, 0, 7)
	require.Contains(t, []api.Reason{api.PCRQuoteSelection}, api.ReasonOf(tpmattest.VerifyQuote(sha1, ak, question("q"), []uint{0, 7})), "another bank")
}

func TestReplayedQuoteIsRefused(t *testing.T) {
	b := newBench(t)
	q := b.m.Quote(b.ak, question("yesterday"), tpm2.TPMAlgSHA256, 0)
	refusedFor(t, api.PCRQuoteNonce, tpmattest.VerifyQuote(q, parseAK(t, b.ak), question("today"), []uint{0}))
}

func TestQuoteWithOtherValuesIsRefused(t *testing.T) {
	b := newBench(t)
	ak := parseAK(t, b.ak)
	b.m.Extend(7, question("boot"))
	fresh := func() *api.PCRQuote { return b.m.Quote(b.ak, question("q"), tpm2.TPMAlgSHA256, 7, 8) }
	require.NoError(t, tpmattest.VerifyQuote(fresh(), ak, question("q"), []uint{7, 8}))

	q := fresh()
	q.PCRs[7] = make([]byte, 32) // hides that something was measured
	refusedFor(t, api.PCRQuoteDigest, tpmattest.VerifyQuote(q, ak, question("q"), []uint{7, 8}))
	q = fresh()
	q.PCRs[7], q.PCRs[8] = append(q.PCRs[7], q.PCRs[8][0]), q.PCRs[8][1:] // moves a byte
	refusedFor(t, api.PCRQuoteMalformed, tpmattest.VerifyQuote(q, ak, question("q"), []uint{7, 8}))
	q = fresh()
	q.PCRs[9] = make([]byte, 32)
	refusedFor(t, api.PCRQuoteSelection, tpmattest.VerifyQuote(q, ak, question("q"), []uint{7, 8}))
	delete(q.PCRs, 8)
	refusedFor(t, api.PCRQuoteSelection, tpmattest.VerifyQuote(q, ak, question("q"), []uint{7, 8}))
}

func TestSpoiltQuoteIsRefused(t *testing.T) {
	b := newBench(t)
	good := b.m.Quote(b.ak, question("q"), tpm2.TPMAlgSHA256, 7)
	certify := b.m.Certify(b.ak, b.key, question("q"))
	for name, c := range map[string]struct {
		a      api.Attestation
		reason api.Reason
	}{
		"a certification":   {certify, api.PCRQuoteMalformed},
		"magic":             {api.Attestation{Attest: patched(good.Attest, 0, 0), Signature: good.Signature}, api.PCRQuoteMalformed},
		"cut short":         {api.Attestation{Attest: good.Attest[:20], Signature: good.Signature}, api.PCRQuoteMalformed},
		"changed":           {api.Attestation{Attest: patched(good.Attest, len(good.Attest)-1, 0, 0), Signature: good.Signature}, api.PCRQuoteSignature},
		"another signature": {api.Attestation{Attest: good.Attest, Signature: certify.Signature}, api.PCRQuoteSignature},
	} {
		t.Run(name, func(t *testing.T) {
			q := &api.PCRQuote{Attestation: c.a, PCRs: good.PCRs}
			refusedFor(t, c.reason, tpmattest.VerifyQuote(q, parseAK(t, b.ak), question("q"), []uint{7}))
		})
	}
}
