package answer_test

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/answer"
)

func TestAnswerAboutAnIdentityIsHeldAgainstItsQuestion(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	origin, nonce := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	good := func() *answer.Identity {
		return &answer.Identity{
			Head:   answer.Head{Store: "s", Nonce: nonce, Revision: 4, IssuedAt: now, NotAfter: now.Add(15 * time.Minute)},
			Origin: origin, Instance: bytes.Repeat([]byte{3}, 32), Counter: 9, Verified: true,
		}
	}
	require.NoError(t, good().Answers(origin, nonce, now, now, 0))
	unknown := good()
	unknown.Instance, unknown.Counter, unknown.Verified = nil, 0, false
	require.NoError(t, unknown.Answers(origin, nonce, now, now, 0))
	require.False(t, unknown.Known())

	for name, c := range map[string]struct {
		change func(*answer.Identity)
		want   error
	}{
		"replayed":                {func(i *answer.Identity) { i.Nonce = bytes.Repeat([]byte{4}, 32) }, answer.ErrNonce},
		"asked by nobody":         {func(i *answer.Identity) { i.Nonce = nil }, answer.ErrNonce},
		"about another":           {func(i *answer.Identity) { i.Origin = bytes.Repeat([]byte{4}, 32) }, answer.ErrOther},
		"about nobody":            {func(i *answer.Identity) { i.Origin = nil }, answer.ErrOther},
		"of no store":             {func(i *answer.Identity) { i.Store = "" }, answer.ErrMalformed},
		"without a time":          {func(i *answer.Identity) { i.IssuedAt = time.Time{} }, answer.ErrMalformed},
		"over before it began":    {func(i *answer.Identity) { i.NotAfter = i.IssuedAt }, answer.ErrMalformed},
		"unknown, with a counter": {func(i *answer.Identity) { i.Instance = nil }, answer.ErrMalformed},
		"known, with half a key":  {func(i *answer.Identity) { i.Instance = i.Instance[:16] }, answer.ErrMalformed},
		"counter of no store":     {func(i *answer.Identity) { i.Counter = 1 << 63 }, answer.ErrMalformed},
		"from before":             {func(i *answer.Identity) { i.IssuedAt = now.Add(-2 * time.Minute) }, answer.ErrTime},
		"from the future":         {func(i *answer.Identity) { i.IssuedAt = now.Add(2 * time.Minute) }, answer.ErrTime},
		"over": {func(i *answer.Identity) {
			i.IssuedAt, i.NotAfter = now.Add(-time.Minute), now.Add(-61*time.Second+time.Millisecond)
		}, nil},
	} {
		i := good()
		c.change(i)
		err := i.Answers(origin, nonce, now, now, time.Minute)
		if c.want == nil {
			require.Error(t, err, name)
			continue
		}
		require.ErrorIs(t, err, c.want, name)
	}
	require.ErrorIs(t, good().Answers(origin, nil, now, now, 0), answer.ErrNonce)
	require.ErrorIs(t, good().Answers(nil, nonce, now, now, 0), answer.ErrOther)
	require.ErrorIs(t, good().Answers(origin, nonce, now, now.Add(20*time.Minute), time.Minute), answer.ErrTime)
}

func TestAnswerAboutAnIdentityIsReadStrictly(t *testing.T) {
	signer, _ := signer(t, 1)
	verifier := pinned(t, signer)
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	signed, err := signer.Sign(answer.KindIdentity, &answer.Identity{
		Head: answer.Head{Store: "s", IssuedAt: now, NotAfter: now.Add(time.Minute)}, Origin: make([]byte, 32), Counter: 0,
	})
	require.NoError(t, err)
	var i answer.Identity
	require.NoError(t, verifier.Open(answer.KindIdentity, signed, &i))
	require.ErrorIs(t, verifier.Open(answer.KindSnapshot, signed, &answer.Snapshot{}), answer.ErrKind)
	for _, payload := range []string{
		`{"store":"s","revision":1,"issued_at":"2026-11-21T12:00:00Z","not_after":"2026-11-21T12:01:00Z","origin":"","instance":"","counter":0,"verified":false,"more":1}`,
		`{"store":"s","revision":1,"issued_at":"2026-11-21T12:00:00Z","not_after":"2026-11-21T12:01:00Z","origin":"","instance":"","counter":0,"counter":9,"verified":false}`,
		`{"store":"s","Counter":0}`,
		`{"counter":-1}`,
	} {
		signed, err := signer.Sign(answer.KindIdentity, json.RawMessage(payload))
		require.NoError(t, err)
		require.ErrorIs(t, verifier.Open(answer.KindIdentity, signed, &answer.Identity{}), answer.ErrMalformed, payload)
	}
}
