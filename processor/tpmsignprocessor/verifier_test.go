package tpmsignprocessor

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/receipt"
)

// number names a block.
type number struct {
	epoch  uint64
	stream string
	no     uint64
}

// verifier is a next consumer that holds every block against its receipt, as
// a verifying collector does, and keeps what it accepted.
type verifier struct {
	signal  block.Signal
	pub     crypto.PublicKey
	fail    func(n int) error // asked for each request, n from 1
	mutates bool
	mangle  func(digest.Batch) // done to a request that is refused
	saw     func(digest.Block) // told of each block

	mu         sync.Mutex
	requests   int
	invalid    []error
	times      map[number]int
	bodies     []string // of accepted items, in order, first deliveries only
	heartbeats map[string]int
}

func newVerifier(signal block.Signal) *verifier {
	return &verifier{
		signal: signal, pub: testKey().Public(),
		times: map[number]int{}, heartbeats: map[string]int{},
	}
}

func (v *verifier) Capabilities() consumer.Capabilities {
	return consumer.Capabilities{MutatesData: v.mutates}
}

func (v *verifier) ConsumeMetrics(ctx context.Context, md pmetric.Metrics) error {
	return v.take(ctx, digest.FromMetrics(md))
}

func (v *verifier) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	return v.take(ctx, digest.FromLogs(ld))
}

func (v *verifier) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	return v.take(ctx, digest.FromTraces(td))
}

func (v *verifier) take(ctx context.Context, b digest.Batch) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.requests++
	// What is refused must be signed too.
	for i := range b.Len() {
		if err := v.check(b.At(i)); err != nil {
			v.invalid = append(v.invalid, err)
		}
		if v.saw != nil {
			v.saw(b.At(i))
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if v.fail != nil {
		if err := v.fail(v.requests); err != nil {
			if v.mangle != nil {
				v.mangle(b)
			}
			return err
		}
	}
	for i := range b.Len() {
		v.accept(b.At(i))
	}
	return nil
}

func (v *verifier) accept(b digest.Block) {
	p, err := b.Proof()
	if err != nil || p.Receipt == nil {
		return // counted as invalid
	}
	rec, err := receipt.Decode(p.Receipt)
	if err != nil {
		return
	}
	n := number{rec.Statement.Epoch, rec.Stream, rec.BlockNo}
	v.times[n]++
	if v.times[n] > 1 {
		return
	}
	for _, body := range bodies(b) {
		if body == heartbeat.name() || body == farewell.name() {
			v.heartbeats[body]++
			continue
		}
		v.bodies = append(v.bodies, body)
	}
}

// check verifies a block as the specification says.
func (v *verifier) check(b digest.Block) error {
	p, err := b.Proof()
	if err != nil {
		return err
	}
	if p.Receipt == nil {
		return errors.New("a block without receipt")
	}
	rec, err := receipt.Decode(p.Receipt)
	if err != nil {
		return err
	}
	leaf := receipt.Leaf{Signal: b.Signal(), Stream: rec.Stream, BlockNo: rec.BlockNo, Items: rec.Items, Digest: rec.Digest}
	if p.Manifest != nil {
		leaf.Tolerances |= block.Split
	}
	if rec.Keys != nil {
		leaf.Tolerances |= block.Enrich
		d := receipt.KeyListDigest(rec.Keys)
		leaf.Keys = &d
	}
	arrived, err := b.Check(digest.Expected{
		Tolerances: leaf.Tolerances, Digest: rec.Digest, Items: int(rec.Items), Keys: rec.Keys, Manifest: p.Manifest,
	})
	if err != nil {
		return err
	}
	if arrived.Items != int(rec.Items) {
		return fmt.Errorf("%d items of %d", arrived.Items, rec.Items)
	}
	root, err := rec.Root(leaf.Hash())
	if err != nil {
		return err
	}
	return receipt.VerifySignature(receipt.ES256, v.pub, receipt.SigStructure(rec.Protected, root), rec.Signature)
}

// bodies returns what names each item: metric name, log body, span name.
func bodies(b digest.Block) []string {
	var out []string
	switch b.Signal() {
	case block.Metrics:
		for _, sm := range b.Metrics().ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				out = append(out, m.Name())
			}
		}
	case block.Logs:
		for _, sl := range b.Logs().ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				out = append(out, lr.Body().AsString())
			}
		}
	default:
		for _, ss := range b.Traces().ScopeSpans().All() {
			for _, span := range ss.Spans().All() {
				out = append(out, span.Name())
			}
		}
	}
	return out
}

// accepted returns the items that came, sorted.
func (v *verifier) accepted() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Sorted(slices.Values(v.bodies))
}

func (v *verifier) spoke(u utterance) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.heartbeats[u.name()]
}

// requireValid asserts that nothing unsigned or falsely signed was ever seen.
func (v *verifier) requireValid(tb testing.TB) {
	tb.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	require.Empty(tb, v.invalid)
}

// requireContiguous asserts that no number of any epoch and stream is missing.
func (v *verifier) requireContiguous(tb testing.TB) {
	tb.Helper()
	v.requireValid(tb)
	require.Empty(tb, v.gaps())
}

func (v *verifier) gaps() []number {
	v.mu.Lock()
	defer v.mu.Unlock()
	last := map[number]uint64{}
	for n := range maps.Keys(v.times) {
		stream := number{epoch: n.epoch, stream: n.stream}
		last[stream] = max(last[stream], n.no)
	}
	var missing []number
	for stream, to := range last {
		for no := uint64(1); no <= to; no++ {
			if n := (number{stream.epoch, stream.stream, no}); v.times[n] == 0 {
				missing = append(missing, n)
			}
		}
	}
	return missing
}

// blocks returns how many different ones came, and how many came again.
func (v *verifier) blocks() (different, again int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, times := range v.times {
		different++
		again += times - 1
	}
	return different, again
}

// seen returns how many requests came, those refused included.
func (v *verifier) seen() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.requests
}

// came returns how often a block came.
func (v *verifier) came(n number) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.times[n]
}

func (v *verifier) numbers() []number {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Collect(maps.Keys(v.times))
}

// inOrder returns the items in the order in which they came.
func (v *verifier) inOrder() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.bodies)
}

// failWith sets fail while requests are on their way.
func (v *verifier) failWith(fail func(n int) error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fail = fail
}
