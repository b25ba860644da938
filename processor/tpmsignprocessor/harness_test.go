package tpmsignprocessor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processortest"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/group"
	"github.com/telemark-otel/telemark/internal/receipt"
	"github.com/telemark-otel/telemark/processor/tpmsignprocessor/internal/metadata"
)

// fakeTPM is a tpm extension on the real group committer with a key in memory.
type fakeTPM struct {
	component.StartFunc
	component.ShutdownFunc

	key       *ecdsa.PrivateKey
	committer *group.Committer
	delay     time.Duration // of each signature
	dead      atomic.Bool   // signatures fail
	unready   atomic.Bool
	refusing  atomic.Pointer[error]
	submitted atomic.Int64 // leaves
	stopping  chan struct{}

	mu      sync.Mutex
	streams map[string]int
}

var testKey = sync.OnceValue(func() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
})

func testKID() []byte { return append([]byte{0x00, 0x0b}, make([]byte, 32)...) }

func newFakeTPM(tb testing.TB, epoch uint64, change ...func(*group.Config)) *fakeTPM {
	tb.Helper()
	f := &fakeTPM{key: testKey(), streams: map[string]int{}}
	cfg := group.Config{
		Algorithm: receipt.ES256,
		KID:       testKID(),
		Epoch:     epoch,
		Signer:    f,
		Claims: func(context.Context) (group.Claims, error) {
			return group.Claims{
				Audience: "test", Nonce: make([]byte, 32), UEID: receipt.UEID("test", testKID()), IssuedAt: time.Now(),
			}, nil
		},
		Backoff: func(int) time.Duration { return 10 * time.Millisecond },
	}
	for _, c := range change {
		c(&cfg)
	}
	c, err := group.New(cfg)
	require.NoError(tb, err)
	f.committer = c
	tb.Cleanup(f.close)
	return f
}

func (f *fakeTPM) close() {
	f.dead.Store(false)
	_ = f.committer.Close(context.Background())
}

// crash ends signing as a crash does: what is in flight is given up.
func (f *fakeTPM) crash() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = f.committer.Close(ctx)
}

var errDead = errors.New("the TPM is gone")

func (f *fakeTPM) Sign(ctx context.Context, sum []byte) ([]byte, error) {
	if f.delay > 0 {
		select {
		case <-time.After(f.delay):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if f.dead.Load() {
		return nil, errDead
	}
	r, s, err := ecdsa.Sign(rand.Reader, f.key, sum)
	if err != nil {
		return nil, err
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return sig, nil
}

func (f *fakeTPM) Submit(leaves []group.Leaf) (*group.Ticket, error) {
	if err := f.refusing.Load(); err != nil {
		return nil, fmt.Errorf("submitting: %w", *err)
	}
	f.submitted.Add(int64(len(leaves)))
	return f.committer.Submit(leaves)
}

func (f *fakeTPM) CanSign() bool { return !f.unready.Load() }

func (f *fakeTPM) Stopping() <-chan struct{} { return f.stopping }

func (f *fakeTPM) OpenStream(name string) (string, func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	unique := name
	for n := 2; f.streams[unique] > 0; n++ {
		unique = name + "#" + strconv.Itoa(n)
	}
	f.streams[unique]++
	return unique, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.streams[unique]--
	}
}

// fakeHost has extensions.
type fakeHost map[component.ID]component.Component

func (h fakeHost) GetExtensions() map[component.ID]component.Component { return h }

var tpmID = component.MustNewID("tpm")

func hostWith(f *fakeTPM) fakeHost { return fakeHost{tpmID: f} }

// newLifecycleHost is what the generated lifecycle tests run in.
func newLifecycleHost(t *testing.T) component.Host { return hostWith(newFakeTPM(t, 1)) }

// testConfig is the default configuration, changed.
func testConfig(change ...func(*Config)) *Config {
	cfg := createDefaultConfig().(*Config)
	cfg.Heartbeat.Interval = 0
	for _, c := range change {
		c(cfg)
	}
	return cfg
}

// sut is a processor under test.
type sut struct {
	*signer
	tb testing.TB
}

func newSUT(tb testing.TB, cfg *Config, next *verifier) *sut {
	tb.Helper()
	return newSUTWith(tb, processortest.NewNopSettings(metadata.Type), cfg, next)
}

func newSUTWith(tb testing.TB, set processor.Settings, cfg *Config, next *verifier) *sut {
	tb.Helper()
	set.ID = component.MustNewIDWithName("tpmsign", "edge")
	var c component.Component
	var err error
	switch next.signal {
	case block.Metrics:
		c, err = createMetrics(context.Background(), set, cfg, next)
	case block.Logs:
		c, err = createLogs(context.Background(), set, cfg, next)
	default:
		c, err = createTraces(context.Background(), set, cfg, next)
	}
	require.NoError(tb, err)
	return &sut{signer: c.(*signer), tb: tb}
}

func (s *sut) start(host component.Host) *sut {
	s.tb.Helper()
	require.NoError(s.tb, s.Start(context.Background(), host))
	return s
}

func (s *sut) stop() {
	s.tb.Helper()
	require.NoError(s.tb, s.Shutdown(context.Background()))
}

// kill drops the processor as SIGKILL does: nothing is finished or said.
func (s *sut) kill() {
	r := s.running.Swap(nil)
	r.cancel()
	r.goroutines.Wait()
}

func (s *sut) send(b digest.Batch) error { return s.consume(context.Background(), b) }

func (s *sut) pendingBlocks() int {
	blocks, _ := s.running.Load().queue.size()
	return blocks
}

// batch makes a request: one block per list of item names, resource name from
// the first item.
func batch(signal block.Signal, blocks ...[]string) digest.Batch {
	b := digest.NewBatch(signal)
	for _, items := range blocks {
		addBlock(b, items[0], items)
	}
	return b
}

func addBlock(b digest.Batch, resource string, items []string) {
	switch b.Signal() {
	case block.Metrics:
		rm := b.Metrics().ResourceMetrics().AppendEmpty()
		rm.Resource().Attributes().PutStr("service.name", resource)
		sm := rm.ScopeMetrics().AppendEmpty()
		sm.Scope().SetName("scope")
		for _, name := range items {
			m := sm.Metrics().AppendEmpty()
			m.SetName(name)
			m.SetEmptyGauge().DataPoints().AppendEmpty().SetIntValue(41)
		}
	case block.Logs:
		rl := b.Logs().ResourceLogs().AppendEmpty()
		rl.Resource().Attributes().PutStr("service.name", resource)
		sl := rl.ScopeLogs().AppendEmpty()
		sl.Scope().SetName("scope")
		for _, name := range items {
			sl.LogRecords().AppendEmpty().Body().SetStr(name)
		}
	default:
		rs := b.Traces().ResourceSpans().AppendEmpty()
		rs.Resource().Attributes().PutStr("service.name", resource)
		ss := rs.ScopeSpans().AppendEmpty()
		ss.Scope().SetName("scope")
		for i, name := range items {
			span := ss.Spans().AppendEmpty()
			span.SetName(name)
			span.SetSpanID(pcommon.SpanID{1, byte(i)})
			span.SetTraceID(pcommon.TraceID{1})
		}
	}
}

// logsOf is a request with one block and one log record.
func logsOf(name string) digest.Batch { return batch(block.Logs, []string{name}) }

func names(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s%04d", prefix, i)
	}
	return out
}
