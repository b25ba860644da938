package replay

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOrdinaryAgentsAreSmallOnDisk(t *testing.T) {
	const agents, streams = 1000, 3
	d := newDisk()
	l := open(t, t0, d)
	var blocks []Block
	for a := range agents {
		for s := range streams {
			for n := range uint64(40) {
				blocks = append(blocks, blk(n+1, inStream(fmt.Sprint("tpmsign/edge:signal", s)), func(b *Block) {
					b.KID = fmt.Sprintf("\x00\x0b%032d", a)
				}))
			}
		}
	}
	accept(t, l, t0, blocks...)
	size := 0
	for k, v := range d.values {
		size += len(k) + len(v)
	}
	t.Logf("%d bytes per agent with %d streams", size/agents, streams)
	require.Less(t, size/agents, 1024)

	reads := d.reads
	d.before = nil
	l = open(t, t0, d)
	require.Len(t, l.keys, agents)
	require.Less(t, d.reads-reads, 10, "records are read many at a time")
}

// readers are the record formats by kind, each as decode and encode.
func readRecord(kind byte, r *reader) (encode func([]byte) []byte, err error) {
	switch kind {
	case kindHeader:
		l := &Local{}
		var pages int
		if pages, err = l.readHeader(r); err == nil && pages < 1000 {
			l.index.pages = make([]page, pages)
			return l.appendHeader, nil
		}
		return nil, errors.Join(err, errDamaged)
	case kindIndex:
		p, err := readPage(r)
		return p.append, err
	case kindKey:
		k := &keyState{}
		stored, err := k.read(r)
		for _, s := range stored {
			e := &epochState{no: s.no, first: s.first, skipped: s.skipped, joined: s.joined}
			for _, name := range s.streams {
				e.windows = append(e.windows, &window{stream: name})
			}
			k.epochs = append(k.epochs, e)
		}
		return k.append, err
	case kindWindow:
		w := &window{key: &keyState{}}
		err := w.read(r)
		return w.append, err
	case kindChain:
		c := &chain{}
		err := c.read(r)
		return c.append, err
	default:
		return nil, errDamaged
	}
}

// FuzzRecord: what can be read is written again as the same bytes, and what
// cannot is refused, in bounded memory.
func FuzzRecord(f *testing.F) {
	f.Fuzz(func(t *testing.T, kind byte, body []byte) {
		if len(body) > 1<<12 || hugeCounts(kind, body) {
			return
		}
		encode, err := readRecord(kind, &reader{key: "k", format: format, b: body})
		if err != nil {
			require.ErrorIs(t, err, errDamaged)
			return
		}
		again := encode(nil)
		next, err := readRecord(kind, &reader{key: "k", format: format, b: again})
		require.NoError(t, err)
		require.Equal(t, again, next(nil))
	})
}

// hugeCounts keeps the fuzzer from spending its time on legitimate windows with
// millions of blocks in flight.
func hugeCounts(kind byte, body []byte) bool {
	return kind == kindWindow && bytes.Count(body, []byte{0xff}) > 2
}

func TestFuzzCorpusIsNotEmpty(t *testing.T) {
	files, err := os.ReadDir("testdata/fuzz/FuzzRecord")
	require.NoError(t, err)
	kinds := map[byte]bool{}
	for _, f := range files {
		b, err := os.ReadFile("testdata/fuzz/FuzzRecord/" + f.Name())
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(string(b), "go test fuzz v1\nbyte('"))
		kinds[string(b)[len("go test fuzz v1\nbyte('")]] = true
	}
	for _, k := range []byte{kindHeader, kindIndex, kindKey, kindWindow, kindChain} {
		require.True(t, kinds[k], "no seed of kind %c", k)
	}
}

// Every record that a busy store writes reads back as the same bytes.
func TestRecordsRoundTrip(t *testing.T) {
	d := busyDisk(t, 7)
	kinds := map[byte]int{}
	for key, v := range d.values {
		kinds[v[1]]++
		r, err := unseal(key, v[1], v)
		require.NoError(t, err)
		body := bytes.Clone(r.b)
		encode, err := readRecord(v[1], r)
		require.NoError(t, err, key)
		require.Equal(t, body, encode(nil), key)
	}
	require.Len(t, kinds, 5)
}

// busyDisk is what a store with holes, claims, fragments and epochs wrote.
func busyDisk(t testing.TB, seed uint64) *disk {
	d := newDisk()
	l := open(t, t0, d, func(l *Limits) { l.MaxRanges = 6 })
	r := rand.New(rand.NewPCG(seed, 5))
	now := t0
	for range 300 {
		b := blk(1+r.Uint64N(60), inEpoch(1+r.Uint64N(3)), signedBy(1+r.Uint64N(90)))
		if r.IntN(2) == 0 {
			b = blk(b.No, inEpoch(b.Epoch), signedBy(b.Seq), inStream("split"), parts(100, at(r.Uint32N(100))...))
		}
		b.Location = &LatLon{1, 2}
		if o := claim1(t, l, now, b); o.Reason == "" && r.IntN(3) > 0 {
			confirm(t, l, now, o)
		}
		now = now.Add(time.Second)
		sweep(t, l, now)
	}
	require.NoError(t, l.Close(t.Context()))
	return d
}

func TestHostileLengthsInRecordsAllocateNothing(t *testing.T) {
	huge := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}
	for _, kind := range []byte{kindIndex, kindKey, kindChain} {
		allocs := testing.AllocsPerRun(10, func() {
			_, err := readRecord(kind, &reader{key: "k", b: append([]byte{0}, huge...)})
			require.ErrorIs(t, err, errDamaged)
		})
		require.Less(t, allocs, 60.0)
	}
	r := &reader{b: huge}
	require.Zero(t, r.count(1))
	require.ErrorIs(t, r.finish(), errDamaged)
	r = &reader{b: []byte{0x80, 0x00}}
	require.Zero(t, r.uv())
	require.ErrorIs(t, r.finish(), errDamaged, "numbers are minimal")
}
