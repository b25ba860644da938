package tpmverifyprocessor

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processortest"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/keyfile"
	"github.com/telemark-otel/telemark/internal/nonce"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/replay"
	"github.com/telemark-otel/telemark/internal/signtest"
	"github.com/telemark-otel/telemark/processor/tpmverifyprocessor/internal/metadata"
)

const stream = "tpmsign:x"

// nonces stands in for the nonce extension, around real nonces and windows.
type nonces struct {
	component.StartFunc
	component.ShutdownFunc
	authority *nonce.Authority
	windows   replay.Store
}

func (n *nonces) Nonces() *nonce.Authority { return n.authority }
func (n *nonces) Windows() replay.Store    { return n.windows }
func (n *nonces) Limits() (maxDelay, skew time.Duration) {
	return 24 * time.Hour, 30 * time.Second
}

type host struct {
	extensions map[component.ID]component.Component

	mu     sync.Mutex
	events []*componentstatus.Event
}

func (h *host) GetExtensions() map[component.ID]component.Component { return h.extensions }

func (h *host) Report(e *componentstatus.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
}

func (h *host) lastStatus() componentstatus.Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.events) == 0 {
		return componentstatus.StatusNone
	}
	return h.events[len(h.events)-1].Status()
}

// rig is one instance of the processor, with real windows, between tests that
// send and a sink.
type rig struct {
	t         testing.TB
	cfg       *Config
	signal    block.Signal
	host      *host
	authority *nonce.Authority
	windows   replay.Store
	telemetry *componenttest.Telemetry
	logs      *observer.ObservedLogs
	p         *verifier
	machines  []*signtest.Machine
	keyFile   string

	mu        sync.Mutex
	ahead     time.Duration // of the processor's clock before the real one
	delivered []digest.Batch
	answer    func(context.Context, digest.Batch) error // nil: accept
}

type option func(*rig)

func withConfig(change func(*Config)) option { return func(r *rig) { change(r.cfg) } }

func withWindows(w replay.Store) option { return func(r *rig) { r.windows = w } }

func withAuthority(a *nonce.Authority) option { return func(r *rig) { r.authority = a } }

func memoryWindows(t testing.TB) *replay.Local {
	l, _, err := replay.Open(t.Context(), time.Now(), replay.Options{Limits: replay.DefaultLimits(), Random: random})
	require.NoError(t, err)
	return l
}

// newRig starts a processor that trusts two machines, edge-a and edge-b.
func newRig(t testing.TB, signal block.Signal, options ...option) *rig {
	t.Helper()
	r := prepareRig(t, signal, options...)
	require.NoError(t, r.p.Start(t.Context(), r.host))
	t.Cleanup(func() { require.NoError(t, r.p.Shutdown(context.WithoutCancel(t.Context()))) })
	return r
}

func prepareRig(t testing.TB, signal block.Signal, options ...option) *rig {
	t.Helper()
	r := &rig{
		t:         t,
		cfg:       createDefaultConfig().(*Config),
		signal:    signal,
		authority: signtest.Authority(t, 1, 1),
		host:      &host{extensions: map[component.ID]component.Component{}},
		telemetry: componenttest.NewTelemetry(),
		keyFile:   filepath.Join(t.TempDir(), "keys.json"),
	}
	t.Cleanup(func() { require.NoError(t, r.telemetry.Shutdown(context.WithoutCancel(t.Context()))) })
	for _, name := range []string{"edge-a", "edge-b"} {
		m := signtest.NewMachine(t, name, time.Now())
		m.Fetch(t, r.authority, time.Now())
		r.machines = append(r.machines, m)
	}
	r.cfg.Keys.File = r.keyFile
	r.trust(r.machines...)

	core, logs := observer.New(zapcore.InfoLevel)
	r.logs = logs
	set := processortest.NewNopSettings(metadata.Type)
	set.ID = component.MustNewID("tpmverify")
	set.TelemetrySettings = r.telemetry.NewTelemetrySettings()
	set.Logger = zap.New(core)
	r.p = r.newProcessor(set)
	for _, o := range options {
		o(r)
	}
	// Options may have changed what is read when the processor is made.
	keys := r.p.keys
	r.p = r.newProcessor(set)
	r.p.keys = keys
	if r.windows == nil {
		r.windows = memoryWindows(t)
	}
	if r.authority != nil {
		r.host.extensions[component.MustNewID("nonce")] = &nonces{authority: r.authority, windows: r.windows}
	}
	return r
}

func (r *rig) newProcessor(set processor.Settings) *verifier {
	p, err := newProcessor(set, r.cfg, r.signal, r.sink)
	require.NoError(r.t, err)
	p.now = r.now
	return p
}

func (r *rig) now() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Add(r.ahead)
}

func (r *rig) advance(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ahead += d
}

func (r *rig) sink(ctx context.Context, b digest.Batch) error {
	r.mu.Lock()
	answer := r.answer
	r.mu.Unlock()
	if answer != nil {
		if err := answer(ctx, b); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.delivered = append(r.delivered, signtest.Copy(b))
	return nil
}

func (r *rig) setAnswer(answer func(context.Context, digest.Batch) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

// take returns the blocks that were delivered since the last time, as one batch.
func (r *rig) take() digest.Batch {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := digest.NewBatch(r.signal)
	for _, b := range r.delivered {
		moveAll(b, out)
	}
	r.delivered = nil
	return out
}

func (r *rig) calls() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.delivered)
}

func (r *rig) send(batches ...digest.Batch) error {
	return r.p.consume(r.t.Context(), signtest.Merge(batches...))
}

// trust writes the key file.
func (r *rig) trust(machines ...*signtest.Machine) {
	f := keyfile.File{Keys: []keyfile.Entry{}}
	for _, m := range machines {
		f.Keys = append(f.Keys, entryOf(r.t, m))
	}
	r.writeKeys(f)
}

func (r *rig) writeKeys(f keyfile.File) {
	content, err := json.Marshal(f)
	require.NoError(r.t, err)
	// Replaced as a whole, as careful tools do.
	next := r.keyFile + ".next"
	require.NoError(r.t, os.WriteFile(next, content, 0o600))
	require.NoError(r.t, os.Rename(next, r.keyFile))
}

func entryOf(t testing.TB, m *signtest.Machine) keyfile.Entry {
	der, err := x509.MarshalPKIXPublicKey(&m.Key.PublicKey)
	require.NoError(t, err)
	return keyfile.Entry{
		KID:       hex.EncodeToString(m.KID),
		Name:      m.Name,
		Algorithm: "ES256",
		PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
	}
}

// count adds up a counter or gauge over all attribute sets that hold attrs.
func (r *rig) count(name string, attrs ...attribute.KeyValue) int64 {
	r.t.Helper()
	m, err := r.telemetry.GetMetric("otelcol_" + name)
	if err != nil {
		return 0 // nothing was recorded yet
	}
	var points []metricdata.DataPoint[int64]
	switch data := m.Data.(type) {
	case metricdata.Sum[int64]:
		points = data.DataPoints
	case metricdata.Gauge[int64]:
		points = data.DataPoints
	default:
		require.Fail(r.t, "not a counter", name)
	}
	var sum int64
	for _, p := range points {
		all := true
		for _, a := range attrs {
			v, ok := p.Attributes.Value(a.Key)
			all = all && ok && v == a.Value
		}
		if all {
			sum += p.Value
		}
	}
	return sum
}

func (r *rig) refused(why reason.Reason) int64 {
	return r.count("tpmverify_refused_blocks", attribute.String("reason", string(why)))
}

func (r *rig) refusedAll() int64 { return r.count("tpmverify_refused_blocks") }

// status adds up the status page.
func (r *rig) status() (sum replay.StreamStatus) {
	page, err := r.windows.Status(r.t.Context(), replay.StatusQuery{})
	require.NoError(r.t, err)
	sum.Refused = map[reason.Reason]uint64{}
	for _, s := range page.Streams {
		sum.Verified += s.Verified
		sum.Duplicates += s.Duplicates
		sum.GapsOpen += s.GapsOpen
		sum.InFlight += s.InFlight
		sum.Farewell = sum.Farewell || s.Farewell
		for why, n := range s.Refused {
			sum.Refused[why] += n
		}
	}
	return sum
}

func attr(b digest.Block, key string) string {
	v, ok := b.Attributes().Get(key)
	if !ok {
		return ""
	}
	return v.AsString()
}

// requireUntouched holds a delivered block against the data before it was
// signed: with the verdict taken off, not a byte differs.
func requireUntouched(t testing.TB, want digest.Batch, got digest.Block) {
	t.Helper()
	one := digest.NewBatch(got.Signal())
	got.CopyTo(one)
	require.Equal(t, reason.Verified, attr(got, block.AttrVerdict))
	one.At(0).Attributes().Remove(block.AttrVerdict)
	one.At(0).Attributes().Remove(block.AttrName)
	wantWire, err := want.Marshal()
	require.NoError(t, err)
	gotWire, err := one.Marshal()
	require.NoError(t, err)
	require.Equal(t, wantWire, gotWire)
}

var errBusy = errors.New("the queue is full")
