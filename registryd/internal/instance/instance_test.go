package instance

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tdx/collateral"
	"github.com/telemark-otel/telemark/registryd/internal/store"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

// rig is a Service over a real store and the real verifier, in which only the
// root of trust is the forging lab's.
type rig struct {
	*Service
	t   *testing.T
	at  time.Time
	lab *tdxlab.Lab
}

func newRig(t *testing.T, change func(*Options)) *rig {
	t.Helper()
	return newRigOn(t, filepath.Join(t.TempDir(), "registry.db"), change)
}

func newRigOn(t *testing.T, dsn string, change func(*Options)) *rig {
	t.Helper()
	r := &rig{t: t, at: time.Now().UTC().Truncate(time.Millisecond), lab: tdxlab.New("instance")}
	bundle := t.TempDir()
	require.NoError(t, r.lab.WriteBundle(bundle, r.at))
	quotes, err := collateral.New(collateral.Options{Source: collateral.Bundle{Dir: bundle}, Roots: r.lab.Roots()})
	require.NoError(t, err)
	t.Cleanup(quotes.Close)
	db, err := store.Open(t.Context(), dsn, store.Options{Now: func() time.Time { return r.at }})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	signer, err := answer.NewSigner(key(250))
	require.NoError(t, err)
	o := Options{Store: db, Quotes: quotes, SealKey: bytes.Repeat([]byte{9}, 32), Signer: signer, Now: func() time.Time { return r.at }}
	if change != nil {
		change(&o)
	}
	r.Service, err = New(o)
	require.NoError(t, err)
	return r
}

func key(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func public(k ed25519.PrivateKey) []byte { return k.Public().(ed25519.PublicKey) }

func partyOf(instance, party ed25519.PrivateKey) *api.Party {
	return &api.Party{
		Pubkey:            public(party),
		InstanceSignature: ed25519.Sign(party, public(instance)),
		IdentitySignature: ed25519.Sign(instance, public(party)),
	}
}

// registration is a good one of the first generation, its quote made last.
func (r *rig) registration(seed byte, parties ...byte) *api.Registration {
	ppid := r.lab.Platform().PPID
	reg := &api.Registration{InstancePubkey: public(key(seed)), PPID: ppid[:]}
	if len(parties) > 0 {
		reg.Operator = partyOf(key(seed), key(parties[0]))
	}
	if len(parties) > 1 {
		reg.Owner = partyOf(key(seed), key(parties[1]))
	}
	r.quote(reg, 1)
	return reg
}

func (r *rig) quote(reg *api.Registration, generation int, edits ...func(*tdxlab.Quote)) {
	data := api.ReportDataV0(reg)
	if generation == 2 {
		data = api.ReportDataV1(reg)
	}
	reg.AttestationQuote = r.lab.Quote(data, edits...)
}

// possess signs a registration with a statement as the holder of the key does.
func possess(reg *api.Registration, instance ed25519.PrivateKey) {
	reg.Possession = ed25519.Sign(instance, api.PossessionMessage(reg))
}

// second makes a registration one of the second generation, with a fresh nonce.
func (r *rig) second(reg *api.Registration) *api.Registration {
	r.t.Helper()
	n, err := r.Nonce(r.t.Context())
	require.NoError(r.t, err)
	reg.Nonce = n.Nonce
	r.quote(reg, 2)
	return reg
}

func refused(t *testing.T, reason api.Reason, err error) {
	t.Helper()
	require.ErrorIs(t, err, &api.Error{Reason: reason}, "%v", err)
}

func TestFirstGenerationIsRegisteredAndMarkedAsWithoutFreshness(t *testing.T) {
	r := newRig(t, nil)
	reg := r.registration(1, 2, 3)
	_, err := r.Register(t.Context(), reg, 1, "192.0.2.1")
	require.NoError(t, err)
	i, err := r.Instance(t.Context(), hex.EncodeToString(reg.InstancePubkey))
	require.NoError(t, err)
	require.Equal(t, api.TDXVerified, i.State)
	require.Equal(t, "none", i.Freshness)
	require.Equal(t, reg.PPID, i.PPID)
	require.Equal(t, reg.AttestationQuote, i.AttestationQuote)
	require.Equal(t, reg.Operator, i.Operator)
	require.Equal(t, reg.Owner, i.Owner)
	require.True(t, i.PPIDProven)
	require.NotEmpty(t, i.TCBStatus)
	require.Len(t, i.Measurements.MRTD, 48)

	r.at = r.at.Add(25 * time.Hour)
	i, err = r.Instance(t.Context(), hex.EncodeToString(reg.InstancePubkey))
	require.NoError(t, err)
	require.Equal(t, api.TDXExpired, i.State)
}

func TestReportDataIsTheConcatenationThatClientsSign(t *testing.T) {
	r := newRig(t, nil)
	reg := r.registration(1, 2)
	var all []byte
	for _, part := range [][]byte{reg.InstancePubkey, reg.PPID, reg.Operator.Pubkey, reg.Operator.InstanceSignature, reg.Operator.IdentitySignature} {
		all = append(all, part...)
	}
	require.Equal(t, sha512.Sum512(all), api.ReportDataV0(reg))
}

func TestRepeatedIdenticalRegistrationIsAcceptedAndExtendsNothing(t *testing.T) {
	r := newRig(t, nil)
	reg := r.registration(1, 2)
	first, err := r.Register(t.Context(), reg, 1, "")
	require.NoError(t, err)
	r.at = r.at.Add(time.Hour)
	again, err := r.Register(t.Context(), reg, 1, "")
	require.NoError(t, err)
	require.Equal(t, first, again, "a replayed registration keeps nothing alive")
}

func TestPartiesAreAddedAndNeverChangedOrRemoved(t *testing.T) {
	r := newRig(t, nil)
	register := func(reg *api.Registration) error {
		_, err := r.Register(t.Context(), reg, 1, "")
		return err
	}
	require.NoError(t, register(r.registration(1)))
	require.NoError(t, register(r.registration(1, 2)))
	refused(t, api.OperatorChanged, register(r.registration(1)))
	refused(t, api.OperatorChanged, register(r.registration(1, 4)))
	require.NoError(t, register(r.registration(1, 2, 3)))
	refused(t, api.OwnerChanged, register(r.registration(1, 2)))
	refused(t, api.OwnerChanged, register(r.registration(1, 2, 4)))
}

func TestInstanceDoesNotMoveToAnotherPlatform(t *testing.T) {
	r := newRig(t, nil)
	_, err := r.Register(t.Context(), r.registration(1), 1, "")
	require.NoError(t, err)
	moved := r.registration(1)
	moved.PPID = bytes.Repeat([]byte{1}, 16)
	r.quote(moved, 1)
	_, err = r.Register(t.Context(), moved, 1, "")
	refused(t, api.PPIDChanged, err)
}

func TestRegistrationThatIsForgedIsRefusedWithItsReason(t *testing.T) {
	r := newRig(t, nil)
	for name, c := range map[string]struct {
		reason api.Reason
		change func(*api.Registration)
	}{
		"key of another length":  {api.InstanceKeyInvalid, func(g *api.Registration) { g.InstancePubkey = g.InstancePubkey[1:] }},
		"PPID of another length": {api.PPIDInvalid, func(g *api.Registration) { g.PPID = append(g.PPID, 0) }},
		"bytes moved from operator to PPID": {api.PPIDInvalid, func(g *api.Registration) {
			g.PPID, g.Operator.Pubkey = append(g.PPID, g.Operator.Pubkey[0]), g.Operator.Pubkey[1:]
		}},
		"no quote":                        {api.QuoteMalformed, func(g *api.Registration) { g.AttestationQuote = nil }},
		"owner alone":                     {api.OwnerWithoutOperator, func(g *api.Registration) { g.Operator = nil }},
		"operator's signature of another": {api.OperatorSignatureInvalid, func(g *api.Registration) { g.Operator.InstanceSignature = g.Owner.InstanceSignature }},
		"operator's signature missing":    {api.OperatorSignatureInvalid, func(g *api.Registration) { g.Operator.InstanceSignature = nil }},
		"operator's key short":            {api.OperatorSignatureInvalid, func(g *api.Registration) { g.Operator.Pubkey = g.Operator.Pubkey[1:] }},
		"owner's signature of another":    {api.OwnerSignatureInvalid, func(g *api.Registration) { g.Owner.InstanceSignature = g.Operator.InstanceSignature }},
		"identity signature of another":   {api.IdentitySignatureInvalid, func(g *api.Registration) { g.Owner.IdentitySignature = g.Operator.IdentitySignature }},
		"quote for other data":            {api.ReportDataMismatch, func(g *api.Registration) { g.AttestationQuote = r.lab.Quote([64]byte{1}) }},
		"owner left out of the quote":     {api.ReportDataMismatch, func(g *api.Registration) { g.Owner = nil }},
		"PPID of another platform":        {api.PPIDMismatch, func(g *api.Registration) { g.PPID = bytes.Repeat([]byte{1}, 16); r.quote(g, 1) }},
		"debug TD":                        {api.DebugTD, func(g *api.Registration) { r.quote(g, 1, func(q *tdxlab.Quote) { q.TDAttributes[0] |= 1 }) }},
		"quote signed by another key":     {api.QuoteSignature, func(g *api.Registration) { r.quote(g, 1, func(q *tdxlab.Quote) { q.BadSignature = true }) }},
		"nonce of the other generation":   {api.BadRequest, func(g *api.Registration) { g.Nonce = []byte{1} }},
	} {
		t.Run(name, func(t *testing.T) {
			reg := r.registration(1, 2, 3)
			c.change(reg)
			_, err := r.Register(t.Context(), reg, 1, "")
			refused(t, c.reason, err)
			_, err = r.Instance(t.Context(), hex.EncodeToString(public(key(1))))
			refused(t, api.NotFound, err)
		})
	}
}

func TestSecondGenerationProvesWhenAndTakesNoReplay(t *testing.T) {
	r := newRig(t, nil)
	reg := r.second(r.registration(1, 2))
	i, err := r.Register(t.Context(), reg, 2, "")
	require.NoError(t, err)
	require.Equal(t, "nonce", i.Freshness)
	_, err = r.Register(t.Context(), reg, 2, "")
	refused(t, api.SessionUsed, err)

	r.at = r.at.Add(time.Hour)
	renewed, err := r.Register(t.Context(), r.second(r.registration(1, 2)), 2, "")
	require.NoError(t, err)
	require.Equal(t, i.RegisteredAt, renewed.RegisteredAt)
	require.Equal(t, i.ExpiresAt.Add(time.Hour), renewed.ExpiresAt)

	_, err = r.Register(t.Context(), r.registration(1, 2), 1, "")
	refused(t, api.V1Required, err)
}

func TestNonceThatIsOldForeignOrMissingIsRefused(t *testing.T) {
	r := newRig(t, nil)
	other := newRig(t, func(o *Options) { o.SealKey = bytes.Repeat([]byte{1}, 32) })
	old := r.second(r.registration(1))
	r.at = r.at.Add(nonceLife)
	_, err := r.Register(t.Context(), old, 2, "")
	refused(t, api.SessionExpired, err)

	foreign, err := other.Nonce(t.Context())
	require.NoError(t, err)
	for name, n := range map[string][]byte{"foreign": foreign.Nonce, "missing": nil, "garbage": {1, 2, 3}, "huge": make([]byte, 10_000)} {
		reg := r.registration(1)
		reg.Nonce = n
		r.quote(reg, 2)
		_, err := r.Register(t.Context(), reg, 2, "")
		refused(t, api.SessionMalformed, err)
		require.Error(t, err, name)
	}
	mine := r.second(r.registration(1))
	mine.TLSKey = bytes.Repeat([]byte{5}, 32) // after the quote was made
	_, err = r.Register(t.Context(), mine, 2, "")
	refused(t, api.ReportDataMismatch, err)
}

func TestFirstGenerationCanBeSwitchedOff(t *testing.T) {
	r := newRig(t, func(o *Options) { o.RequireV1 = true })
	_, err := r.Register(t.Context(), r.registration(1), 1, "")
	refused(t, api.V1Required, err)
	_, err = r.Register(t.Context(), r.second(r.registration(1)), 2, "")
	require.NoError(t, err)
}

func TestRevokedInstanceStaysOut(t *testing.T) {
	r := newRig(t, nil)
	reg := r.registration(1)
	_, err := r.Register(t.Context(), reg, 1, "")
	require.NoError(t, err)
	pubkey := hex.EncodeToString(reg.InstancePubkey)
	i, err := r.Revoke(t.Context(), "ops", pubkey, "decommissioned")
	require.NoError(t, err)
	require.Equal(t, api.TDXRevoked, i.State)
	_, err = r.Register(t.Context(), reg, 1, "")
	refused(t, api.InstanceRevoked, err)
	_, err = r.Revoke(t.Context(), "ops", strings.Repeat("0", 64), "x")
	refused(t, api.NotFound, err)
}

func TestHundredFirstRegistrationsAtOnceGiveOneWinner(t *testing.T) {
	r := newRig(t, nil)
	regs := make([]*api.Registration, 100)
	for n := range regs { // half of them with one operator, half with another
		regs[n] = r.registration(1, byte(2+n%2))
	}
	var (
		wg       sync.WaitGroup
		mu       sync.Mutex
		winners  = map[string]int{}
		refusals int
	)
	for _, reg := range regs {
		wg.Go(func() {
			i, err := r.Register(t.Context(), reg, 1, "")
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				winners[hex.EncodeToString(i.Operator.Pubkey)]++
				return
			}
			if api.ReasonOf(err) == api.OperatorChanged {
				refusals++
			}
		})
	}
	wg.Wait()
	require.Len(t, winners, 1)
	require.Equal(t, 50, refusals)
	for _, n := range winners {
		require.Equal(t, 50, n)
	}
	require.NoError(t, r.o.Store.View(t.Context(), func(tx *store.Tx) error {
		head, err := tx.AuditHead()
		require.NoError(t, err)
		entries, err := tx.AuditEntries(0, 1000)
		require.NoError(t, err)
		require.Equal(t, int(head.Seq), len(entries))
		registered := 0
		for i := range entries {
			if entries[i].Action == "instance.register" {
				registered++
			}
		}
		require.Equal(t, 1, registered)
		return nil
	}))
}

func TestSwitchedOffVerificationStillHoldsTheHash(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Quotes = nil })
	reg := r.registration(1)
	i, err := r.Register(t.Context(), reg, 1, "")
	require.NoError(t, err)
	require.Equal(t, api.TDXUnverified, i.State)
	require.False(t, i.PPIDProven)
	require.Nil(t, i.Measurements)
	forged := r.registration(4)
	forged.AttestationQuote = r.lab.Quote([64]byte{1})
	_, err = r.Register(t.Context(), forged, 1, "")
	refused(t, api.ReportDataMismatch, err)
	forged.AttestationQuote = []byte("quote")
	_, err = r.Register(t.Context(), forged, 1, "")
	refused(t, api.QuoteLength, err)
}

func TestBytesAreReadAsHexAndAsNumbers(t *testing.T) {
	var h api.Hex
	require.NoError(t, json.Unmarshal([]byte(`"00Ff"`), &h))
	require.Equal(t, api.Hex{0, 255}, h)
	require.NoError(t, json.Unmarshal([]byte(`[0, 255]`), &h))
	require.Equal(t, api.Hex{0, 255}, h)
	for _, bad := range []string{`"0"`, `"zz"`, `[256]`, `[-1]`, `[1.5]`, `["a"]`, `null`, `{}`, `1`} {
		require.Error(t, json.Unmarshal([]byte(bad), &h), bad)
	}
}

func TestInstancesAreListedInPages(t *testing.T) {
	r := newRig(t, nil)
	for seed := range byte(3) {
		_, err := r.Register(t.Context(), r.registration(seed+1, 9), 1, "")
		require.NoError(t, err)
	}
	seen, after := 0, ""
	for {
		page, err := r.Instances(t.Context(), store.InstanceFilter{Limit: 2, After: after, Operator: hex.EncodeToString(public(key(9)))})
		require.NoError(t, err)
		seen += len(page.Items)
		if after = page.Next; after == "" {
			break
		}
	}
	require.Equal(t, 3, seen)
}
