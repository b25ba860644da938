package replay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
)

// t0 is a round Unix time in ms.
var t0 = time.UnixMilli(1_800_000_000_000)

var errDisk = errors.New("disk is gone")

// disk is a Persister in memory that can fail.
type disk struct {
	mu     sync.Mutex
	values map[string][]byte
	writes int
	reads  int

	failAt    int  // the write with this number and all after it fail; 0 = never
	applyLast bool // the first failing write reaches the disk all the same
	failReads bool
	before    func() // called outside the lock before each write
}

func newDisk() *disk { return &disk{values: make(map[string][]byte)} }

func (d *disk) Get(_ context.Context, keys []string) ([][]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reads++
	if d.failReads {
		return nil, errDisk
	}
	out := make([][]byte, len(keys))
	for i, k := range keys {
		out[i] = bytes.Clone(d.values[k])
	}
	return out, nil
}

func (d *disk) Batch(_ context.Context, deletes []string, puts []Record) error {
	if d.before != nil {
		d.before()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.writes++
	failing := d.failAt > 0 && d.writes >= d.failAt
	if failing && (!d.applyLast || d.writes > d.failAt) {
		return errDisk
	}
	for _, k := range deletes {
		delete(d.values, k)
	}
	for _, r := range puts {
		d.values[r.Key] = append([]byte(nil), r.Value...)
	}
	if failing {
		return errDisk
	}
	return nil
}

// reload is the disk as the next process finds it, whole again.
func (d *disk) reload() *disk { return &disk{values: maps.Clone(d.values)} }

// seeded is a source of randomness for Open.
func seeded(seed uint64) func([]byte) error {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	return func(b []byte) error { _, _ = r.Read(b); return nil }
}

var storeSeed uint64

func options(p Persister, change ...func(*Limits)) Options {
	storeSeed++
	o := Options{Limits: DefaultLimits(), Persister: p, Random: seeded(storeSeed)}
	for _, c := range change {
		c(&o.Limits)
	}
	return o
}

func open(t testing.TB, now time.Time, p Persister, change ...func(*Limits)) *Local {
	t.Helper()
	l, opened, err := Open(t.Context(), now, options(p, change...))
	require.NoError(t, err)
	require.NoError(t, opened.Lost)
	return l
}

func memory(t testing.TB, change ...func(*Limits)) *Local { return open(t, t0, nil, change...) }

func digestOf(parts ...uint64) block.Digest {
	var b []byte
	for _, p := range parts {
		b = binary.BigEndian.AppendUint64(b, p)
	}
	return sha256.Sum256(b)
}

const (
	scopeA = "tpmverify/a"
	kidA   = "\x00\x0bAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	kidB   = "\x00\x0bBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB"
	logs   = "tpmsign:logs"
)

// blk is block n of the logs stream of kidA, signed by statement n of epoch 1.
func blk(n uint64, change ...func(*Block)) Block {
	b := Block{Scope: scopeA, KID: kidA, Epoch: 1, Stream: logs, No: n, Seq: n, Issued: t0}
	for _, c := range change {
		c(&b)
	}
	b.Statement, b.Prev = digestOf(b.Epoch, b.Seq), digestOf(b.Epoch, b.Seq-1)
	return b
}

func inEpoch(e uint64) func(*Block)    { return func(b *Block) { b.Epoch = e } }
func inStream(s string) func(*Block)   { return func(b *Block) { b.Stream = s } }
func inScope(s string) func(*Block)    { return func(b *Block) { b.Scope = s } }
func issued(t time.Time) func(*Block)  { return func(b *Block) { b.Issued = t } }
func farewell(b *Block)                { b.Farewell = true }
func signedBy(seq uint64) func(*Block) { return func(b *Block) { b.Seq = seq } }
func parts(total int, c ...[]uint32) func(*Block) {
	return func(b *Block) { b.Total, b.Candidates = total, c }
}

// at are candidates of items that are all different.
func at(idx ...uint32) [][]uint32 {
	out := make([][]uint32, len(idx))
	for i := range idx {
		out[i] = idx[i : i+1]
	}
	return out
}

func claimAll(t testing.TB, l *Local, now time.Time, blocks ...Block) []Outcome {
	t.Helper()
	out, err := l.Claim(t.Context(), now, blocks)
	require.NoError(t, err)
	require.Len(t, out, len(blocks))
	return out
}

func claim1(t testing.TB, l *Local, now time.Time, b Block) Outcome {
	t.Helper()
	return claimAll(t, l, now, b)[0]
}

func refused(t testing.TB, l *Local, now time.Time, b Block, want reason.Reason) {
	t.Helper()
	o := claim1(t, l, now, b)
	require.Equal(t, want, o.Reason)
	require.Zero(t, o.Claim.Token)
}

func confirm(t testing.TB, l *Local, now time.Time, outcomes ...Outcome) {
	t.Helper()
	claims := make([]Claim, len(outcomes))
	for i := range outcomes {
		require.Empty(t, outcomes[i].Reason)
		claims[i] = outcomes[i].Claim
	}
	lost, err := l.Confirm(t.Context(), now, claims)
	require.NoError(t, err)
	require.Zero(t, lost)
}

// accept claims and confirms, in one call each.
func accept(t testing.TB, l *Local, now time.Time, blocks ...Block) {
	t.Helper()
	confirm(t, l, now, claimAll(t, l, now, blocks...)...)
}

func acceptNumbers(t testing.TB, l *Local, now time.Time, numbers ...uint64) {
	t.Helper()
	for _, n := range numbers {
		accept(t, l, now, blk(n))
	}
}

func release(t testing.TB, l *Local, now time.Time, o Outcome) {
	t.Helper()
	require.NoError(t, l.Release(t.Context(), now, []Claim{o.Claim}))
}

func sweep(t testing.TB, l *Local, now time.Time) SweepReport {
	t.Helper()
	r, err := l.Sweep(t.Context(), now)
	require.NoError(t, err)
	return r
}

func status1(t testing.TB, l *Local, stream string) StreamStatus {
	t.Helper()
	p, err := l.Status(t.Context(), StatusQuery{Limit: MaxPage})
	require.NoError(t, err)
	for _, s := range p.Streams {
		if s.Stream == stream {
			return s
		}
	}
	require.Fail(t, "no such stream", stream)
	return StreamStatus{}
}
