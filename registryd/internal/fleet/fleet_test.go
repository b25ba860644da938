package fleet

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/keyfile"
	"github.com/telemark-otel/telemark/internal/policy"
	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/registry/audit"
	"github.com/telemark-otel/telemark/internal/verdict"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

// rig is a Service over a real store, with a clock that the test moves.
type rig struct {
	*Service
	t   *testing.T
	at  time.Time
	pin *answer.Verifier
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, at: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)}
	now := func() time.Time { return r.at }
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "registry.db"), store.Options{Now: now})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	signer, err := answer.NewSigner(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize)))
	require.NoError(t, err)
	r.Service, err = New(Options{Store: db, Signer: signer, SealKey: bytes.Repeat([]byte{9}, 32), Now: now})
	require.NoError(t, err)
	r.pin, err = answer.NewVerifier(signer.Public())
	require.NoError(t, err)
	return r
}

func hash(n int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "machine %d", n))
	return hex.EncodeToString(sum[:])
}

// enrolled puts a machine with one key into the store, as enrolment does.
func (r *rig) enrolled(ekHash, name string, state api.KeyState, change func(*store.Machine)) (kid string) {
	r.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(r.t, err)
	area, kid := publicArea(r.t, key)
	m := &store.Machine{EKHash: ekHash, Name: name, Evidence: api.EvidenceChain, CreatedAt: r.at, SeenAt: r.at}
	if state != api.StatePending {
		m.Membership = api.ByToken
	}
	if change != nil {
		change(m)
	}
	require.NoError(r.t, r.o.Store.Update(r.t.Context(), func(tx *store.Tx) error {
		if err := tx.PutMachine(m); err != nil {
			return err
		}
		k := &store.Key{KID: kid, EKHash: ekHash, State: state, Public: area, EnrolledAt: r.at, AttestedAt: r.at, ExpiresAt: r.at.Add(time.Hour)}
		if err := tx.PutKey(k); err != nil {
			return err
		}
		return tx.Emit(store.Event{At: r.at, What: string(state), KIDs: []string{kid}})
	}))
	return kid
}

func publicArea(t *testing.T, k *ecdsa.PrivateKey) (area []byte, kid string) {
	t.Helper()
	point, err := k.PublicKey.Bytes()
	require.NoError(t, err)
	area = tpm2.Marshal(tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
			CurveID: tpm2.TPMECCNistP256,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:65]},
		}),
	})
	sum := sha256.Sum256(area)
	return area, "000b" + hex.EncodeToString(sum[:])
}

// record is what a verifier learns of a key, and the entry as it reads it.
func (r *rig) record(kid string) (answer.Record, *verdict.Key) {
	r.t.Helper()
	signed, err := r.SignedKey(r.t.Context(), kid, []byte("nonce"))
	require.NoError(r.t, err)
	var k answer.Key
	require.NoError(r.t, r.pin.Open(answer.KindKey, signed, &k))
	require.Equal(r.t, []byte("nonce"), k.Nonce)
	require.Equal(r.t, r.at, k.IssuedAt)
	require.True(r.t, k.NotAfter.After(k.IssuedAt))
	if k.Record.Entry == nil {
		return k.Record, nil
	}
	parsed, err := keyfile.ParseEntry(k.Record.Entry, &policy.Policy{})
	require.NoError(r.t, err)
	return k.Record, parsed
}

func (r *rig) lastAction() audit.Entry {
	r.t.Helper()
	var last audit.Entry
	require.NoError(r.t, r.o.Store.View(r.t.Context(), func(tx *store.Tx) error {
		head, err := tx.AuditHead()
		require.NoError(r.t, err)
		entries, err := tx.AuditEntries(head.Seq-1, 1)
		require.NoError(r.t, err)
		last = entries[0]
		return nil
	}))
	return last
}

func (r *rig) lastEvent() store.Event {
	r.t.Helper()
	var last store.Event
	require.NoError(r.t, r.o.Store.View(r.t.Context(), func(tx *store.Tx) error {
		events, err := tx.Events(0, 1000)
		require.NoError(r.t, err)
		last = events[len(events)-1]
		return nil
	}))
	return last
}

func refused(t *testing.T, reason api.Reason, err error) {
	t.Helper()
	require.ErrorIs(t, err, &api.Error{Reason: reason}, "%v", err)
}

func TestUnknownKeyIsAnsweredAndSigned(t *testing.T) {
	r := newRig(t)
	record, entry := r.record(hash(1))
	require.Equal(t, answer.Record{KID: hash(1)}, record)
	require.Nil(t, entry)
	_, err := r.Key(t.Context(), hash(1))
	refused(t, api.NotFound, err)
}

func TestEnrolledKeyIsToldAsItStandsInAKeyFile(t *testing.T) {
	r := newRig(t)
	kid := r.enrolled(hash(1), "edge-a", api.StateEnrolled, func(m *store.Machine) { m.Labels = map[string]string{"site": "berlin"} })
	record, entry := r.record(kid)
	require.Equal(t, api.StateEnrolled, record.State)
	require.Equal(t, "edge-a", entry.Name)
	require.Equal(t, "berlin", entry.Labels["site"])
	require.Equal(t, r.at.Add(time.Hour), entry.NotAfter.UTC())
	require.Empty(t, entry.Revoked)

	r.at = r.at.Add(time.Hour)
	k, err := r.Key(t.Context(), kid)
	require.NoError(t, err)
	require.Equal(t, api.StateExpired, k.State, "the lease has run out")
}

func TestPendingKeyIsTrustedOnlyAfterApproval(t *testing.T) {
	r := newRig(t)
	kid := r.enrolled(hash(1), "edge-a", api.StatePending, nil)
	record, entry := r.record(kid)
	require.Equal(t, api.StatePending, record.State)
	require.Nil(t, entry, "nothing that a verifier could trust")

	m, err := r.Approve(t.Context(), "token:ops", "edge-a", &api.ApproveRequest{Labels: map[string]string{"site": "berlin"}})
	require.NoError(t, err)
	require.Equal(t, api.ByApproval, m.Membership)
	require.Equal(t, api.StateEnrolled, m.State)
	require.Equal(t, "machine.approve", r.lastAction().Action)
	require.Equal(t, "token:ops", r.lastAction().Actor)
	require.Equal(t, "approved", r.lastEvent().What)
	record, entry = r.record(kid)
	require.Equal(t, api.StateEnrolled, record.State)
	require.Equal(t, "berlin", entry.Labels["site"])

	_, err = r.Approve(t.Context(), "token:ops", "edge-a", &api.ApproveRequest{})
	refused(t, api.Conflict, err)
}

func TestApprovalAloneDoesNotMakeATPMGenuine(t *testing.T) {
	r := newRig(t)
	without := func(m *store.Machine) { m.Evidence = "" }
	plain := r.enrolled(hash(1), "edge-a", api.StatePending, without)
	vouched := r.enrolled(hash(2), "edge-b", api.StatePending, without)
	_, err := r.Approve(t.Context(), "ops", "edge-a", &api.ApproveRequest{})
	require.NoError(t, err)
	_, err = r.Approve(t.Context(), "ops", "edge-b", &api.ApproveRequest{Vouch: true})
	require.NoError(t, err)
	record, _ := r.record(plain)
	require.Equal(t, api.EvidenceUnproven, record.Evidence)
	record, _ = r.record(vouched)
	require.Equal(t, api.EvidenceVouched, record.Evidence)
}

func TestRejectedMachineIsGone(t *testing.T) {
	r := newRig(t)
	kid := r.enrolled(hash(1), "edge-a", api.StatePending, nil)
	other := r.enrolled(hash(2), "edge-b", api.StateEnrolled, nil)
	require.NoError(t, r.Reject(t.Context(), "ops", hash(1)))
	record, _ := r.record(kid)
	require.Empty(t, record.State)
	require.Equal(t, []string{kid}, r.lastEvent().KIDs)
	refused(t, api.Conflict, r.Reject(t.Context(), "ops", "edge-b"))
	record, _ = r.record(other)
	require.Equal(t, api.StateEnrolled, record.State)
}

func TestImportIsTakenAsAWholeOrNotAtAll(t *testing.T) {
	r := newRig(t)
	r.enrolled(hash(9), "taken", api.StateEnrolled, nil)
	good := api.AllowEntry{EKHash: hash(1), Name: "edge-a", Labels: map[string]string{"site": "berlin"}}
	for name, bad := range map[string]struct {
		entry  api.AllowEntry
		reason api.Reason
	}{
		"hash":            {api.AllowEntry{EKHash: "xyz", Name: "edge-b"}, api.BadRequest},
		"name":            {api.AllowEntry{EKHash: hash(2), Name: "edge b"}, api.NameInvalid},
		"name of another": {api.AllowEntry{EKHash: hash(2), Name: "TAKEN"}, api.NameTaken},
		"name twice":      {api.AllowEntry{EKHash: hash(2), Name: "Edge-A"}, api.NameTaken},
		"hash twice":      {api.AllowEntry{EKHash: hash(1), Name: "edge-b"}, api.BadRequest},
		"label":           {api.AllowEntry{EKHash: hash(2), Name: "edge-b", Labels: map[string]string{"": "x"}}, api.BadRequest},
	} {
		result, err := r.Import(t.Context(), "ops", &api.ImportRequest{Machines: []api.AllowEntry{good, bad.entry}})
		require.NoError(t, err, name)
		require.Len(t, result.Errors, 1, name)
		require.Equal(t, 1, result.Errors[0].Index, name)
		require.Equal(t, bad.reason, result.Errors[0].Reason, name)
		_, err = r.Machine(t.Context(), hash(1))
		refused(t, api.NotFound, err)
	}

	result, err := r.Import(t.Context(), "ops", &api.ImportRequest{Machines: []api.AllowEntry{good}, DryRun: true})
	require.NoError(t, err)
	require.Equal(t, &api.ImportResult{Added: 1, DryRun: true}, result)
	_, err = r.Machine(t.Context(), hash(1))
	refused(t, api.NotFound, err)

	result, err = r.Import(t.Context(), "ops", &api.ImportRequest{Machines: []api.AllowEntry{good}})
	require.NoError(t, err)
	require.Equal(t, &api.ImportResult{Added: 1}, result)
	require.Equal(t, "machines.import", r.lastAction().Action)
	before := r.lastAction().Seq
	result, err = r.Import(t.Context(), "ops", &api.ImportRequest{Machines: []api.AllowEntry{good}})
	require.NoError(t, err)
	require.Equal(t, &api.ImportResult{Unchanged: 1}, result)
	require.Equal(t, before, r.lastAction().Seq, "what changes nothing leaves no entry")
}

// Names may change places within one inventory, where each is free at its turn.
func TestImportOfMachinesNewChangedAndAsTheyWere(t *testing.T) {
	r := newRig(t)
	entry := func(n int, name string) api.AllowEntry {
		return api.AllowEntry{EKHash: hash(n), Name: name, Labels: map[string]string{"site": "oslo"}}
	}
	_, err := r.Import(t.Context(), "ops", &api.ImportRequest{Machines: []api.AllowEntry{entry(1, "a"), entry(2, "b"), entry(3, "c")}})
	require.NoError(t, err)
	// c becomes d, and the new machine is c; before that c is not free.
	result, err := r.Import(t.Context(), "ops", &api.ImportRequest{Machines: []api.AllowEntry{entry(4, "c"), entry(3, "d")}})
	require.NoError(t, err)
	require.Len(t, result.Errors, 1)
	require.Equal(t, api.NameTaken, result.Errors[0].Reason)
	moved := entry(2, "b")
	moved.Labels = map[string]string{"site": "bergen"}
	result, err = r.Import(t.Context(), "ops", &api.ImportRequest{Machines: []api.AllowEntry{entry(1, "a"), moved, entry(3, "d"), entry(4, "c"), entry(5, "e")}})
	require.NoError(t, err)
	require.Equal(t, &api.ImportResult{Added: 2, Changed: 2, Unchanged: 1}, result)
	for name, n := range map[string]int{"a": 1, "b": 2, "c": 4, "d": 3, "e": 5} {
		m, err := r.Machine(t.Context(), name)
		require.NoError(t, err)
		require.Equal(t, hash(n), m.Machine)
	}
	m, err := r.Machine(t.Context(), "b")
	require.NoError(t, err)
	require.Equal(t, moved.Labels, m.Labels)
}

func TestImportLetsInAMachineThatWaits(t *testing.T) {
	r := newRig(t)
	kid := r.enrolled(hash(1), "wish", api.StatePending, func(m *store.Machine) { m.Evidence = "" })
	_, err := r.Import(t.Context(), "ops", &api.ImportRequest{Machines: []api.AllowEntry{{EKHash: hash(1), Name: "edge-a"}}})
	require.NoError(t, err)
	record, entry := r.record(kid)
	require.Equal(t, api.StateEnrolled, record.State)
	require.Equal(t, api.EvidenceVouched, record.Evidence)
	require.Equal(t, "edge-a", entry.Name)
}

func TestPendingMachineDoesNotHoldANameAgainstTheInventory(t *testing.T) {
	r := newRig(t)
	squatter := r.enrolled(hash(1), "edge-a", api.StatePending, nil)
	result, err := r.Import(t.Context(), "ops", &api.ImportRequest{Machines: []api.AllowEntry{{EKHash: hash(2), Name: "edge-a"}}})
	require.NoError(t, err)
	require.Empty(t, result.Errors)
	m, err := r.Machine(t.Context(), "edge-a")
	require.NoError(t, err)
	require.Equal(t, hash(2), m.Machine)
	record, _ := r.record(squatter)
	require.Equal(t, api.StatePending, record.State)
}

func TestRevokedMachineDoesNotComeBackByImport(t *testing.T) {
	r := newRig(t)
	kid := r.enrolled(hash(1), "edge-a", api.StateEnrolled, nil)
	_, err := r.RevokeMachine(t.Context(), "ops", "edge-a", "stolen")
	require.NoError(t, err)
	result, err := r.Import(t.Context(), "ops", &api.ImportRequest{Machines: []api.AllowEntry{{EKHash: hash(1), Name: "edge-a"}}})
	require.NoError(t, err)
	require.Equal(t, &api.ImportResult{Revoked: 1}, result)

	_, err = r.Approve(t.Context(), "ops", "edge-a", &api.ApproveRequest{Vouch: true})
	refused(t, api.Conflict, err)
	m, err := r.Approve(t.Context(), "ops", "edge-a", &api.ApproveRequest{Reinstate: true})
	require.NoError(t, err)
	require.Empty(t, m.Revoked)
	record, entry := r.record(kid)
	require.Equal(t, api.StateRevoked, record.State, "a revoked key stays revoked, the machine enrols another one")
	require.Equal(t, "stolen", entry.Revoked)
}

func TestRevocationIsFinalAndSupersededIsNot(t *testing.T) {
	r := newRig(t)
	kid := r.enrolled(hash(1), "edge-a", api.StateEnrolled, nil)
	r.at = r.at.Add(time.Minute)
	k, err := r.RevokeKey(t.Context(), "ops", kid, api.Superseded)
	require.NoError(t, err)
	require.Equal(t, api.StateSuperseded, k.State)
	require.Equal(t, "superseded", r.lastEvent().What)
	_, entry := r.record(kid)
	require.Equal(t, verdict.Superseded, entry.Revoked)
	require.Equal(t, r.at, entry.NotAfter.UTC(), "what was signed until now stays acceptable")

	k, err = r.RevokeKey(t.Context(), "ops", kid, "key leaked")
	require.NoError(t, err)
	require.Equal(t, api.StateRevoked, k.State)
	require.Equal(t, "revoked", r.lastEvent().What)
	k, err = r.RevokeKey(t.Context(), "ops", kid, api.Superseded)
	require.NoError(t, err)
	require.Equal(t, api.StateRevoked, k.State, "a revoked key is not made acceptable again")
	_, err = r.RevokeKey(t.Context(), "ops", kid, "")
	refused(t, api.BadRequest, err)
}

func TestReplacementTakesTheNameAndTheOldKeysAreRevoked(t *testing.T) {
	r := newRig(t)
	old := r.enrolled(hash(1), "edge-a", api.StateEnrolled, func(m *store.Machine) { m.Labels = map[string]string{"site": "berlin"} })
	fresh := r.enrolled(hash(2), "edge-a-new", api.StatePending, nil)
	m, err := r.Replace(t.Context(), "ops", "edge-a", &api.ReplaceRequest{EKHash: hash(2), Reason: "mainboard died"})
	require.NoError(t, err)
	require.Equal(t, "edge-a", m.Name)
	require.Equal(t, hash(2), m.Machine)
	record, entry := r.record(old)
	require.Equal(t, api.StateRevoked, record.State)
	require.Equal(t, "edge-a.replaced."+hash(1)[:12], entry.Name)
	record, entry = r.record(fresh)
	require.Equal(t, api.StateEnrolled, record.State)
	require.Equal(t, "edge-a", entry.Name)
	require.Equal(t, "berlin", entry.Labels["site"])
	require.ElementsMatch(t, []string{old, fresh}, r.lastEvent().KIDs)
	_, err = r.Replace(t.Context(), "ops", "edge-a", &api.ReplaceRequest{EKHash: hash(2), Reason: "x"})
	refused(t, api.Conflict, err)
}

func TestPolicyComesFromTheNarrowestScopeThatHasTheMember(t *testing.T) {
	r := newRig(t)
	berlin := r.enrolled(hash(1), "edge-a", api.StateEnrolled, func(m *store.Machine) { m.Labels = map[string]string{"site": "berlin"} })
	paris := r.enrolled(hash(2), "edge-b", api.StateEnrolled, func(m *store.Machine) { m.Labels = map[string]string{"site": "paris"} })
	put := func(p api.Policy) {
		t.Helper()
		_, err := r.PutPolicy(t.Context(), "ops", &p)
		require.NoError(t, err)
	}
	put(api.Policy{Scope: "default", Freshness: "stale", RequireEvidence: "genuine", Bind: map[string]string{"host.name": "name"}})
	require.ElementsMatch(t, []string{berlin, paris}, r.lastEvent().KIDs)
	put(api.Policy{Scope: "label:site=berlin", Freshness: "live"})
	require.Equal(t, []string{berlin}, r.lastEvent().KIDs, "only those that it speaks of")
	put(api.Policy{Scope: "name:EDGE-A", RequireEvidence: "any"})

	_, a := r.record(berlin)
	require.Equal(t, policy.Live, a.Policy.Freshness)
	require.False(t, bool(a.Policy.Genuine))
	require.Len(t, a.Policy.Bind, 1)
	_, b := r.record(paris)
	require.Equal(t, policy.Stale, b.Policy.Freshness)
	require.True(t, bool(b.Policy.Genuine))

	require.NoError(t, r.DeletePolicy(t.Context(), "ops", "label:site=berlin"))
	require.Equal(t, "policy.delete", r.lastAction().Action)
	_, a = r.record(berlin)
	require.Equal(t, policy.Stale, a.Policy.Freshness)
	refused(t, api.NotFound, r.DeletePolicy(t.Context(), "ops", "label:site=berlin"))
}

func TestPolicyThatVerifiersCannotReadIsRefused(t *testing.T) {
	r := newRig(t)
	for name, p := range map[string]api.Policy{
		"scope":             {Scope: "everybody", Freshness: "live"},
		"label without =":   {Scope: "label:site", Freshness: "live"},
		"name":              {Scope: "name:", Freshness: "live"},
		"nothing":           {Scope: "default"},
		"freshness":         {Scope: "default", Freshness: "fresh"},
		"evidence":          {Scope: "default", RequireEvidence: "chain"},
		"bind":              {Scope: "default", Bind: map[string]string{"host.name": "kid"}},
		"location member":   {Scope: "default", Location: []byte(`{"inside":{}}`)},
		"location geometry": {Scope: "default", Location: []byte(`{"within":{"type":"Point","coordinates":[0,0]}}`)},
	} {
		_, err := r.PutPolicy(t.Context(), "ops", &p)
		require.Error(t, err, name)
		require.Contains(t, []api.Reason{api.BadRequest, api.NameInvalid}, api.ReasonOf(err), name)
	}
}

func TestJoinTokenIsShownOnceAndKeptSealed(t *testing.T) {
	r := newRig(t)
	created, err := r.CreateToken(t.Context(), "ops", &api.TokenRequest{Uses: 3, ValidFor: "1h", NamePattern: "edge-*", Labels: map[string]string{"site": "berlin"}})
	require.NoError(t, err)
	token, err := api.ParseToken(created.Token)
	require.NoError(t, err)
	require.Equal(t, created.ID, token.ID)
	require.NoError(t, r.o.Store.View(t.Context(), func(tx *store.Tx) error {
		row, err := tx.Token(token.ID)
		require.NoError(t, err)
		require.NotContains(t, string(row.SealedKey), string(token.Key()))
		require.NotContains(t, string(row.SealedKey), string(token.Secret))
		return nil
	}))
	tokens, err := r.Tokens(t.Context())
	require.NoError(t, err)
	require.Equal(t, []api.TokenInfo{created.TokenInfo}, tokens)
	require.NotContains(t, string(r.lastAction().Detail), token.Reveal()[20:])

	require.NoError(t, r.DeleteToken(t.Context(), "ops", token.ID))
	refused(t, api.NotFound, r.DeleteToken(t.Context(), "ops", token.ID))
	for name, bad := range map[string]api.TokenRequest{
		"life":            {ValidFor: "10000h"},
		"no duration":     {ValidFor: "tomorrow"},
		"negative uses":   {Uses: -1},
		"many uses":       {Uses: 2_000_000},
		"name used twice": {Name: "edge-a", Uses: 2},
		"pattern":         {NamePattern: "[a"},
		"label":           {Labels: map[string]string{" ": ""}},
	} {
		_, err := r.CreateToken(t.Context(), "ops", &bad)
		refused(t, api.BadRequest, err)
		require.Error(t, err, name)
	}
}

func TestSnapshotPagesHoldEveryKeyOnce(t *testing.T) {
	r := newRig(t)
	want := map[string]bool{}
	for n := range 25 {
		want[r.enrolled(hash(n), fmt.Sprintf("edge-%d", n), api.StateEnrolled, nil)] = true
	}
	_, err := r.RevokeMachine(t.Context(), "ops", "edge-3", "stolen")
	require.NoError(t, err)
	var since uint64
	for pages := 0; ; pages++ {
		signed, err := r.SignedSnapshot(t.Context(), since, []byte{1}, 10)
		require.NoError(t, err)
		var s answer.Snapshot
		require.NoError(t, r.pin.Open(answer.KindSnapshot, signed, &s))
		require.Equal(t, since, s.Since)
		for _, record := range s.Records {
			require.True(t, want[record.KID], "each once")
			delete(want, record.KID)
			require.Greater(t, record.Revision, since)
			require.LessOrEqual(t, record.Revision, s.Through)
		}
		since = s.Through
		if !s.More {
			require.Equal(t, s.Revision, s.Through)
			break
		}
		require.Less(t, pages, 10)
	}
	require.Empty(t, want)
}

func TestPagesStayBelowWhatIsRead(t *testing.T) {
	const machines = 2500
	r := newRig(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	area, _ := publicArea(t, key)
	require.NoError(t, r.o.Store.Update(t.Context(), func(tx *store.Tx) error {
		for n := range machines {
			if err := tx.PutMachine(&store.Machine{EKHash: hash(n), Name: fmt.Sprintf("m-%d", n), Evidence: api.EvidenceChain, Membership: api.ByToken, CreatedAt: r.at}); err != nil {
				return err
			}
			k := &store.Key{KID: "000b" + hash(n), EKHash: hash(n), State: api.StateEnrolled, Public: area, ExpiresAt: r.at.Add(time.Hour)}
			if err := tx.PutKey(k); err != nil {
				return err
			}
		}
		return tx.Emit(store.Event{At: r.at, What: "imported", More: true})
	}))
	ring := make([][]float64, 0, 400)
	for i := range 200 {
		ring = append(ring, []float64{float64(i) / 10, 0.123456})
	}
	for i := range 200 {
		ring = append(ring, []float64{float64(200-i) / 10, 10.123456})
	}
	ring = append(ring, ring[0])
	area2, err := json.Marshal(map[string]any{"within": map[string]any{"type": "Polygon", "coordinates": [][][]float64{ring}}})
	require.NoError(t, err)
	_, err = r.PutPolicy(t.Context(), "ops", &api.Policy{Scope: "default", Location: area2})
	require.NoError(t, err)

	seen := 0
	for since := uint64(0); ; {
		signed, err := r.SignedSnapshot(t.Context(), since, nil, maxSnapshot)
		require.NoError(t, err)
		var s answer.Snapshot
		require.NoError(t, r.pin.Open(answer.KindSnapshot, signed, &s))
		seen += len(s.Records)
		if since = s.Through; !s.More {
			break
		}
	}
	require.Equal(t, machines, seen)

	_, err = r.PutPolicy(t.Context(), "ops", &api.Policy{Scope: "default", Location: append([]byte(`{"mode":"`), append(bytes.Repeat([]byte("x"), maxLocation), `"}`...)...)})
	refused(t, api.BadRequest, err)
}

func TestEventIsSignedForEachStreamAndLeavesTheSharedOneAlone(t *testing.T) {
	r := newRig(t)
	kid := r.enrolled(hash(1), "edge-a", api.StateEnrolled, nil)
	_, err := r.RevokeMachine(t.Context(), "ops", "edge-a", "stolen")
	require.NoError(t, err)
	stored := r.lastEvent()
	shared, err := r.Event(t.Context(), &stored)
	require.NoError(t, err)
	for _, nonce := range [][]byte{{1}, {2}} {
		signed, err := r.SignEvent(shared, nonce)
		require.NoError(t, err)
		var e answer.Event
		require.NoError(t, r.pin.Open(answer.KindEvent, signed, &e))
		require.Equal(t, nonce, e.Nonce)
		require.Equal(t, stored.Revision, e.Revision)
		require.Equal(t, stored.Previous, e.Previous)
		require.Equal(t, kid, e.Records[0].KID)
		require.Equal(t, api.StateRevoked, e.Records[0].State)
	}
	require.Nil(t, shared.Nonce)
	signed, err := r.SignedHeartbeat([]byte{3}, 4, stored.Revision)
	require.NoError(t, err)
	var beat answer.Heartbeat
	require.NoError(t, r.pin.Open(answer.KindHeartbeat, signed, &beat))
	require.Equal(t, uint64(4), beat.Count)
}

func TestMachinesAreListedInPages(t *testing.T) {
	r := newRig(t)
	for n := range 5 {
		r.enrolled(hash(n), fmt.Sprintf("edge-%d", n), api.StateEnrolled, nil)
	}
	var names []string
	after := ""
	for {
		page, err := r.Machines(t.Context(), store.MachineFilter{Limit: 2, After: after})
		require.NoError(t, err)
		for i := range page.Items {
			names = append(names, page.Items[i].Name)
			require.Equal(t, api.StateEnrolled, page.Items[i].State)
		}
		if after = page.Next; after == "" {
			break
		}
	}
	require.Equal(t, []string{"edge-0", "edge-1", "edge-2", "edge-3", "edge-4"}, names)
}

func TestStoreThatIsGoneIsSaidAndNotGuessed(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := r.SignedKey(ctx, hash(1), nil)
	refused(t, api.StoreUnavailable, err)
	_, err = r.RevokeMachine(ctx, "ops", "edge-a", "stolen")
	refused(t, api.StoreUnavailable, err)
}
