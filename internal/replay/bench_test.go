package replay

import (
	"fmt"
	"testing"
	"time"
)

// benchmarkBlocks claims and confirms blocks in calls of size, as a verifying
// processor does, each call of one statement and one stream.
func benchmarkBlocks(b *testing.B, l *Local, size int) {
	blocks := make([]Block, size)
	claims := make([]Claim, size)
	now := t0
	next, seq := uint64(1), uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		seq++
		now = now.Add(time.Millisecond)
		first := blk(next, signedBy(seq))
		for i := range blocks {
			blocks[i] = first
			blocks[i].No = next
			next++
		}
		out, err := l.Claim(b.Context(), now, blocks)
		if err != nil {
			b.Fatal(err)
		}
		for i := range out {
			if out[i].Reason != "" {
				b.Fatal(out[i].Reason)
			}
			claims[i] = out[i].Claim
		}
		if lost, err := l.Confirm(b.Context(), now, claims); err != nil || lost != 0 {
			b.Fatal(lost, err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/block")
}

func BenchmarkClaimConfirm(b *testing.B) {
	for _, size := range []int{1, 50} {
		b.Run(fmt.Sprintf("memory/blocks=%d", size), func(b *testing.B) { benchmarkBlocks(b, memory(b), size) })
		b.Run(fmt.Sprintf("records/blocks=%d", size), func(b *testing.B) {
			benchmarkBlocks(b, open(b, t0, newDisk()), size)
		})
	}
}

func BenchmarkOpen1000Agents(b *testing.B) {
	d := newDisk()
	l := open(b, t0, d)
	for a := range 1000 {
		for s := range 3 {
			accept(b, l, t0, blk(1, inStream(fmt.Sprint("s", s)), func(b *Block) { b.KID = fmt.Sprintf("\x00\x0b%032d", a) }))
		}
	}
	for b.Loop() {
		open(b, t0, d)
	}
}

func BenchmarkSweep3000Streams(b *testing.B) {
	l := memory(b)
	for a := range 1000 {
		for s := range 3 {
			accept(b, l, t0, blk(1, inStream(fmt.Sprint("s", s)), func(b *Block) { b.KID = fmt.Sprintf("\x00\x0b%032d", a) }))
		}
	}
	for b.Loop() {
		if _, err := l.Sweep(b.Context(), t0); err != nil {
			b.Fatal(err)
		}
	}
}
