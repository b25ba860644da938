package enrol_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tpmattest/attesttest"
	"github.com/telemark-otel/telemark/registryd/internal/enrol"
)

// The AK of one TPM with the EK of another: the credential is not opened by
// either of them.
func TestAKOfAnotherTPMIsRefused(t *testing.T) {
	w, victim := withToken(t)
	thief := w.newMachine()
	h := api.Hierarchy{EK: victim.ek.Public, AK: thief.ak.Public, Key: thief.key.Public}
	c, err := w.service.Start(t.Context(), &api.EnrolmentStart{Hierarchy: h, EKCertificate: victim.certificate})
	require.NoError(t, err)
	_, err = victim.tpm.Activate(victim.ek, victim.ak, c.Credential)
	require.Error(t, err, "the EK's TPM does not have the AK")
	_, err = thief.tpm.Activate(thief.ek, thief.ak, c.Credential)
	require.Error(t, err, "the AK's TPM does not have the EK")
	refusedComplete(t, w, api.ActivationFailed, &api.EnrolmentComplete{
		EnrolmentStart: api.EnrolmentStart{Hierarchy: h, EKCertificate: victim.certificate},
		Session:        c.Session,
		Activation:     api.ActivationProof(make([]byte, 32), c.Session, h),
		Certify:        thief.tpm.Certify(thief.ak, thief.key, api.CertifyData(c.Nonce, c.Session, h.Key)),
	})
}

func TestActivationIsRefused(t *testing.T) {
	w, m := withToken(t)
	r, other := w.request(m), w.request(m)
	for name, activation := range map[string][]byte{"none": nil, "cut": r.Activation[:31], "of another session": other.Activation} {
		t.Run(name, func(t *testing.T) {
			bad := *r
			bad.Activation = activation
			refusedComplete(t, w, api.ActivationFailed, &bad)
		})
	}
}

func startRefused(t *testing.T, w *world, reason api.Reason, m *machine) {
	t.Helper()
	_, err := w.service.Start(t.Context(), m.start())
	refusedFor(t, reason, err)
}

// The keys of a machine are judged before a credential is made for them.
func TestBadKeysGetNoChallenge(t *testing.T) {
	w, m := withToken(t)
	importable := attesttest.KeyAttributes
	importable.FixedTPM, importable.FixedParent = false, false
	unrestricted := attesttest.KeyAttributes
	for name, c := range map[string]struct {
		attributes tpm2.TPMAObject
		reason     api.Reason
	}{"restricted": {attesttest.AKAttributes, api.KeyRestricted}, "importable": {importable, api.KeyNotFixed}} {
		t.Run(name, func(t *testing.T) {
			m.anotherKey(name, c.attributes)
			startRefused(t, w, c.reason, m)
		})
	}
	m.anotherKey("key", attesttest.KeyAttributes)
	m.tpm.Flush(m.ak)
	m.ak = m.tpm.Primary(tpm2.TPMRHEndorsement, attesttest.ECDSA(tpm2.TPMECCNistP256, unrestricted, "ak"))
	startRefused(t, w, api.AKNotRestricted, m)
	m.ek = m.ak
	startRefused(t, w, api.EKUnsupported, m)
}

// A key of software whose public area claims what it is not: the machine's own
// AK, which is genuine, never speaks for it.
func TestSoftwareKeyIsRefused(t *testing.T) {
	w, m := withToken(t)
	software, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	point, err := software.PublicKey.Bytes()
	require.NoError(t, err)
	n := len(m.key.Public)
	forged := *m
	forged.key = &attesttest.Object{Public: slices.Concat(m.key.Public[:n-68], []byte{0, 32}, point[1:33], []byte{0, 32}, point[33:])}

	c, err := w.service.Start(t.Context(), forged.start())
	require.NoError(t, err)
	secret, err := m.tpm.Activate(m.ek, m.ak, c.Credential)
	require.NoError(t, err)
	h := forged.hierarchy()
	data := api.CertifyData(c.Nonce, c.Session, h.Key)
	r := &api.EnrolmentComplete{EnrolmentStart: *forged.start(), Session: c.Session, Activation: api.ActivationProof(secret, c.Session, h)}
	r.Certify = m.tpm.Certify(m.ak, m.key, data) // of a key that the TPM does hold
	refusedComplete(t, w, api.CertifyName, r)

	// Signed by the software key itself.
	digest := sha256.Sum256(r.Certify.Attest)
	x, y, err := ecdsa.Sign(rand.Reader, software, digest[:])
	require.NoError(t, err)
	r.Certify.Signature = slices.Concat([]byte{0, 0x18, 0, 0x0B, 0, 32}, x.FillBytes(make([]byte, 32)), []byte{0, 32}, y.FillBytes(make([]byte, 32)))
	refusedComplete(t, w, api.CertifySignature, r)
}

// The key of another TPM, certified by that TPM's AK.
func TestKeyOfAnotherTPMIsRefused(t *testing.T) {
	w, m := withToken(t)
	other := w.newMachine()
	mixed := *m
	mixed.key = other.key
	c, err := w.service.Start(t.Context(), mixed.start())
	require.NoError(t, err)
	secret, err := m.tpm.Activate(m.ek, m.ak, c.Credential)
	require.NoError(t, err)
	h := mixed.hierarchy()
	refusedComplete(t, w, api.CertifySignature, &api.EnrolmentComplete{
		EnrolmentStart: *mixed.start(), Session: c.Session, Activation: api.ActivationProof(secret, c.Session, h),
		Certify: other.tpm.Certify(other.ak, other.key, api.CertifyData(c.Nonce, c.Session, h.Key)),
	})
}

func TestCertifyIsRefused(t *testing.T) {
	w, m := withToken(t)
	good, other := w.request(m), w.request(m)
	quote := m.tpm.Quote(m.ak, question("q"), tpm2.TPMAlgSHA256, 0)
	for name, c := range map[string]struct {
		certify api.Attestation
		reason  api.Reason
	}{
		"of another session": {other.Certify, api.CertifyNonce},
		"of another key":     {m.tpm.Certify(m.ak, m.ak, question("q")), api.CertifyNonce},
		"a quote":            {quote.Attestation, api.CertifyType},
		"without magic":      {api.Attestation{Attest: append([]byte{0}, good.Certify.Attest[1:]...), Signature: good.Certify.Signature}, api.CertifyMagic},
		"none":               {api.Attestation{}, api.CertifyMalformed},
		"changed": {api.Attestation{
			Attest: append(slices.Clone(good.Certify.Attest[:len(good.Certify.Attest)-1]), 0), Signature: good.Certify.Signature,
		}, api.CertifySignature},
	} {
		t.Run(name, func(t *testing.T) {
			r := *good
			r.Certify = c.certify
			refusedComplete(t, w, c.reason, &r)
		})
	}
	_, err := w.complete(good)
	require.NoError(t, err, "the refused ones did not use the session up")
}

// A certificate that proves nothing is the reason where it was needed, and
// nothing else where it was not.
func TestEKCertificateIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		spoil  func(*x509.Certificate)
		reason api.Reason
	}{
		"expired":     {func(c *x509.Certificate) { c.NotAfter = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC) }, api.EKCertificateExpired},
		"EKU missing": {func(c *x509.Certificate) { c.UnknownExtKeyUsage = nil }, api.EKCertificateUsage},
		"untrusted":   {nil, api.EKCertificateUntrusted},
		"malformed":   {func(c *x509.Certificate) {}, api.EKCertificateMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			m := w.newMachine()
			cert, err := x509.ParseCertificate(m.certificate)
			require.NoError(t, err)
			lab := w.lab
			template := attesttest.Template(cert.PublicKey)
			if c.spoil == nil {
				lab = attesttest.NewAuthority(t)
			} else {
				c.spoil(template)
			}
			m.certificate = lab.Issue(template, cert.PublicKey)
			if c.reason == api.EKCertificateMalformed {
				m.certificate = append(m.certificate, 0)
			}
			w.refused(c.reason, m)
			m.token = w.newToken(1)
			require.Equal(t, api.EvidenceUnproven, w.enrolled(m).Evidence)
			require.Contains(t, string(w.log(0)[0].Detail), `"ek_certificate_refused":"`+string(c.reason)+`"`)
		})
	}
}

// A certificate of another EK is worse than none: also with a token.
func TestEKCertificateOfAnotherTPMIsRefused(t *testing.T) {
	w, m := withToken(t)
	m.certificate = w.newMachine().certificate
	w.refused(api.EKCertificateMismatch, m)
}

// Roots may be taken away and given while enrolments run.
func TestRootsAreReloaded(t *testing.T) {
	w, m := withToken(t)
	m.token = nil
	w.service.SetRoots(nil, nil)
	w.refused(api.EKCertificateUntrusted, m)
	w.service.SetRoots(w.lab.Roots(), w.lab.Intermediates())
	w.pending(m)
}

func TestPCRPolicy(t *testing.T) {
	w := newWorld(t, func(o *enrol.Options) {
		o.PCRs = &enrol.PCRPolicy{PCRs: map[uint][][]byte{4: {question("old"), make([]byte, 32)}, 7: nil}}
	})
	m := w.newMachine()
	m.token = w.newToken(9)

	r := w.request(m)
	q := r.Quote
	r.Quote = nil
	refusedComplete(t, w, api.PCRQuoteMissing, r)
	r.Quote = &api.PCRQuote{Attestation: q.Attestation, PCRs: map[uint][]byte{4: question("old"), 7: make([]byte, 32)}}
	refusedComplete(t, w, api.PCRQuoteDigest, r)
	r.Quote = w.request(m).Quote
	refusedComplete(t, w, api.PCRQuoteNonce, r)
	r.Quote = &api.PCRQuote{Attestation: r.Certify, PCRs: q.PCRs}
	refusedComplete(t, w, api.PCRQuoteMalformed, r)
	r.Quote = q
	_, err := w.complete(r)
	require.NoError(t, err)

	m.tpm.Extend(7, question("measured"))
	w.enrolled(m)
	m.tpm.Extend(4, question("measured"))
	w.refused(api.PCRMismatch, m)
}

func TestQuoteThatNobodyAskedForIsRefused(t *testing.T) {
	w, m := withToken(t)
	r := w.request(m)
	r.Quote = m.tpm.Quote(m.ak, question("q"), tpm2.TPMAlgSHA256, 0)
	refusedComplete(t, w, api.PCRQuoteSelection, r)
}

// bootLog is an event log with one event in register 5.
func bootLog(digest []byte) []byte {
	le := binary.LittleEndian
	spec := slices.Concat([]byte("Spec ID Event03\x00"), make([]byte, 4), []byte{0, 2, 0, 2}, le.AppendUint32(nil, 1), le.AppendUint16(nil, 11), le.AppendUint16(nil, 32), []byte{0})
	log := slices.Concat(make([]byte, 4), le.AppendUint32(nil, 3), make([]byte, 20), le.AppendUint32(nil, uint32(len(spec))), spec)
	return slices.Concat(log, le.AppendUint32(nil, 5), le.AppendUint32(nil, 13), le.AppendUint32(nil, 1), le.AppendUint16(nil, 11), digest, le.AppendUint32(nil, 0))
}

func TestEventLogPolicy(t *testing.T) {
	w := newWorld(t, func(o *enrol.Options) {
		o.PCRs = &enrol.PCRPolicy{PCRs: map[uint][][]byte{5: nil}, EventLog: true}
	})
	m := w.newMachine()
	m.token = w.newToken(1)
	m.tpm.Extend(5, question("boot"))
	c, err := w.service.Start(t.Context(), m.start())
	require.NoError(t, err)
	require.True(t, c.EventLog)
	r := w.answer(m, c)
	refusedComplete(t, w, api.EventLogMissing, r)
	r.Quote.EventLog = bootLog(question("another boot"))
	refusedComplete(t, w, api.EventLogMismatch, r)
	r.Quote.EventLog = bootLog(question("boot"))[:30]
	refusedComplete(t, w, api.EventLogMalformed, r)
	r.Quote.EventLog = bootLog(question("boot"))
	_, err = w.complete(r)
	require.NoError(t, err)
	require.Contains(t, string(w.keyRow(m.kid()).Evidence), `"event_log_sha256"`)
}

func TestOversizedRequestIsRefused(t *testing.T) {
	w, m := withToken(t)
	for reason, change := range map[api.Reason]func(*api.EnrolmentStart){
		api.EKCertificateMalformed: func(r *api.EnrolmentStart) { r.EKCertificate = make([]byte, api.MaxCertificate+1) },
		api.EKMalformed:            func(r *api.EnrolmentStart) { r.EK = make([]byte, api.MaxPublic+1) },
		api.AKMalformed:            func(r *api.EnrolmentStart) { r.AK = make([]byte, api.MaxPublic+1) },
		api.KeyMalformed:           func(r *api.EnrolmentStart) { r.Key = make([]byte, api.MaxPublic+1) },
		api.NameInvalid:            func(r *api.EnrolmentStart) { r.Name = string(make([]byte, 129)) },
	} {
		r := m.start()
		change(r)
		_, err := w.service.Start(t.Context(), r)
		refusedFor(t, reason, err)
	}
	for _, intermediates := range [][][]byte{make([][]byte, 9), {make([]byte, api.MaxCertificate+1)}} {
		r := m.start()
		r.Intermediates = intermediates
		_, err := w.service.Start(t.Context(), r)
		refusedFor(t, api.EKCertificateMalformed, err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	w := newWorld(t)
	for name, change := range map[string]func(*enrol.Options){
		"no store":           func(o *enrol.Options) { o.Store = nil },
		"short seal key":     func(o *enrol.Options) { o.SealKey = o.SealKey[:31] },
		"queue":              func(o *enrol.Options) { o.Queue = "some" },
		"lease":              func(o *enrol.Options) { o.Lease = -1 },
		"sessions for ever":  func(o *enrol.Options) { o.SessionTTL = 24 * time.Hour },
		"a register too far": func(o *enrol.Options) { o.PCRs = &enrol.PCRPolicy{PCRs: map[uint][][]byte{24: nil}} },
		"a short value":      func(o *enrol.Options) { o.PCRs = &enrol.PCRPolicy{PCRs: map[uint][][]byte{0: {nil}}} },
		"no registers":       func(o *enrol.Options) { o.PCRs = &enrol.PCRPolicy{EventLog: true} },
	} {
		t.Run(name, func(t *testing.T) {
			o := w.options
			change(&o)
			_, err := enrol.New(o)
			require.Error(t, err)
		})
	}
}
