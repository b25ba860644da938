package tpmsignprocessor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/group"
	"github.com/telemark-otel/telemark/processor/tpmsignprocessor/internal/metadata"
)

// committer is what the processor needs of the tpm extension.
type committer interface {
	// Submit hands leaves over to be numbered and signed with the next group.
	// They are not yet numbered when it returns; an error means that none
	// ever will be. It does not block.
	Submit(leaves []group.Leaf) (*group.Ticket, error)
	// OpenStream reserves a stream name. The returned one differs from name
	// when that is in use in this process.
	OpenStream(name string) (unique string, close func())
	// CanSign says whether a signature can be expected soon.
	CanSign() bool
}

// stopper is a committer that hears before the pipelines do that the collector
// stops. Receivers are stopped first, and wait for their callers.
type stopper interface {
	// Stopping is closed then. It is of the life of the extension that runs.
	Stopping() <-chan struct{}
}

// watcher is a committer that shows what is pending.
type watcher interface {
	// WatchPending has pending called for status pages, at any time and by anybody,
	// until stop, which may be called twice.
	WatchPending(stream string, pending func() (blocks int, bytes int64)) (stop func())
}

const committerType = "tpm"

// Errors of Start and of requests at the wrong time.
var (
	errNoTPM        = errors.New("no extension of type tpm is running: configure one and list it under service::extensions")
	errSeveralTPMs  = errors.New("several extensions of type tpm are running: say which one with `tpm`")
	errTPMMissing   = errors.New("the extension named by `tpm` is not running: list it under service::extensions")
	errNotTPM       = errors.New("the extension named by `tpm` does not sign blocks: name one of type tpm")
	errStorageGone  = errors.New("the extension named by `pending::storage` is not running: list it under service::extensions")
	errNotStorage   = errors.New("the extension named by `pending::storage` is not a storage extension")
	errStreamTwice  = errors.New("this processor stands in several pipelines of one signal, or shares its `stream`, and with `pending::storage` that would mix up what is pending: give each pipeline its own, tpmsign/NAME")
	errStarted      = errors.New("the processor runs already")
	errNotRunning   = errors.New("tpmsign is not running: send again later")
	errShutdownLost = errors.New("blocks held in memory were lost at shutdown; set `pending::storage` to keep them")
)

// signer is a tpmsign processor for one signal. Everything that lives from
// Start to Shutdown is in run.
type signer struct {
	set        processor.Settings
	cfg        *Config
	signal     block.Signal
	tolerances block.Tolerance
	next       func(context.Context, digest.Batch) error
	mutates    bool // next says that it changes data

	starting sync.Mutex // held by Start and Shutdown
	running  atomic.Pointer[run]
}

var (
	_ processor.Metrics = (*signer)(nil)
	_ processor.Logs    = (*signer)(nil)
	_ processor.Traces  = (*signer)(nil)
)

func newSigner(set processor.Settings, cfg *Config, signal block.Signal, then consumer.Capabilities, next func(context.Context, digest.Batch) error) (*signer, error) {
	tolerances, err := cfg.tolerances()
	if err != nil {
		return nil, err
	}
	return &signer{set: set, cfg: cfg, signal: signal, tolerances: tolerances, next: next, mutates: then.MutatesData}, nil
}

// Capabilities says that receipts are attached in place.
func (*signer) Capabilities() consumer.Capabilities { return consumer.Capabilities{MutatesData: true} }

// ConsumeMetrics signs and forwards.
func (s *signer) ConsumeMetrics(ctx context.Context, md pmetric.Metrics) error {
	return s.consume(ctx, digest.FromMetrics(md))
}

// ConsumeLogs signs and forwards.
func (s *signer) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	return s.consume(ctx, digest.FromLogs(ld))
}

// ConsumeTraces signs and forwards.
func (s *signer) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	return s.consume(ctx, digest.FromTraces(td))
}

func (s *signer) consume(ctx context.Context, b digest.Batch) error {
	r := s.running.Load()
	if r == nil || !r.gate.enter() {
		return errNotRunning
	}
	defer r.gate.leave()
	return r.consume(ctx, b)
}

// Start finds the tpm extension, opens the stream and loads what is pending.
func (s *signer) Start(ctx context.Context, host component.Host) (err error) {
	s.starting.Lock()
	defer s.starting.Unlock()
	if s.running.Load() != nil {
		return errStarted
	}
	name, err := s.cfg.streamName(s.set.ID, s.signal)
	if err != nil {
		return err
	}
	tpm, err := findCommitter(host, s.cfg.TPM)
	if err != nil {
		return err
	}
	stream, closeStream := tpm.OpenStream(name)
	defer func() {
		if err != nil {
			closeStream()
		}
	}()
	if s.cfg.Pending.Storage != nil && stream != name {
		return errStreamTwice
	}
	pending, err := s.openStore(ctx, host)
	if err != nil {
		return err
	}
	builder, err := metadata.NewTelemetryBuilder(s.set.TelemetrySettings)
	if err != nil {
		return errors.Join(err, pending.close(ctx))
	}
	stopWatching := func() {}
	release := func() {
		stopWatching()
		closeStream()
	}
	r := newRun(s, tpm, stream, release, pending, newMeters(builder, stream))
	r.status.host = host
	if err := r.start(ctx); err != nil {
		builder.Shutdown()
		return errors.Join(err, pending.close(ctx))
	}
	if w, ok := tpm.(watcher); ok {
		stopWatching = w.WatchPending(stream, r.queue.size)
	}
	s.running.Store(r)
	return nil
}

// Shutdown finishes what can be finished, says farewell, and stops. It returns
// when ctx ends at the latest.
func (s *signer) Shutdown(ctx context.Context) error {
	s.starting.Lock()
	defer s.starting.Unlock()
	r := s.running.Swap(nil)
	if r == nil {
		return nil
	}
	return r.shutdown(ctx)
}

// findCommitter returns the extension named by id, or the only one of type tpm.
func findCommitter(host component.Host, id *component.ID) (committer, error) {
	extensions := host.GetExtensions()
	if id != nil {
		ext, ok := extensions[*id]
		if !ok {
			return nil, fmt.Errorf("%w: %v", errTPMMissing, *id)
		}
		tpm, ok := ext.(committer)
		if !ok {
			return nil, fmt.Errorf("%w: %v", errNotTPM, *id)
		}
		return tpm, nil
	}
	var found committer
	for id, ext := range extensions {
		if id.Type().String() != committerType {
			continue
		}
		tpm, ok := ext.(committer)
		if !ok {
			return nil, fmt.Errorf("%w: %v", errNotTPM, id)
		}
		if found != nil {
			return nil, errSeveralTPMs
		}
		found = tpm
	}
	if found == nil {
		return nil, errNoTPM
	}
	return found, nil
}

// openStore opens the storage for what is pending, or memory.
func (s *signer) openStore(ctx context.Context, host component.Host) (store, error) {
	id := s.cfg.Pending.Storage
	if id == nil {
		return newMemoryStore(), nil
	}
	ext, ok := host.GetExtensions()[*id]
	if !ok {
		return nil, fmt.Errorf("%w: %v", errStorageGone, *id)
	}
	opener, ok := ext.(storage.Extension)
	if !ok {
		return nil, fmt.Errorf("%w: %v", errNotStorage, *id)
	}
	client, err := opener.GetClient(ctx, component.KindProcessor, s.set.ID, s.signal.String())
	if err != nil {
		return nil, fmt.Errorf("opening `pending::storage` %v (only one pipeline per signal may use it under the name %v): %w", *id, s.set.ID, err)
	}
	return newDiskStore(client, s.signal, s.tolerances), nil
}
