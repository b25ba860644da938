package harness

import (
	"context"
	"net"
	"sync"

	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"

	"github.com/telemark-otel/telemark/internal/digest"
)

// Hostile is a gateway that nobody should trust: it takes OTLP over gRPC, does
// with each request what its Attack says, and passes on what that returns.
type Hostile struct {
	Addr string

	server *grpc.Server
	next   *grpc.ClientConn

	mu     sync.Mutex
	attack Attack
	seen   []digest.Batch
}

// Attack changes a request in place or returns others to be sent instead.
type Attack func(request digest.Batch) []digest.Batch

// Pass is the attack of an honest gateway.
func Pass(request digest.Batch) []digest.Batch { return []digest.Batch{request} }

// NewHostile listens on a free port of the loopback address with the server
// options given and forwards over next.
func NewHostile(next *grpc.ClientConn, opts ...grpc.ServerOption) (*Hostile, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	h := &Hostile{Addr: l.Addr().String(), server: grpc.NewServer(opts...), next: next, attack: Pass}
	pmetricotlp.RegisterGRPCServer(h.server, &hostileMetrics{h: h})
	plogotlp.RegisterGRPCServer(h.server, &hostileLogs{h: h})
	ptraceotlp.RegisterGRPCServer(h.server, &hostileTraces{h: h})
	go func() { _ = h.server.Serve(l) }()
	return h, nil
}

// Close stops listening.
func (h *Hostile) Close() { h.server.Stop() }

// Set changes the attack.
func (h *Hostile) Set(a Attack) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.attack = a
}

// Seen returns copies of the requests that came in since the last call, as
// they came in.
func (h *Hostile) Seen() []digest.Batch {
	h.mu.Lock()
	defer h.mu.Unlock()
	seen := h.seen
	h.seen = nil
	return seen
}

// Send passes a request on, without any attack.
func (h *Hostile) Send(ctx context.Context, b digest.Batch) error { return ExportGRPC(ctx, h.next, b) }

func (h *Hostile) handle(ctx context.Context, b digest.Batch) error {
	h.mu.Lock()
	h.seen = append(h.seen, Clone(b))
	attack := h.attack
	h.mu.Unlock()
	for _, out := range attack(b) {
		if err := h.Send(ctx, out); err != nil {
			return err
		}
	}
	return nil
}

// Clone returns a deep copy.
func Clone(b digest.Batch) digest.Batch {
	out := digest.NewBatch(b.Signal())
	for i := range b.Len() {
		b.At(i).CopyTo(out)
	}
	return out
}

type hostileMetrics struct {
	pmetricotlp.UnimplementedGRPCServer
	h *Hostile
}

func (s *hostileMetrics) Export(ctx context.Context, req pmetricotlp.ExportRequest) (pmetricotlp.ExportResponse, error) {
	return pmetricotlp.NewExportResponse(), s.h.handle(ctx, digest.FromMetrics(req.Metrics()))
}

type hostileLogs struct {
	plogotlp.UnimplementedGRPCServer
	h *Hostile
}

func (s *hostileLogs) Export(ctx context.Context, req plogotlp.ExportRequest) (plogotlp.ExportResponse, error) {
	return plogotlp.NewExportResponse(), s.h.handle(ctx, digest.FromLogs(req.Logs()))
}

type hostileTraces struct {
	ptraceotlp.UnimplementedGRPCServer
	h *Hostile
}

func (s *hostileTraces) Export(ctx context.Context, req ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	return ptraceotlp.NewExportResponse(), s.h.handle(ctx, digest.FromTraces(req.Traces()))
}
