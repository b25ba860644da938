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
	f.service, f.host = sender(b)
	f.from(&j.Verdict)
	return f
}

// sender is what a block calls itself.
func sender(b digest.Block) (service, host string) {
	return attributeOf(b, "service.name"), attributeOf(b, "host.name")
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
	return clip(textOf(v), most)
}

func clip(s string, most int) string { return s[:min(len(s), most)] }

// maxPeer is more than an address takes, and what the length in an entry of the
// park can say.
const maxPeer = 255

type parkedBy struct{}

// sentBy tells the refusals under ctx who sent a block that was parked. The next
// component is not told: of the request that it came in nothing else is left.
func sentBy(ctx context.Context, peer string) context.Context {
	return context.WithValue(ctx, parkedBy{}, peer)
}

// peerOf is who sent what is handled under ctx, "" when that is not known.
func peerOf(ctx context.Context) string {
	if peer, ok := ctx.Value(parkedBy{}).(string); ok {
		return peer
	}
	if addr := client.FromContext(ctx).Addr; addr != nil {
		return addr.String()
	}
	return ""
}

// refuse counts a refusal and, now and then, logs it.
func (p *verifier) refuse(ctx context.Context, f *refusal) {
	p.meters.refused(ctx, f.reason)
	if p.windows != nil {
		p.windows.Refused(p.scope, f.kid, f.stream, f.reason)
	}
	p.refusal.write(ctx, p.now(), f)
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

func (l *refusalLog) write(ctx context.Context, now time.Time, f *refusal) {
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
	if peer := peerOf(ctx); peer != "" {
		fields = append(fields, zap.String("peer", peer))
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
