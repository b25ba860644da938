package tpmsignprocessor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"
)

// drainTimeout bounds what Shutdown does beyond stopping when its context has
// no nearer end.
const drainTimeout = 5 * time.Second

// run is a signer between Start and Shutdown.
type run struct {
	*signer
	logger      *zap.Logger
	meters      *meters
	tpm         committer
	stream      string
	closeStream func()
	queue       *queue
	gate        gate
	status      status

	// ctx ends when Shutdown has no more time.
	ctx        context.Context
	cancel     context.CancelFunc
	goroutines sync.WaitGroup

	// waiting ends when callers whose data nobody takes have to go: with ctx, or
	// drainTimeout after the collector began to stop. Shutdown comes when the
	// receivers have stopped, which wait for these very callers.
	waiting context.Context
	dismiss context.CancelFunc

	// Of the signing goroutine, and of shutdown after its end.
	landing chan struct{} // capacity 1: something in flight has its result
	failing time.Time     // since when no signed form can be recorded, zero: it can

	lastBlock atomic.Int64  // Unix ns of the last block handed on
	delivered atomic.Uint64 // deliveries that the next consumer accepted
	blocked   atomic.Bool   // the last delivery from pending failed
	signing   atomic.Int64  // requests from pending that are being signed
	copies    atomic.Bool   // made of requests, since the next consumer changes them

	chained    sync.Once
	refusals   sampler
	dropped    sampler
	troubles   sampler
	unrecorded sampler
}

func newRun(s *signer, tpm committer, stream string, closeStream func(), pending store, m *meters) *run {
	r := &run{
		signer:      s,
		logger:      s.set.Logger.With(zap.String("stream", stream)),
		meters:      m,
		tpm:         tpm,
		stream:      stream,
		closeStream: closeStream,
		queue:       newQueue(pending, s.cfg.Pending.MaxBytes, s.cfg.Pending.MaxBlocks),
		landing:     make(chan struct{}, 1),
	}
	r.copies.Store(s.mutates && s.cfg.Pending.Copy == copyAuto)
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.waiting, r.dismiss = context.WithCancel(r.ctx)
	return r
}

// start loads what is pending and starts the goroutines.
func (r *run) start(ctx context.Context) error {
	if err := r.loadPending(ctx); err != nil {
		return err
	}
	if err := r.observe(); err != nil {
		return err
	}
	r.lastBlock.Store(time.Now().UnixNano())
	r.goroutines.Go(r.signPending)
	r.goroutines.Go(r.deliverPending)
	r.goroutines.Go(r.keepClean)
	if r.cfg.Heartbeat.Interval > 0 {
		r.goroutines.Go(r.keepSpeaking)
	}
	if s, ok := r.tpm.(stopper); ok {
		stopping := s.Stopping()
		r.goroutines.Go(func() { r.dismissAfter(stopping) })
	}
	return nil
}

func (r *run) dismissAfter(stopping <-chan struct{}) {
	waitFor(r.ctx, stopping)
	last, cancel := context.WithTimeout(r.ctx, drainTimeout)
	defer cancel()
	<-last.Done()
	r.dismiss()
}

func (r *run) observe() error {
	blocks := func(_ context.Context, o metric.Int64Observer) error {
		n, _ := r.queue.size()
		o.Observe(int64(n), r.meters.plain)
		return nil
	}
	bytes := func(_ context.Context, o metric.Int64Observer) error {
		_, n := r.queue.size()
		o.Observe(n, r.meters.plain)
		return nil
	}
	return errors.Join(
		r.meters.RegisterTpmsignPendingBlocksCallback(blocks),
		r.meters.RegisterTpmsignPendingBytesCallback(bytes),
	)
}

// loadPending reads what an earlier start left.
func (r *run) loadPending(ctx context.Context) error {
	unsigned, signed := 0, 0
	err := r.queue.store.load(ctx, func(s stored, err error) {
		if err != nil {
			r.corrupt(ctx, err)
			return
		}
		if s.rec.state == stateSigned {
			signed++
		} else {
			unsigned++
		}
		r.queue.adopt(s)
	})
	if err != nil {
		return fmt.Errorf("loading what is pending: %w", err)
	}
	if unsigned+signed > 0 {
		r.logger.Info("Requests of before this start are pending", zap.Int("to_sign", unsigned), zap.Int("to_deliver", signed))
	}
	return nil
}

func (r *run) corrupt(ctx context.Context, err error) {
	r.meters.TpmsignCorruptRecords.Add(ctx, 1, r.meters.plain)
	r.logger.Error("A pending request cannot be read and is lost", zap.Error(err))
}

// shutdown stops the run: no new requests, finish what can be finished, say
// farewell, stop the goroutines.
func (r *run) shutdown(ctx context.Context) error {
	draining, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	// What does not end in time is told to, and still may have to wait for the
	// next consumer.
	stop := context.AfterFunc(draining, r.cancel)
	idle := r.gate.close()
	r.status.end()
	waitFor(draining, idle)
	r.drain(draining)
	r.farewell(draining)
	r.drain(draining) // the farewell, when its signature is slow
	stop()
	r.cancel()

	closed := make(chan error, 1)
	go func() { // the storage is closed when nobody can use it any more, however late
		<-idle
		r.goroutines.Wait()
		r.leave(&flight{}) // what its callers let go since
		closed <- r.closeStore(draining)
	}()
	var err error
	select {
	case err = <-closed:
	case <-ctx.Done():
		err = fmt.Errorf("the next component or the storage has not returned: %w", context.Cause(ctx))
	}
	r.meters.Shutdown()
	r.closeStream()
	return errors.Join(r.leftovers(), err)
}

// waitFor waits for c, at most until ctx ends.
func waitFor(ctx context.Context, c <-chan struct{}) {
	select {
	case <-c:
	case <-ctx.Done():
	}
}

// leftovers reports what was not finished.
func (r *run) leftovers() error {
	blocks := r.queue.data()
	if blocks == 0 {
		return nil
	}
	if r.cfg.Pending.Storage == nil {
		return fmt.Errorf("%w: %d blocks", errShutdownLost, blocks)
	}
	r.logger.Info("Blocks stay in the pending store until the next start", zap.Int("blocks", blocks))
	return nil
}

// drain waits while pending work goes on by itself.
func (r *run) drain(ctx context.Context) {
	const look = 10 * time.Millisecond
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for r.progresses() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// progresses says whether pending work can be expected to get on.
func (r *run) progresses() bool {
	if blocks, _ := r.queue.size(); blocks == 0 {
		return false
	}
	unsigned, signed := r.queue.waiting()
	switch {
	case signed > 0 && !r.blocked.Load():
		return true
	case unsigned > 0 || r.signing.Load() > 0:
		return r.tpm.CanSign()
	default:
		return signed == 0 // delivered, and about to be removed
	}
}

// gate lets requests in until it is closed.
type gate struct {
	mu     sync.RWMutex
	closed bool

	inside sync.WaitGroup // Add under mu
}

func (g *gate) enter() bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.closed {
		return false
	}
	g.inside.Add(1)
	return true
}

func (g *gate) leave() { g.inside.Done() }

// close returns a channel that is closed when everybody has left.
func (g *gate) close() <-chan struct{} {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	empty := make(chan struct{})
	go func() {
		g.inside.Wait()
		close(empty)
	}()
	return empty
}
