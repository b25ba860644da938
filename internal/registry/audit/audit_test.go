package audit

import (
	"bytes"
	"encoding/hex"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func log(n int) []Entry {
	var entries []Entry
	var prev []byte
	for i := range n {
		e := Entry{
			Seq: uint64(i + 1), At: time.UnixMilli(1_790_000_000_000 + int64(i)), Actor: "token:ops",
			Action: "revoke", Subject: "00ff", Detail: []byte(`{"reason":"lost"}`),
		}
		e.Hash = Hash(prev, &e)
		prev = e.Hash
		entries = append(entries, e)
	}
	return entries
}

func check(c *Chain, entries []Entry) error {
	for _, e := range entries {
		if err := c.Append(&e); err != nil {
			return err
		}
	}
	return c.End()
}

// The hash is part of the format: this one was computed by another program from
// the bytes in the package comment, and never changes.
func TestHashIsFrozen(t *testing.T) {
	e := Entry{Seq: 1, At: time.UnixMilli(0x0102030405), Actor: "a", Action: "bc", Subject: "", Detail: []byte(`{}`)}
	require.Equal(t, "d0b89b2049c4c36fdb65cca92a24c314f96ecfef454d11a3f03c22691927882d", hex.EncodeToString(Hash(nil, &e)))
	require.Equal(t, Hash(nil, &e), Hash(make([]byte, 32), &e))
}

func TestWholeLogIsAccepted(t *testing.T) {
	entries := log(5)
	var c Chain
	seq, hash := c.Last()
	require.Zero(t, seq)
	require.Equal(t, make([]byte, 32), hash)
	require.NoError(t, c.Expect(0, hash)) // the head of an empty log
	require.NoError(t, c.Expect(3, entries[2].Hash))
	require.NoError(t, c.Expect(5, entries[4].Hash))
	require.NoError(t, check(&c, entries))
	seq, hash = c.Last()
	require.EqualValues(t, 5, seq)
	require.Equal(t, entries[4].Hash, hash)
	require.NoError(t, c.Expect(5, hash))
	require.Error(t, c.Expect(4, hash)) // too late to be checked
	require.NoError(t, check(From(3, entries[2].Hash), entries[3:]))
	require.NoError(t, check(From(0, nil), entries))
}

func TestTamperedLogIsFound(t *testing.T) {
	for name, c := range map[string]struct {
		tamper func(e []Entry) []Entry
		expect error
	}{
		"actor":      {func(e []Entry) []Entry { e[2].Actor = "token:op"; return e }, ErrChanged},
		"action":     {func(e []Entry) []Entry { e[2].Action = ""; return e }, ErrChanged},
		"subject":    {func(e []Entry) []Entry { e[2].Subject = "00fe"; return e }, ErrChanged},
		"detail":     {func(e []Entry) []Entry { e[2].Detail = nil; return e }, ErrChanged},
		"time":       {func(e []Entry) []Entry { e[2].At = e[2].At.Add(time.Millisecond); return e }, ErrChanged},
		"hash":       {func(e []Entry) []Entry { e[2].Hash = bytes.Repeat([]byte{1}, 32); return e }, ErrChanged},
		"no hash":    {func(e []Entry) []Entry { e[2].Hash = nil; return e }, ErrChanged},
		"moved byte": {func(e []Entry) []Entry { e[2].Actor, e[2].Action = "token:op", "srevoke"; return e }, ErrChanged},
		"rehashed": {func(e []Entry) []Entry {
			e[2].Actor = "nobody"
			e[2].Hash = Hash(e[1].Hash, &e[2])
			return e
		}, ErrChanged}, // of the entry behind it
		"removed":     {func(e []Entry) []Entry { return append(e[:2], e[3:]...) }, ErrGap},
		"first gone":  {func(e []Entry) []Entry { return e[1:] }, ErrGap},
		"twice":       {func(e []Entry) []Entry { return append(e[:2], e[1:]...) }, ErrGap},
		"order":       {func(e []Entry) []Entry { e[1], e[2] = e[2], e[1]; return e }, ErrGap},
		"renumbered":  {func(e []Entry) []Entry { e = append(e[:2], e[3:]...); e[2].Seq = 3; return e }, ErrChanged},
		"cut off":     {func(e []Entry) []Entry { return e[:4] }, ErrTruncated},
		"all gone":    {func([]Entry) []Entry { return nil }, ErrTruncated},
		"written new": {func([]Entry) []Entry { return other(5) }, ErrForked},
		"and longer":  {func([]Entry) []Entry { return other(7) }, ErrForked},
	} {
		t.Run(name, func(t *testing.T) {
			var chain Chain
			head := log(5)[4]
			require.NoError(t, chain.Expect(head.Seq, head.Hash))
			err := check(&chain, c.tamper(log(5)))
			require.ErrorIs(t, err, c.expect)
			if c.expect != ErrTruncated { //nolint:errorlint // the very value of the table
				require.Equal(t, err, chain.Append(&log(6)[5]), "a broken chain goes on")
				require.Equal(t, err, chain.End())
			}
		})
	}
}

// other is a whole log that was never signed.
func other(n int) []Entry {
	entries := log(n)
	var prev []byte
	for i := range entries {
		entries[i].Actor = "nobody"
		entries[i].Hash = Hash(prev, &entries[i])
		prev = entries[i].Hash
	}
	return entries
}

func TestHeadsThatContradictAreFound(t *testing.T) {
	entries := log(3)
	var c Chain
	require.NoError(t, c.Expect(3, entries[2].Hash))
	require.NoError(t, c.Expect(3, entries[2].Hash))
	require.ErrorIs(t, c.Expect(3, entries[1].Hash), ErrForked)
	require.ErrorIs(t, check(&c, entries), ErrForked)

	behind := From(3, entries[2].Hash)
	require.ErrorIs(t, behind.Expect(3, entries[1].Hash), ErrForked)

	var many Chain
	for seq := range uint64(maxHeads) {
		require.NoError(t, many.Expect(seq+1, entries[0].Hash))
	}
	require.Error(t, many.Expect(maxHeads+1, entries[0].Hash))
}
