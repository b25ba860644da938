package ratelimitextension

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/stats"
)

// GetGRPCServerOptions returns the middleware of gRPC servers. configgrpc runs
// it after authentication; the message of a call has been read by then, and
// decoded: how deep it nests is for the codec to say.
func (e *Extension) GetGRPCServerOptions(context.Context) ([]grpc.ServerOption, error) {
	opts := []grpc.ServerOption{grpc.ChainUnaryInterceptor(e.unary), grpc.ChainStreamInterceptor(e.stream)}
	if e.limiter.countsBytes() {
		opts = append(opts, grpc.StatsHandler(&sizes{e.limiter}))
	}
	if e.limiter.maxNesting > 0 {
		opts = append(opts, grpc.ForceServerCodecV2(&shallowCodec{CodecV2: encoding.GetCodecV2(codecName), ext: e}))
	}
	return opts, nil
}

func (l *limiter) countsBytes() bool {
	for i := range l.rules {
		if l.rules[i].bytes.Limits() {
			return true
		}
	}
	return l.rest.bytes.Limits()
}

func (e *Extension) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	l := e.limiter
	if !l.enter() {
		return nil, e.exhausted(refusal{Concurrency, busyRetry})
	}
	defer l.leave()
	if rule := l.rule(info.FullMethod); !rule.idle() {
		if refused, ok := l.admit(rule, l.grpcKey(ctx, &rule.by), l.received(ctx), time.Now()); !ok {
			return nil, e.exhausted(refused)
		}
	}
	l.count(protocolGRPC, Admitted)
	return next(ctx, req)
}

// stream counts each message as a request: the first one when the stream is
// opened.
func (e *Extension) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	l := e.limiter
	if !l.enter() {
		return e.exhausted(refusal{Concurrency, busyRetry})
	}
	defer l.leave()
	rule := l.rule(info.FullMethod)
	if rule.idle() {
		l.count(protocolGRPC, Admitted)
		return next(srv, ss)
	}
	k := l.grpcKey(ss.Context(), &rule.by)
	if refused, ok := l.admit(rule, k, 0, time.Now()); !ok {
		return e.exhausted(refused)
	}
	l.count(protocolGRPC, Admitted)
	return next(srv, &limitedStream{ServerStream: ss, ext: e, rule: rule, key: k, paid: true})
}

// limitedStream judges the messages of a stream. One that is refused ends it.
type limitedStream struct {
	grpc.ServerStream
	ext  *Extension
	rule *rule
	key  key
	paid bool // for the next message
}

func (s *limitedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	l := s.ext.limiter
	size, now := l.received(s.Context()), time.Now()
	if s.paid {
		s.paid = false
		s.rule.bytes.Take(s.key, size, now)
		return nil
	}
	if refused, ok := l.admit(s.rule, s.key, size, now); !ok {
		return s.ext.exhausted(refused)
	}
	l.count(protocolGRPC, Admitted)
	return nil
}

func (e *Extension) exhausted(why refusal) error {
	e.limiter.count(protocolGRPC, why.reason)
	return statusOf(e.cfg.RejectedBy, why).Err()
}

func (l *limiter) grpcKey(ctx context.Context, by *keyBy) key {
	p, _ := peer.FromContext(ctx)
	switch by.kind {
	case byIdentity:
		if p != nil {
			if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
				if id, ok := identity(&info.State); ok {
					return textKey(byIdentity, id)
				}
			}
		}
	case byHeader:
		if values := metadata.ValueFromIncomingContext(ctx, by.gRPC); len(values) > 0 {
			return textKey(byHeader, values[0])
		}
	default: // there is no query
	}
	if p == nil {
		return key{}
	}
	addr := netAddr(p.Addr)
	if l.trusted.trust(addr) {
		addr = l.trusted.client(addr, metadata.ValueFromIncomingContext(ctx, "x-forwarded-for"))
	}
	return addressKey(addr, l.ipv6Prefix)
}

// sizes leaves the sizes of messages, decompressed, where interceptors find
// them: grpc-go reads and decodes a message before it calls those.
type sizes struct{ limiter *limiter }

var _ stats.Handler = (*sizes)(nil)

// sizeKey is that of one extension: a server may have several.
type sizeKey struct{ limiter *limiter }

// received returns how many bytes came since it was asked last.
func (l *limiter) received(ctx context.Context) int {
	if n, ok := ctx.Value(sizeKey{l}).(*atomic.Int64); ok {
		return int(n.Swap(0))
	}
	return 0
}

// TagRPC gives a call its counter.
func (s *sizes) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, sizeKey(*s), new(atomic.Int64))
}

// HandleRPC counts what was received.
func (s *sizes) HandleRPC(ctx context.Context, event stats.RPCStats) {
	if in, ok := event.(*stats.InPayload); ok {
		if n, ok := ctx.Value(sizeKey(*s)).(*atomic.Int64); ok {
			n.Add(int64(in.Length))
		}
	}
}

// TagConn does nothing.
func (*sizes) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn does nothing.
func (*sizes) HandleConn(context.Context, stats.ConnStats) {}
