package answer_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/veraison/go-cose"

	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/api"
)

func signer(t testing.TB, seed byte) (*answer.Signer, ed25519.PrivateKey) {
	t.Helper()
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	s, err := answer.NewSigner(key)
	require.NoError(t, err)
	return s, key
}

func pinned(t testing.TB, signers ...*answer.Signer) *answer.Verifier {
	t.Helper()
	var all []byte
	for _, s := range signers {
		all = append(all, s.Public()...)
	}
	v, err := answer.NewVerifier(all)
	require.NoError(t, err)
	return v
}

func example() answer.Key {
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	return answer.Key{
		Head:   answer.Head{Store: "5f", Nonce: []byte{1, 2, 3}, Revision: 7, IssuedAt: at, NotAfter: at.Add(time.Minute)},
		Record: answer.Record{KID: "000b01", State: api.StateEnrolled, Evidence: api.EvidenceChain, Revision: 5, Entry: []byte(`{"kid":"000b01"}`)},
	}
}

func TestEveryKindComesBackAsItWasSigned(t *testing.T) {
	s, _ := signer(t, 1)
	v := pinned(t, s)
	key := example()
	for kind, pair := range map[answer.Kind][2]any{
		answer.KindKey:       {&key, &answer.Key{}},
		answer.KindSnapshot:  {&answer.Snapshot{Head: key.Head, Since: 1, Through: 7, Records: []answer.Record{key.Record}}, &answer.Snapshot{}},
		answer.KindEvent:     {&answer.Event{Head: key.Head, Previous: 6, What: "revoked", Records: []answer.Record{key.Record}}, &answer.Event{}},
		answer.KindHeartbeat: {&answer.Heartbeat{Head: key.Head, Count: 9}, &answer.Heartbeat{}},
		answer.KindAuditHead: {&answer.AuditHead{Head: key.Head, Seq: 3, Hash: []byte{4}}, &answer.AuditHead{}},
		answer.KindIdentity:  {&answer.Identity{Head: key.Head, Origin: []byte{1}, Instance: []byte{2}, Counter: 9, Verified: true}, &answer.Identity{}},
	} {
		encoded, err := s.Sign(kind, pair[0])
		require.NoError(t, err)
		require.NoError(t, v.Open(kind, encoded, pair[1]), kind)
		require.Equal(t, pair[0], pair[1], kind)
	}
}

func TestAnswerOfOneKindIsNotTakenForAnother(t *testing.T) {
	s, _ := signer(t, 1)
	encoded, err := s.Sign(answer.KindHeartbeat, &answer.Heartbeat{})
	require.NoError(t, err)
	require.ErrorIs(t, pinned(t, s).Open(answer.KindKey, encoded, &answer.Key{}), answer.ErrKind)
}

func TestAnswerOfAnotherRegistryIsRefused(t *testing.T) {
	ours, _ := signer(t, 1)
	theirs, _ := signer(t, 2)
	key := example()
	encoded, err := theirs.Sign(answer.KindKey, &key)
	require.NoError(t, err)
	require.ErrorIs(t, pinned(t, ours).Open(answer.KindKey, encoded, &answer.Key{}), answer.ErrUnknownKey)
	require.NoError(t, pinned(t, ours, theirs).Open(answer.KindKey, encoded, &answer.Key{}), "while keys change both are pinned")
}

func TestNoChangedByteIsAccepted(t *testing.T) {
	s, _ := signer(t, 1)
	v := pinned(t, s)
	key := example()
	encoded, err := s.Sign(answer.KindKey, &key)
	require.NoError(t, err)
	for i := range encoded {
		for bit := range 8 {
			changed := slices.Clone(encoded)
			changed[i] ^= 1 << bit
			require.Error(t, v.Open(answer.KindKey, changed, &answer.Key{}), "byte %d bit %d", i, bit)
		}
		require.Error(t, v.Open(answer.KindKey, encoded[:i], &answer.Key{}), "cut at %d", i)
	}
	require.Error(t, v.Open(answer.KindKey, append(slices.Clone(encoded), 0), &answer.Key{}), "trailing byte")
}

// sign1 makes an answer that is signed rightly and formed as the caller says.
func sign1(t *testing.T, key ed25519.PrivateKey, h cose.Headers, payload string) []byte {
	t.Helper()
	signer, err := cose.NewSigner(cose.AlgorithmEdDSA, key)
	require.NoError(t, err)
	m := cose.Sign1Message{Headers: h, Payload: []byte(payload)}
	require.NoError(t, m.Sign(rand.Reader, nil, signer))
	encoded, err := m.MarshalCBOR()
	require.NoError(t, err)
	return encoded
}

func TestWhatTheRegistryNeverSignsIsRefusedThoughSigned(t *testing.T) {
	s, private := signer(t, 1)
	v := pinned(t, s)
	key := example()
	good, err := s.Sign(answer.KindKey, &key)
	require.NoError(t, err)
	var m cose.Sign1Message
	require.NoError(t, m.UnmarshalCBOR(good))
	protected := func(change func(cose.ProtectedHeader)) cose.Headers {
		h := cose.ProtectedHeader{}
		maps.Copy(h, m.Headers.Protected)
		change(h)
		return cose.Headers{Protected: h}
	}
	same := protected(func(cose.ProtectedHeader) {})
	require.NoError(t, v.Open(answer.KindKey, sign1(t, private, same, string(m.Payload)), &answer.Key{}), "the forge itself is right")

	unprotected := protected(func(cose.ProtectedHeader) {})
	unprotected.Unprotected = cose.UnprotectedHeader{int64(99): "x"}
	for name, encoded := range map[string][]byte{
		"further label":           sign1(t, private, protected(func(h cose.ProtectedHeader) { h[int64(99)] = "x" }), string(m.Payload)),
		"unprotected label":       sign1(t, private, unprotected, string(m.Payload)),
		"no key id":               sign1(t, private, protected(func(h cose.ProtectedHeader) { delete(h, cose.HeaderLabelKeyID) }), string(m.Payload)),
		"unknown member":          sign1(t, private, same, `{"store":"","revision":1,"issued_at":"2026-11-21T12:00:00Z","not_after":"2026-11-21T12:00:00Z","record":{},"more":1}`),
		"member twice":            sign1(t, private, same, `{"store":"a","store":"b"}`),
		"case variant":            sign1(t, private, same, `{"Store":"a"}`),
		"no JSON":                 sign1(t, private, same, `x`),
		"no tag":                  good[1:],
		"another tag":             append([]byte{0xd1}, good[1:]...),
		"longer length of a bstr": longer(t, good),
	} {
		require.ErrorIs(t, v.Open(answer.KindKey, encoded, &answer.Key{}), answer.ErrMalformed, name)
	}
}

// longer writes the length of the signature in two bytes where one is enough.
func longer(t *testing.T, good []byte) []byte {
	t.Helper()
	i := len(good) - 66
	require.Equal(t, []byte{0x58, 64}, good[i:i+2])
	return slices.Concat(good[:i], []byte{0x59, 0, 64}, good[i+2:])
}

func TestHugeAnswerIsRefusedBeforeItIsRead(t *testing.T) {
	s, _ := signer(t, 1)
	require.ErrorIs(t, pinned(t, s).Open(answer.KindKey, make([]byte, answer.MaxSize+1), &answer.Key{}), answer.ErrMalformed)
	_, err := s.Sign(answer.KindSnapshot, &answer.Snapshot{Head: answer.Head{Store: string(make([]byte, answer.MaxSize))}})
	require.Error(t, err)
}

func TestPinnedKeysAreReadStrictly(t *testing.T) {
	s, _ := signer(t, 1)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(&ec.PublicKey)
	require.NoError(t, err)
	for name, content := range map[string][]byte{
		"nothing":       nil,
		"text":          []byte("registry.pub"),
		"text behind":   append(s.Public(), "x"...),
		"text before":   append([]byte("x\n"), s.Public()...),
		"truncated":     s.Public()[:60],
		"ECDSA":         pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}),
		"another type":  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		"no key in PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte{1}}),
	} {
		_, err := answer.NewVerifier(content)
		require.Error(t, err, name)
	}
}

func FuzzOpen(f *testing.F) {
	s, _ := signer(f, 1)
	v := pinned(f, s)
	key := example()
	good, err := s.Sign(answer.KindKey, &key)
	require.NoError(f, err)
	f.Add(good)
	f.Add([]byte{0xd2, 0x84})
	f.Fuzz(func(t *testing.T, b []byte) {
		var k answer.Key
		if v.Open(answer.KindKey, b, &k) == nil {
			require.Equal(t, good, b, "only what was signed opens")
		}
	})
}

func BenchmarkSign(b *testing.B) {
	s, _ := signer(b, 1)
	beat := &answer.Heartbeat{Head: example().Head, Count: 1}
	for b.Loop() {
		if _, err := s.Sign(answer.KindHeartbeat, beat); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	s, _ := signer(b, 1)
	v := pinned(b, s)
	encoded, err := s.Sign(answer.KindHeartbeat, &answer.Heartbeat{Head: example().Head, Count: 1})
	require.NoError(b, err)
	for b.Loop() {
		if err := v.Open(answer.KindHeartbeat, encoded, &answer.Heartbeat{}); err != nil {
			b.Fatal(err)
		}
	}
}
