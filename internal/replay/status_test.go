package replay

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/reason"
)

func TestStatusPagesThroughEverythingOnce(t *testing.T) {
	l := memory(t)
	for i := range 25 {
		for _, kid := range []string{kidA, kidB} {
			accept(t, l, t0, blk(1, inStream(fmt.Sprint("s", i)), func(b *Block) { b.KID = kid }))
		}
	}
	l.Refused(scopeA, "unknown", "s", reason.UnknownKey)
	seen := map[string]int{}
	q := StatusQuery{Limit: 7}
	pages := 0
	for {
		p, err := l.Status(t.Context(), q)
		require.NoError(t, err)
		require.LessOrEqual(t, len(p.Streams), 7)
		for _, s := range p.Streams {
			seen[s.KID+s.Stream]++
		}
		pages++
		if p.Next == "" {
			break
		}
		q.Cursor = p.Next
	}
	require.Equal(t, 8, pages)
	require.Len(t, seen, 51)
	for id, n := range seen {
		require.Equal(t, 1, n, id)
	}
	p, err := l.Status(t.Context(), StatusQuery{KID: kidB})
	require.NoError(t, err)
	require.Len(t, p.Streams, 25)
}

func TestForgedCursorIsRefused(t *testing.T) {
	l := memory(t)
	good := row{scope: "a", kid: "b", stream: "c", epoch: 1}.cursor()
	raw, err := base64.RawURLEncoding.DecodeString(good)
	require.NoError(t, err)
	for _, c := range []string{
		"!", good + "A", good[:len(good)-2],
		base64.RawURLEncoding.EncodeToString(append(raw, 0)),
		base64.RawURLEncoding.EncodeToString([]byte{0xff, 0xff, 0xff, 0xff, 0x7f}),
	} {
		_, err := l.Status(t.Context(), StatusQuery{Cursor: c})
		require.ErrorIs(t, err, ErrCursor, c)
	}
	_, err = l.Status(t.Context(), StatusQuery{Cursor: good})
	require.NoError(t, err)
}

func TestRefusalsOfKnownStreamsStandWithThem(t *testing.T) {
	l := memory(t)
	accept(t, l, t0, blk(1))
	l.Refused(scopeA, kidA, logs, reason.DigestMismatch)
	l.Refused(scopeA, kidA, logs, reason.DigestMismatch)
	require.Equal(t, map[reason.Reason]uint64{reason.DigestMismatch: 2}, status1(t, l, logs).Refused)
	require.Zero(t, l.unknown.Len())
}

func TestFloodOfUnknownKeysIsBounded(t *testing.T) {
	l := memory(t, func(l *Limits) { l.MaxRefused = 10 })
	accept(t, l, t0, blk(1))
	for i := range 1000 {
		l.Refused(scopeA, fmt.Sprint(i), strings.Repeat("x", 1000), reason.UnknownKey)
	}
	p, err := l.Status(t.Context(), StatusQuery{})
	require.NoError(t, err)
	require.Len(t, p.Streams, 11)
	for _, s := range p.Streams {
		require.LessOrEqual(t, len(s.Stream), maxRefusedName)
	}
	require.Equal(t, uint64(1), status1(t, l, logs).Verified, "it pushes out no key that is known")
	require.Len(t, l.keys, 1)
}

func TestLimitsThatMakeNoSenseAreRefused(t *testing.T) {
	for name, change := range map[string]func(*Limits){
		"delay":  func(l *Limits) { l.MaxDelay = 0 },
		"skew":   func(l *Limits) { l.Skew = -1 },
		"gap":    func(l *Limits) { l.GapTimeout = l.MaxDelay + 1 },
		"lease":  func(l *Limits) { l.ClaimLease = 0 },
		"silent": func(l *Limits) { l.SilentAfter = -1 },
		"epochs": func(l *Limits) { l.MaxEpochs = 0 },
		"ranges": func(l *Limits) { l.MaxRanges = 1 },
	} {
		_, _, err := Open(t.Context(), t0, options(nil, change))
		require.ErrorContains(t, err, "replay limits", name)
	}
}
