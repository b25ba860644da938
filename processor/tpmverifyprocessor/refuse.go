package tpmverifyprocessor

import (
	"context"
	"encoding/hex"
	"sync"
	"time"

	"go.opentelemetry.io/collector/client"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/verdict"
)

// refusal is what a log line says of a refused block. It is taken before the
// block goes on, since the next component owns it then.
type refusal struct {
	reason        reason.Reason
	detail        string
	differs       string
	service, host string // the sender's word
	kid, stream   string // the sender's word, unless the signature was verified
	epoch, number uint64
}

func refusalFrom(b digest.Block, j *judged) refusal {
	f := refusal{reason: j.Reason, detail: j.Detail, differs: j.Arrived.Differs}
	f.service = attributeOf(b, "service.name")
	f.host = attributeOf(b, "host.name")
	f.from(&j.Verdict)
	return f
}

func (f *refusal) from(v *verdict.Verdict) {
	if v.Receipt == nil {
		return
	}
	s := v.Receipt.Statement
	f.kid, f.stream, f.epoch, f.number = string(s.KID), v.Receipt.Stream, s.Epoch, v.Receipt.BlockNo
}

func attributeOf(b digest.Block, key string) string {
	const most = 128
	v, ok := b.Attributes().Get(key)
	if !ok {
		return ""
	}
	s := textOf(v)
	if len(s) > most {
		s = s[:most]
	}
	return s
}

// refuse counts a refusal and, now and then, logs it.
func (p *verifier) refuse(ctx context.Context, f *refusal) {
	p.meters.refused(ctx, f.reason)
	if p.windows != nil {
		p.windows.Refused(p.scope, f.kid, f.stream, f.reason)
	}
	p.refusal.write(p.now(), f, client.FromContext(ctx).Addr)
}

// refusalLog writes sampled lines: a hostile sender must not fill the disk, and
// must not hide one reason behind a flood of another.
type refusalLog struct {
	logger *zap.Logger
	burst  int
	every  rate.Limit

	mu       sync.Mutex // guards what follows
	limiters map[reason.Reason]*sampled
}

type sampled struct {
	limiter    *rate.Limiter
	suppressed int64 // lines since the last one that was written
}

func newRefusalLog(logger *zap.Logger, cfg RefusalLogConfig) *refusalLog {
	return &refusalLog{
		logger:   logger,
		burst:    cfg.Burst,
		every:    rate.Every(cfg.Interval),
		limiters: map[reason.Reason]*sampled{},
	}
}

// take says whether a line may be written now, and how many were not.
func (l *refusalLog) take(now time.Time, r reason.Reason) (bool, int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.limiters[r]
	if s == nil {
		s = &sampled{limiter: rate.NewLimiter(l.every, l.burst)}
		l.limiters[r] = s
	}
	if !s.limiter.AllowN(now, 1) {
		s.suppressed++
		return false, 0
	}
	n := s.suppressed
	s.suppressed = 0
	return true, n
}

func (l *refusalLog) write(now time.Time, f *refusal, peer interface{ String() string }) {
	ok, suppressed := l.take(now, f.reason)
	if !ok {
		return
	}
	fields := []zap.Field{
		zap.String("reason", string(f.reason)),
		zap.String("detail", f.detail),
		zap.String("service.name", f.service),
		zap.String("host.name", f.host),
	}
	if peer != nil {
		fields = append(fields, zap.Stringer("peer", peer))
	}
	if f.kid != "" {
		fields = append(fields,
			zap.String("kid", hex.EncodeToString([]byte(f.kid))),
			zap.String("stream", f.stream),
			zap.Uint64("epoch", f.epoch),
			zap.Uint64("block", f.number))
	}
	if f.differs != "" {
		fields = append(fields, zap.String("differs", f.differs))
	}
	if suppressed > 0 {
		fields = append(fields, zap.Int64("not_logged", suppressed))
	}
	fields = append(fields, zap.String("help", f.reason.Help()))
	l.logger.Warn("block refused", fields...)
}
