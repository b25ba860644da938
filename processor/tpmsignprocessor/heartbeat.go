package tpmsignprocessor

import (
	"context"
	"crypto/rand"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
)

// utterance is what a stream says of itself.
type utterance string

const (
	heartbeat utterance = "heartbeat"
	farewell  utterance = "farewell"
)

// name is what the one item of the block is called.
func (u utterance) name() string { return "telemark." + string(u) }

// keepSpeaking is the goroutine that sends a heartbeat when the stream has
// been silent for the interval.
func (r *run) keepSpeaking() {
	interval := r.cfg.Heartbeat.Interval
	timer := time.NewTimer(interval)
	defer timer.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-timer.C:
		}
		// Less than zero: the clock was set back, and nobody knows since when.
		silent := time.Since(time.Unix(0, r.lastBlock.Load()))
		if 0 <= silent && silent < interval {
			timer.Reset(interval - silent)
			continue
		}
		r.speak(r.ctx, heartbeat)
		timer.Reset(interval)
	}
}

// speak sends one block of our own, unless the last one still waits or none can
// be signed.
func (r *run) speak(ctx context.Context, u utterance) {
	if r.queue.speaking() || !r.tpm.CanSign() || !r.gate.enter() {
		return
	}
	defer r.gate.leave()
	r.utter(ctx, u)
}

func (r *run) utter(ctx context.Context, u utterance) {
	now := time.Now()
	req := r.prepare(ctx, r.newUtterance(u, now), r.tolerances, digest.Block.PrepareHeartbeat)
	req.own = u
	if req.len() == 0 {
		return
	}
	if err := r.process(ctx, req, now); err != nil {
		r.logger.Warn("The stream could not speak", zap.String("kind", string(u)), zap.Error(err))
	}
}

// farewell is the last block of the stream. It is left out when it would not
// get through, and left alone when the next component or the storage does not
// return; the storage is not closed before that.
func (r *run) farewell(ctx context.Context) {
	if r.cfg.Heartbeat.Interval == 0 || r.blocked.Load() || !r.tpm.CanSign() || ctx.Err() != nil {
		return
	}
	said := make(chan struct{})
	r.goroutines.Go(func() {
		defer close(said)
		r.utter(ctx, farewell)
	})
	waitFor(ctx, said)
}

// newUtterance makes a request of one item. Its resource is the collector's
// own, as in its internal telemetry.
func (r *run) newUtterance(u utterance, now time.Time) digest.Batch {
	resource := r.set.Resource
	at := pcommon.NewTimestampFromTime(now)
	switch r.signal {
	case block.Metrics:
		return digest.FromMetrics(heartbeatMetric(resource, u, at))
	case block.Logs:
		return digest.FromLogs(heartbeatLog(resource, u, at))
	case block.Traces:
		return digest.FromTraces(heartbeatSpan(resource, u, at))
	default:
		panic("tpmsign: unknown signal " + r.signal.String())
	}
}

func heartbeatMetric(resource pcommon.Resource, u utterance, at pcommon.Timestamp) pmetric.Metrics {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	resource.CopyTo(rm.Resource())
	sm := rm.ScopeMetrics().AppendEmpty()
	sm.Scope().SetName(digest.HeartbeatScope)
	m := sm.Metrics().AppendEmpty()
	m.SetName(u.name())
	m.SetUnit("1")
	dp := m.SetEmptyGauge().DataPoints().AppendEmpty()
	dp.SetTimestamp(at)
	dp.SetIntValue(1)
	return md
}

func heartbeatLog(resource pcommon.Resource, u utterance, at pcommon.Timestamp) plog.Logs {
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	resource.CopyTo(rl.Resource())
	sl := rl.ScopeLogs().AppendEmpty()
	sl.Scope().SetName(digest.HeartbeatScope)
	lr := sl.LogRecords().AppendEmpty()
	lr.SetTimestamp(at)
	lr.SetObservedTimestamp(at)
	lr.SetSeverityNumber(plog.SeverityNumberInfo)
	lr.SetSeverityText("INFO")
	lr.SetEventName(u.name())
	lr.Body().SetStr(u.name())
	return ld
}

func heartbeatSpan(resource pcommon.Resource, u utterance, at pcommon.Timestamp) ptrace.Traces {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	resource.CopyTo(rs.Resource())
	ss := rs.ScopeSpans().AppendEmpty()
	ss.Scope().SetName(digest.HeartbeatScope)
	span := ss.Spans().AppendEmpty()
	span.SetName(u.name())
	span.SetKind(ptrace.SpanKindInternal)
	span.SetStartTimestamp(at)
	span.SetEndTimestamp(at)
	var trace pcommon.TraceID
	var id pcommon.SpanID
	_, _ = rand.Read(trace[:]) // never fails
	_, _ = rand.Read(id[:])
	span.SetTraceID(trace)
	span.SetSpanID(id)
	return td
}
