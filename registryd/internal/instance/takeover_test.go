package instance

import (
	"bytes"
	"crypto/ed25519"
	"crypto/elliptic"
	"encoding/hex"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tdx/collateral"
	"github.com/telemark-otel/telemark/registryd/internal/store"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

// allowEncrypted makes a registry that takes quotes that nothing vouches for.
func allowEncrypted(t *testing.T) *rig {
	r := newRig(t, nil)
	bundle := t.TempDir()
	require.NoError(t, r.lab.WriteBundle(bundle, r.at))
	quotes, err := collateral.New(collateral.Options{Source: collateral.Bundle{Dir: bundle}, Roots: r.lab.Roots(), AllowEncryptedPPID: true})
	require.NoError(t, err)
	t.Cleanup(quotes.Close)
	r.o.Quotes, r.o.AllowEncryptedPPID = quotes, true
	return r
}

// A quote with an encrypted PPID is signed by a key that it brings along: all
// of it can be made in software, from what the registry tells everybody.
func TestForgedQuoteDoesNotReplaceAProvenInstance(t *testing.T) {
	r := allowEncrypted(t)
	reg := r.second(r.registration(1, 2))
	proven, err := r.Register(t.Context(), reg, 2, "")
	require.NoError(t, err)
	require.True(t, proven.PPIDProven)

	forged := &api.Registration{InstancePubkey: reg.InstancePubkey, PPID: reg.PPID, Operator: reg.Operator, TLSKey: bytes.Repeat([]byte{66}, 32)}
	n, err := r.Nonce(t.Context())
	require.NoError(t, err)
	forged.Nonce = n.Nonce
	r.quote(forged, 2, func(q *tdxlab.Quote) { q.InnerType = 2 })
	_, err = r.Register(t.Context(), forged, 2, "")
	refused(t, api.PPIDEncrypted, err)

	after, err := r.Instance(t.Context(), hex.EncodeToString(reg.InstancePubkey))
	require.NoError(t, err)
	require.Equal(t, proven, after)
}

func TestQuoteThatNothingVouchesForIsNotCalledVerified(t *testing.T) {
	r := allowEncrypted(t)
	reg := r.registration(1)
	r.quote(reg, 1, func(q *tdxlab.Quote) { q.InnerType = 3 })
	i, err := r.Register(t.Context(), reg, 1, "")
	require.NoError(t, err)
	require.Equal(t, api.TDXUnverified, i.State)
	require.False(t, i.PPIDProven)

	// What proves it is taken at any time.
	r.quote(reg, 1)
	i, err = r.Register(t.Context(), reg, 1, "")
	require.NoError(t, err)
	require.Equal(t, api.TDXVerified, i.State, "also when it is the same signature with a certificate")
}

// Another VM of the platform may say that the key is its own. Who looks has to
// see that.
func TestAuditLogShowsWhatRegisteredAnInstance(t *testing.T) {
	r := newRig(t, nil)
	reg := r.registration(1)
	reg.TLSKey = bytes.Repeat([]byte{0xab}, 32)
	_, err := r.Register(t.Context(), r.second(reg), 2, "")
	require.NoError(t, err)
	require.NoError(t, r.o.Store.View(t.Context(), func(tx *store.Tx) error {
		entries, err := tx.AuditEntries(0, 10)
		require.Len(t, entries, 1)
		i, _ := tx.Instance(hex.EncodeToString(reg.InstancePubkey))
		require.Contains(t, string(entries[0].Detail), `"tls_key":"`+strings.Repeat("ab", 32)+`"`)
		require.Contains(t, string(entries[0].Detail), `"mrtd":"`+hex.EncodeToString(i.Measurements.MRTD)+`"`)
		return err
	}))
}

// Parts of a quote are not signed, and of each ECDSA signature there are two:
// whoever recorded one quote can write it in many ways.
func TestOldQuoteWrittenInAnotherWayExtendsNothing(t *testing.T) {
	r := newRig(t, nil)
	reg := r.registration(1, 2)
	first, err := r.Register(t.Context(), reg, 1, "")
	require.NoError(t, err)

	other := func(change func(quote []byte) []byte) *api.Registration {
		again := *reg
		again.AttestationQuote = change(slices.Clone([]byte(reg.AttestationQuote)))
		require.NotEqual(t, reg.AttestationQuote, again.AttestationQuote)
		return &again
	}
	for name, again := range map[string]*api.Registration{
		"the other signature": other(func(q []byte) []byte {
			s := new(big.Int).SetBytes(q[668:700])
			s.Sub(elliptic.P256().Params().N, s).FillBytes(q[668:700])
			return q
		}),
		"a line break behind the certificates": other(func(q []byte) []byte {
			// The three lengths that hold it: of all, of type 6, of type 5.
			inner := 770 + 384 + 64 + 2 + int(q[770+448]) + int(q[770+449])<<8 + 2
			for _, at := range []int{632, 766, inner} {
				q[at]++
				require.NotZero(t, q[at])
			}
			return append(q, '\n')
		}),
	} {
		r.at = r.at.Add(time.Hour)
		i, err := r.Register(t.Context(), again, 1, "")
		require.NoError(t, err, name)
		require.Equal(t, first.ExpiresAt, i.ExpiresAt, name)
		require.Equal(t, first.Revision, i.Revision, name)
	}
}

// With such a key everybody's signature over anything is good.
func TestKeyOfLowOrderIsRefused(t *testing.T) {
	r := newRig(t, nil)
	identity := append([]byte{1}, make([]byte, 31)...)
	anything := append(slices.Clone(identity), make([]byte, 32)...) // R the identity, S zero
	require.True(t, ed25519.Verify(identity, []byte("anything"), anything), "or the test tests nothing")

	reg := r.registration(1)
	reg.Operator = &api.Party{Pubkey: identity, InstanceSignature: anything, IdentitySignature: ed25519.Sign(key(1), identity)}
	r.quote(reg, 1)
	_, err := r.Register(t.Context(), reg, 1, "")
	refused(t, api.OperatorSignatureInvalid, err)

	reg = r.registration(1, 2)
	reg.InstancePubkey = identity
	reg.Operator.InstanceSignature, reg.Operator.IdentitySignature = ed25519.Sign(key(2), identity), anything
	r.quote(reg, 1)
	_, err = r.Register(t.Context(), reg, 1, "")
	refused(t, api.InstanceKeyInvalid, err)
}

func TestEveryKeyOfLowOrderIsKnown(t *testing.T) {
	for _, low := range lowOrder {
		for _, sign := range []byte{0, 0x80} {
			public := slices.Clone(low[:])
			public[31] |= sign
			require.False(t, isKey(public))
		}
	}
	require.True(t, isKey(public(key(1))))
	// Of such keys a signature is good that nobody made, for one message in
	// eight at the least.
	forged := append(append([]byte{1}, make([]byte, 31)...), make([]byte, 32)...)
	for _, low := range lowOrder {
		good := 0
		for i := range 256 {
			if ed25519.Verify(low[:], []byte{byte(i)}, forged) {
				good++
			}
		}
		require.Positive(t, good, "%x", low)
	}
}

// A registration that was taken while verification was switched off does not
// stand for a verified one later.
func TestRepeatedRegistrationIsVerifiedOnceVerificationIsOn(t *testing.T) {
	r := newRig(t, nil)
	on := r.o.Quotes
	r.o.Quotes = nil
	reg := r.registration(1)
	i, err := r.Register(t.Context(), reg, 1, "")
	require.NoError(t, err)
	require.Equal(t, api.TDXUnverified, i.State)
	r.o.Quotes = on
	i, err = r.Register(t.Context(), reg, 1, "")
	require.NoError(t, err)
	require.Equal(t, api.TDXVerified, i.State)
	require.NotNil(t, i.Measurements)
}
