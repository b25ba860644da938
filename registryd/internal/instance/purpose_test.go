package instance

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/sha512"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/identity/unlock"
	"github.com/telemark-otel/telemark/internal/registry/api"
)

// transcript is what a VM asks its owner for a key with.
func transcript(t *testing.T, nonce [32]byte) *unlock.Transcript {
	t.Helper()
	private, err := hpke.MLKEM768X25519().GenerateKey()
	require.NoError(t, err)
	var h []byte
	for _, id := range []uint16{hpke.MLKEM768X25519().ID(), hpke.HKDFSHA256().ID(), hpke.AES256GCM().ID()} {
		h = binary.BigEndian.AppendUint16(h, id)
	}
	out := &unlock.Transcript{OwnerNonce: nonce, Owner: public(key(3)), HPKE: append(h, private.PublicKey().Bytes()...), State: "fresh"}
	_, err = unlock.ParseTranscript(out.Bytes())
	require.NoError(t, err)
	return out
}

// Everybody can have quotes of an instance for an attestation, in its
// certificate, or for its volume's key, and may choose the nonce: none of them
// registers it.
func TestQuoteMadeForAnotherPurposeRegistersNothing(t *testing.T) {
	r := newRig(t, nil)
	v := newVM(1, 9)
	reg := r.says(v)
	require.LessOrEqual(t, len(reg.Nonce), api.MaxSession)
	first := *reg
	first.Nonce, first.Statement, first.Possession = nil, nil, nil
	bare := *reg
	bare.Statement = nil
	for name, data := range map[string][64]byte{
		"certificate":                       statement.AttestData(nil, reg.Statement),
		"attestation under the nonce":       statement.AttestData(reg.Nonce, reg.Statement),
		"attestation under a part of it":    statement.AttestData(reg.Nonce[:64], reg.Statement),
		"storage":                           transcript(t, [32]byte(reg.Nonce)).ReportData(),
		"first generation":                  api.ReportDataV0(&first),
		"second generation, no statement":   api.ReportDataV1(&bare),
		"the first generation with a nonce": sha512.Sum512(append(bytes.Clone(reg.InstancePubkey), reg.Nonce...)),
		"the PPID":                          sha512.Sum512([]byte("telemark-identity-ppid-v1\x00")),
		"nothing":                           {},
	} {
		reg.AttestationQuote = r.lab.Quote(data)
		_, err := r.told(reg)
		require.ErrorIs(t, err, &api.Error{Reason: api.ReportDataMismatch}, name)
		// Nor by the older form.
		if name != "first generation" {
			first.AttestationQuote = reg.AttestationQuote
			_, err = r.Register(t.Context(), &first, 1, "")
			require.ErrorIs(t, err, &api.Error{Reason: api.ReportDataMismatch}, name)
		}
		// Nor without its statement.
		if name != "second generation, no statement" {
			bare.AttestationQuote = reg.AttestationQuote
			_, err = r.told(&bare)
			require.ErrorIs(t, err, &api.Error{Reason: api.ReportDataMismatch}, name)
		}
	}
	r.quote(reg, 2)
	_, err := r.told(reg)
	require.NoError(t, err, "the nonce was not used up")
}

// In the older form the instance key comes first and nothing says for what it is.
// A key that is spelled like the tag of another purpose begins a registration that
// hashes to the same as something that an instance quotes for everybody, if the
// lengths allow it: they do not without parties, and parties need a signature by
// that key, whose private half nobody knows.
func TestKeySpelledLikeATagRegistersNothing(t *testing.T) {
	r := newRig(t, nil)
	ppid := r.lab.Platform().PPID
	v := newVM(1, 9)
	raw, err := v.statement().Encode()
	require.NoError(t, err)
	shortest, err := (&statement.Statement{
		Version: 1, Instance: public(key(1)), Origin: public(key(1)), Boot: "b", State: statement.Locked,
	}).Encode()
	require.NoError(t, err)
	for name, preimage := range map[string][]byte{
		"attestation": attestation(bytes.Repeat([]byte{5}, 16), raw),
		"certificate": attestation(nil, shortest),
		"storage":     transcript(t, [32]byte{}).Bytes(),
	} {
		const withoutParties = ed25519.PublicKeySize + ppidSize
		require.Greater(t, len(preimage), withoutParties, name)
		reg := &api.Registration{InstancePubkey: preimage[:32], PPID: ppid[:]}
		reg.Operator = &api.Party{Pubkey: public(key(2)), InstanceSignature: ed25519.Sign(key(2), preimage[:32]), IdentitySignature: preimage[48 : 48+64]}
		r.quote(reg, 1)
		_, err := r.Register(t.Context(), reg, 1, "")
		require.ErrorIs(t, err, &api.Error{Reason: api.IdentitySignatureInvalid}, name)
	}
}

// attestation is what statement.AttestData hashes.
func attestation(nonce, raw []byte) []byte {
	b := []byte("telemark-identity-attest-v1\x00")
	for _, p := range [][]byte{nonce, raw} {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(p))), p...)
	}
	return b
}

// Anybody makes a link that leads from such an origin to a key of his own.
func TestOriginThatAnybodySignsForIsNoIdentity(t *testing.T) {
	r := newRig(t, nil)
	low := make([]byte, ed25519.PublicKeySize)
	low[0] = 1 // the neutral element
	v := newVM(1, 9)
	signature := append(bytes.Clone(low), make([]byte, 32)...) // R neutral, S zero: good for every message
	require.True(t, ed25519.Verify(low, statement.LinkMessage(public(v.instance), 8), signature))
	_, err := r.told(r.says(v, func(s *statement.Statement) {
		s.Origin, s.Link = low, &statement.Link{At: v.closed, Counter: 8, Signature: signature}
	}))
	require.ErrorIs(t, err, &api.Error{Reason: api.StatementContradicted})
}
