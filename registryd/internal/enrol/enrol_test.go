package enrol_test

import (
	"crypto/x509"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tpm"
	"github.com/telemark-otel/telemark/internal/tpm/swtpm"
	"github.com/telemark-otel/telemark/internal/tpm/tpmtest"
	"github.com/telemark-otel/telemark/internal/tpmattest"
	"github.com/telemark-otel/telemark/internal/tpmattest/attesttest"
	"github.com/telemark-otel/telemark/registryd/internal/enrol"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

// The whole enrolment as an agent does it, with a TPM that has certificates of
// swtpm's authority, over the store.
func TestManufacturedTPMEnrolsWithEachOfItsEKs(t *testing.T) {
	dir := tpmtest.Dir(t)
	require.NoError(t, swtpm.Manufacture(t.Context(), dir))
	dev, err := tpm.Open(t.Context(), "swtpm:"+dir, tpm.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = dev.Close() })
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for file, pool := range map[string]*x509.CertPool{"swtpm-localca-rootca-cert.pem": roots, "issuercert.pem": intermediates} {
		content, err := os.ReadFile(filepath.Join(dir, "ca", file))
		require.NoError(t, err)
		require.True(t, pool.AppendCertsFromPEM(content))
	}
	w := newWorld(t, func(o *enrol.Options) {
		o.Roots, o.Intermediates = roots, intermediates
		o.PCRs = &enrol.PCRPolicy{PCRs: map[uint][][]byte{0: nil, 7: {make([]byte, 32)}}}
	})
	w.clock.pass(time.Since(w.clock.now())) // the certificates are of today
	ak, err := dev.AK(t.Context())
	require.NoError(t, err)
	for name, algorithm := range map[string]tpm.EKAlgorithm{"RSA": tpm.EKRSA2048, "P-384": tpm.EKECCP384} {
		t.Run(name, func(t *testing.T) {
			key, err := dev.OpenKey(t.Context(), tpm.KeyOptions{Dir: filepath.Join(t.TempDir(), "key"), Name: name})
			require.NoError(t, err)
			t.Cleanup(func() { _ = key.Close() })
			ek, err := dev.EK(t.Context(), algorithm)
			require.NoError(t, err)
			h := api.Hierarchy{EK: ek.Public, AK: ak.Public, Key: key.Info().TPMPublic}
			token := w.newToken(1)
			start := api.EnrolmentStart{Hierarchy: h, EKCertificate: ek.Certificate, Name: "edge-" + name}

			c, err := w.service.Start(t.Context(), &start)
			require.NoError(t, err)
			secret, err := dev.ActivateCredential(t.Context(), tpm.Credential{EK: algorithm, Blob: c.Credential.Blob, Secret: c.Credential.Secret})
			require.NoError(t, err)
			certify, err := key.Certify(t.Context(), api.CertifyData(c.Nonce, c.Session, h.Key))
			require.NoError(t, err)
			require.Equal(t, []uint{0, 7}, c.PCRs)
			quote, err := dev.Quote(t.Context(), api.QuoteData(c.Nonce, c.Session, h.Key), c.PCRs)
			require.NoError(t, err)
			got, err := w.complete(&api.EnrolmentComplete{
				EnrolmentStart: start, Session: c.Session,
				Activation: api.ActivationProof(secret, c.Session, h),
				Certify:    api.Attestation{Attest: certify.Attest, Signature: certify.Signature},
				Quote: &api.PCRQuote{
					Attestation: api.Attestation{Attest: quote.Attest, Signature: quote.Signature},
					PCRs:        map[uint][]byte{0: make([]byte, 32), 7: make([]byte, 32)},
				},
				Token: &api.TokenProof{ID: token.ID, Proof: api.JoinProof(token.Key(), c.Session, h)},
			})
			require.NoError(t, err)
			require.Equal(t, api.StateEnrolled, got.State)
			require.Equal(t, api.EvidenceChain, got.Evidence)
			require.Equal(t, "edge-"+name, got.Name)
			row := w.keyRow(got.KID)
			require.JSONEq(t, `{"0":"`+zeros+`","7":"`+zeros+`"}`, string(row.PCRs))
		})
	}
}

const zeros = "0000000000000000000000000000000000000000000000000000000000000000"

func TestGenuineMachineWithATokenIsEnrolled(t *testing.T) {
	w := newWorld(t)
	m := w.newMachine()
	m.name, m.token = "edge-a", w.newToken(1, func(t *store.Token) { t.Labels = map[string]string{"site": "oslo"} })
	got := w.enrolled(m)
	require.Equal(t, &api.Enrolment{
		State: api.StateEnrolled, Evidence: api.EvidenceChain, KID: m.kid(), Name: "edge-a", Machine: m.hash(t),
		Revision: got.Revision, Expires: w.clock.now().Add(lease), RenewAt: w.clock.now().Add(lease / 2),
	}, got)

	row := w.machineRow(m)
	require.Equal(t, api.ByToken, row.Membership)
	require.Equal(t, m.token.ID, row.MembershipBy)
	require.Equal(t, map[string]string{"site": "oslo"}, row.Labels)
	require.Equal(t, m.certificate, row.EKCertificate)
	require.Equal(t, m.ek.Public, row.EKPublic)
	require.Equal(t, m.ak.Name.Buffer, row.AKName)
	key := w.keyRow(m.kid())
	require.Equal(t, api.StateEnrolled, key.State)
	require.Equal(t, m.key.Public, key.Public)
	require.Equal(t, w.clock.now().Add(lease), key.ExpiresAt)

	entries := w.log(0)
	require.Len(t, entries, 1)
	require.Equal(t, "join:"+m.token.ID, entries[0].Actor)
	require.Equal(t, "machine.enrol", entries[0].Action)
	require.Equal(t, m.hash(t), entries[0].Subject)
	require.Contains(t, string(entries[0].Detail), `"peer":"192.0.2.1"`)
	require.Contains(t, string(entries[0].Detail), `"manufacturer":"id:54534D4B"`)
	events := w.events()
	require.Len(t, events, 1)
	require.Equal(t, "enrolled", events[0].What)
	require.Equal(t, []string{m.kid()}, events[0].KIDs)
	require.Equal(t, got.Revision, events[0].Revision)
}

// What is kept of an attestation can be checked again by somebody who has
// neither the machine nor the registry's keys.
func TestKeptEvidenceVerifiesAgain(t *testing.T) {
	w := newWorld(t, func(o *enrol.Options) { o.PCRs = &enrol.PCRPolicy{PCRs: map[uint][][]byte{3: nil}} })
	m := w.newMachine()
	m.token = w.newToken(1)
	w.enrolled(m)
	var e enrol.Evidence
	require.NoError(t, json.Unmarshal(w.keyRow(m.kid()).Evidence, &e))

	ek, err := tpmattest.ParseEK(e.EK)
	require.NoError(t, err)
	ak, err := tpmattest.ParseAK(e.AK)
	require.NoError(t, err)
	key, err := tpmattest.ParseKey(e.Key)
	require.NoError(t, err)
	require.NoError(t, tpmattest.VerifyCertify(&e.Certify, ak, key, api.CertifyData(e.Nonce, e.Session, e.Key)))
	_, err = tpmattest.VerifyEKCertificate(e.EKCertificate, ek, w.lab.Roots(), w.lab.Intermediates(), e.Intermediates, e.At)
	require.NoError(t, err)
	quote := &api.PCRQuote{Attestation: e.Quote.Attestation, PCRs: map[uint][]byte{3: e.Quote.PCRs[3]}}
	require.NoError(t, tpmattest.VerifyQuote(quote, ak, api.QuoteData(e.Nonce, e.Session, e.Key), []uint{3}))
	require.Equal(t, "lab", e.TPM.Model)
}

func TestDecisionTable(t *testing.T) {
	const chain, token, allowed = 1, 2, 4
	for name, c := range map[string]struct {
		has      int
		queue    enrol.Queue
		state    api.KeyState
		evidence api.Evidence
		reason   api.Reason
	}{
		"chain and token":           {chain | token, enrol.QueueGenuine, api.StateEnrolled, api.EvidenceChain, ""},
		"chain and allow-list":      {chain | allowed, enrol.QueueGenuine, api.StateEnrolled, api.EvidenceChain, ""},
		"allow-list alone":          {allowed, enrol.QueueGenuine, api.StateEnrolled, api.EvidenceVouched, ""},
		"token alone":               {token, enrol.QueueGenuine, api.StateEnrolled, api.EvidenceUnproven, ""},
		"token alone without queue": {token, enrol.QueueNone, api.StateEnrolled, api.EvidenceUnproven, ""},
		"chain alone":               {chain, enrol.QueueGenuine, api.StatePending, api.EvidenceChain, ""},
		"chain alone in queue all":  {chain, enrol.QueueAll, api.StatePending, api.EvidenceChain, ""},
		"chain alone without queue": {chain, enrol.QueueNone, "", "", api.NotOurs},
		"neither":                   {0, enrol.QueueGenuine, "", "", api.NotGenuine},
		"neither without queue":     {0, enrol.QueueNone, "", "", api.NotGenuine},
		"neither in queue all":      {0, enrol.QueueAll, api.StatePending, api.EvidenceUnproven, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(o *enrol.Options) { o.Queue = c.queue })
			m := w.newMachine()
			if c.has&chain == 0 {
				m.certificate = nil
			}
			if c.has&token != 0 {
				m.token = w.newToken(1)
			}
			if c.has&allowed != 0 {
				w.allow(m, "edge-a")
			}
			got, err := w.enrol(m)
			if c.reason != "" {
				refusedFor(t, c.reason, err)
				w.view(func(tx *store.Tx) error {
					_, err := tx.Machine(m.hash(t))
					require.ErrorIs(t, err, store.ErrNotFound)
					return nil
				})
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.state, got.State)
			require.Equal(t, c.evidence, got.Evidence)
			require.Equal(t, c.state, w.keyRow(m.kid()).State)
		})
	}
}

// Evidence is never lowered by a weaker proof, and raised by a stronger one.
func TestEvidenceOnlyRises(t *testing.T) {
	w := newWorld(t)
	m := w.newMachine()
	certificate := m.certificate
	m.certificate, m.token = nil, w.newToken(1)
	require.Equal(t, api.EvidenceUnproven, w.enrolled(m).Evidence)
	m.token = nil
	w.update(func(tx *store.Tx) error { // fleet import
		row, err := tx.Machine(m.hash(t))
		if err != nil {
			return err
		}
		row.Allowed = true
		return tx.PutMachine(row)
	})
	require.Equal(t, api.EvidenceVouched, w.enrolled(m).Evidence)
	m.certificate = certificate
	require.Equal(t, api.EvidenceChain, w.enrolled(m).Evidence)
	m.certificate = nil
	require.Equal(t, api.EvidenceChain, w.enrolled(m).Evidence)
	require.Equal(t, certificate, w.machineRow(m).EKCertificate)
	require.Equal(t, api.ByToken, w.machineRow(m).Membership)
}

func TestRenewalWithTheSameKeyMakesTheLeaseLonger(t *testing.T) {
	w := newWorld(t)
	m := w.newMachine()
	m.token = w.newToken(1)
	first := w.enrolled(m)
	born := w.clock.now()
	w.clock.pass(20 * time.Hour) // the token is long past its time, and used up
	again := w.enrolled(m)
	require.Equal(t, first.KID, again.KID)
	require.Equal(t, w.clock.now().Add(lease), again.Expires)
	require.Greater(t, again.Revision, first.Revision)
	key := w.keyRow(m.kid())
	require.Equal(t, born, key.EnrolledAt)
	require.Equal(t, w.clock.now(), key.AttestedAt)
	require.Equal(t, "renewed", w.events()[1].What)
	require.Equal(t, "machine.renew", w.log(0)[1].Action)
	require.Equal(t, "enrolment", w.log(0)[1].Actor)
}

func TestNewKeySupersedesTheOldOne(t *testing.T) {
	w := newWorld(t)
	m := w.newMachine()
	m.token = w.newToken(1)
	w.enrolled(m)
	old := *m
	oldKID := m.kid()
	w.clock.pass(time.Hour)
	m.anotherKey("second", attesttest.KeyAttributes)
	w.enrolled(m)

	row := w.keyRow(oldKID)
	require.Equal(t, api.StateSuperseded, row.State)
	require.Equal(t, api.Superseded, row.Reason)
	require.Equal(t, w.clock.now(), row.ExpiresAt, "what it signs from now on is refused")
	require.Equal(t, api.StateEnrolled, w.keyRow(m.kid()).State)
	events := w.events()
	require.Equal(t, "enrolled", events[1].What)
	require.Equal(t, []string{m.kid(), oldKID}, events[1].KIDs)
	require.Contains(t, string(w.log(0)[1].Detail), `"superseded":["`+oldKID+`"]`)

	m.tpm.Flush(m.key)
	old.key = m.tpm.Primary(tpm2.TPMRHOwner, attesttest.ECDSA(tpm2.TPMECCNistP256, attesttest.KeyAttributes, "key"))
	require.Equal(t, oldKID, old.kid())
	w.refused(api.KeyRevoked, &old)
}

// A key whose lease had run out signed nothing that counts since; its successor
// does not change that.
func TestSupersedingDoesNotRevalidateALapsedLease(t *testing.T) {
	w := newWorld(t)
	m := w.newMachine()
	m.token = w.newToken(1)
	first := w.enrolled(m)
	w.clock.pass(100 * time.Hour)
	m.anotherKey("second", attesttest.KeyAttributes)
	w.enrolled(m)
	require.Equal(t, first.Expires, w.keyRow(first.KID).ExpiresAt)
}
