package tpmsignprocessor

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
)

// calm is how long after the last request that could not be kept deliveries say
// that all is well again. What needs no pending store tells nothing of it.
const calm = 30 * time.Second

// status tells the Collector when requests cannot be put into the pending store,
// and when that is over.
type status struct {
	down atomic.Bool // of the state below, for the hot path

	mu    sync.Mutex     // held from a change to its report, so that reports arrive in order
	host  component.Host // nil after the end, when the Collector speaks for the component
	since time.Time      // of the last request that could not be kept
}

// put keeps a request and notes whether that can be done.
func (r *run) put(ctx context.Context, rec record, p placing) error {
	err := r.queue.put(ctx, rec, p)
	switch {
	case err == nil:
		r.status.well()
	case !errors.Is(err, context.Canceled): // else the caller left, and that is all
		r.status.failed(err, time.Now())
	}
	return err
}

func (s *status) failed(err error, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since = now
	if s.host == nil || s.down.Swap(true) {
		return
	}
	componentstatus.ReportStatus(s.host, componentstatus.NewRecoverableErrorEvent(err))
}

func (s *status) well() {
	if !s.down.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recover()
}

// delivered is told of each delivery.
func (s *status) delivered(now time.Time) {
	if !s.down.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.since) > calm {
		s.recover()
	}
}

func (s *status) recover() {
	if s.host != nil && s.down.Swap(false) {
		componentstatus.ReportStatus(s.host, componentstatus.NewEvent(componentstatus.StatusOK))
	}
}

func (s *status) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.host = nil
}
