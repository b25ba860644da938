package tpmverifyprocessor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"
	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/policy"
	"github.com/telemark-otel/telemark/internal/receipt"
	"github.com/telemark-otel/telemark/internal/replay"
	"github.com/telemark-otel/telemark/internal/verdict"
)

// Sizes of the caches, in entries: a group of blocks needs one of each, and
// thousands of agents may have a group under way.
const (
	signatureCacheSize = 16 << 10
	statementCacheSize = 16 << 10
)

// verifier is one instance of the processor: one component id in one pipeline.
// It serves one signal; the factory gives it the consumer of that signal.
type verifier struct {
	cfg    *Config
	id     component.ID
	signal block.Signal
	scope  string
	set    component.TelemetrySettings
	logger *zap.Logger
	meters *meters
	next   func(context.Context, digest.Batch) error
	now    func() time.Time

	// Set by Start, constant from then on. keys may be set before, by tests.
	keys    keySource
	nonces  nonceExtension // nil in modes check and strip, where there is none
	windows replay.Store   // nil in modes check and strip
	scoped  bool           // the scope is taken
	judge   verdict.Judge
	refusal *refusalLog
	park    *park // nil without storage

	waiters atomic.Int64 // requests that wait for a key, see keyWait

	stop    context.CancelFunc
	stopped sync.WaitGroup
}

func newProcessor(set processor.Settings, cfg *Config, signal block.Signal, next func(context.Context, digest.Batch) error) (*verifier, error) {
	m, err := newMeters(set.TelemetrySettings, set.ID, signal)
	if err != nil {
		return nil, err
	}
	scope := cfg.Scope
	if scope == "" {
		scope = set.ID.String() + ":" + signal.String()
	}
	return &verifier{
		cfg:     cfg,
		id:      set.ID,
		signal:  signal,
		scope:   scope,
		set:     set.TelemetrySettings,
		logger:  set.Logger,
		meters:  m,
		next:    next,
		now:     time.Now,
		refusal: newRefusalLog(set.Logger, cfg.RefusalLog),
	}, nil
}

// Capabilities says that the data is changed: receipts are taken off, verdicts
// put on, blocks taken out.
func (p *verifier) Capabilities() consumer.Capabilities {
	return consumer.Capabilities{MutatesData: true}
}

// Start finds the extensions, reads the keys and claims the scope. An error
// from here stops the Collector: verifying without keys or windows would be
// letting everything or nothing through.
func (p *verifier) Start(ctx context.Context, host component.Host) error {
	if p.cfg.Mode == ModeStrip {
		return nil
	}
	if err := p.findNonces(host); err != nil {
		return err
	}
	if p.windows != nil {
		if err := scopes.take(p.windows, p.scope, p.id); err != nil {
			return err
		}
		p.scoped = true
		if err := p.windows.Listen(ctx, p.now(), p.scope); err != nil {
			return fmt.Errorf("tpmverify: enter the scope %q: %w", p.scope, err)
		}
	}
	named, err := p.cfg.regions()
	if err != nil {
		return err
	}
	defaults, err := p.cfg.policy(named)
	if err != nil {
		return err
	}
	if p.keys == nil {
		p.keys = p.newKeys(host, defaults)
	}
	if err := p.keys.Start(ctx, func(e *componentstatus.Event) { componentstatus.ReportStatus(host, e) }); err != nil {
		return err
	}
	decoder := receipt.NewDecoder(statementCacheSize)
	p.judge = verdict.Judge{
		Keys:       p.keys,
		Signatures: receipt.NewSignatureCache(signatureCacheSize),
		Decode:     decoder.Decode,
	}
	if p.nonces != nil {
		p.judge.MaxDelay, p.judge.Skew = p.nonces.Limits()
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	p.stop = stop
	return p.startPark(ctx, run, host)
}

func (p *verifier) startPark(ctx, run context.Context, host component.Host) error {
	if p.cfg.Park.Storage == nil {
		return nil
	}
	client, err := storageClient(ctx, host, *p.cfg.Park.Storage, p.id, "park-"+p.signal.String())
	if err != nil {
		return err
	}
	if p.park, err = openPark(ctx, client, p.cfg.Park, p.signal, p.meters); err != nil {
		return fmt.Errorf("tpmverify: park::storage: %w", err)
	}
	if live, ok := p.keys.(liveKeys); ok {
		p.park.changed = live.Changed
	}
	p.stopped.Go(func() { p.park.run(run, p.logger, p.unpark) })
	return nil
}

// Shutdown ends the workers. It may be called without Start, and twice.
func (p *verifier) Shutdown(ctx context.Context) error {
	var errs []error
	if p.stop != nil {
		p.stop()
		p.stopped.Wait()
		p.stop = nil
	}
	if p.park != nil {
		errs = append(errs, p.park.close(ctx))
		p.park = nil
	}
	if p.keys != nil {
		errs = append(errs, p.keys.Shutdown(ctx))
	}
	if p.scoped {
		scopes.give(p.windows, p.scope)
		p.scoped = false
	}
	p.meters.Shutdown()
	return errors.Join(errs...)
}

// ConsumeMetrics implements consumer.Metrics.
func (p *verifier) ConsumeMetrics(ctx context.Context, md pmetric.Metrics) error {
	return p.consume(ctx, digest.FromMetrics(md))
}

// ConsumeLogs implements consumer.Logs.
func (p *verifier) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	return p.consume(ctx, digest.FromLogs(ld))
}

// ConsumeTraces implements consumer.Traces.
func (p *verifier) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	return p.consume(ctx, digest.FromTraces(td))
}

func (p *verifier) consume(ctx context.Context, in digest.Batch) error {
	if p.cfg.Mode == ModeStrip {
		return p.strip(ctx, in)
	}
	return p.verify(ctx, in)
}

// strip takes proofs off, and nothing else: it stands behind an instance that
// verified, and what that one added is left alone.
func (p *verifier) strip(ctx context.Context, in digest.Batch) error {
	drops := p.cfg.dropsHeartbeats()
	var dropped int64
	in.Filter(func(i int) bool {
		b := in.At(i)
		if drops && beatOf(b) != noBeat {
			dropped++
			return false
		}
		b.StripProof()
		return true
	})
	p.meters.add(ctx, p.meters.TpmverifyHeartbeatsDropped, dropped)
	if in.Len() == 0 {
		return nil
	}
	return p.next(ctx, in)
}

// nonceAuthority returns nil where nonces cannot be checked, which only mode
// check allows.
func (p *verifier) nonceAuthority() verdict.NonceAuthority {
	if p.nonces == nil {
		return nil
	}
	if a := p.nonces.Nonces(); a != nil {
		return a
	}
	return nil
}

var (
	_ keySource         = (*fileKeys)(nil)
	_ policy.Attributes = attributes{}
)
