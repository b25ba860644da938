package ratelimitextension

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// logs accepts everything, when it is let.
type logs struct {
	plogotlp.UnimplementedGRPCServer
	entered, release chan struct{}
}

func (l *logs) Export(context.Context, plogotlp.ExportRequest) (plogotlp.ExportResponse, error) {
	if l.entered != nil {
		l.entered <- struct{}{}
		<-l.release
	}
	return plogotlp.NewExportResponse(), nil
}

// echoes is a service with a stream in both directions.
var echoes = grpc.ServiceDesc{
	ServiceName: "test.Echo",
	Streams: []grpc.StreamDesc{{
		StreamName: "Echo", ServerStreams: true, ClientStreams: true,
		Handler: func(_ any, ss grpc.ServerStream) error {
			for {
				var m healthpb.HealthCheckRequest
				if err := ss.RecvMsg(&m); err != nil {
					if errors.Is(err, io.EOF) {
						return nil
					}
					return err
				}
				if err := ss.SendMsg(&m); err != nil {
					return err
				}
			}
		},
	}},
}

func serve(t *testing.T, l *logs, extensions ...*Extension) *grpc.ClientConn {
	t.Helper()
	var opts []grpc.ServerOption
	for _, e := range extensions {
		more, err := e.GetGRPCServerOptions(t.Context())
		require.NoError(t, err)
		opts = append(opts, more...)
	}
	srv := grpc.NewServer(opts...)
	plogotlp.RegisterGRPCServer(srv, l)
	healthpb.RegisterHealthServer(srv, health.NewServer())
	srv.RegisterService(&echoes, nil)
	return connect(t, srv)
}

// connect runs srv for as long as the test, and dials it.
func connect(t *testing.T, srv *grpc.Server) *grpc.ClientConn {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	conn, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, conn.Close())
		srv.Stop()
		require.NoError(t, <-served)
	})
	return conn
}

func export(ctx context.Context, conn *grpc.ClientConn, size int) error {
	ld := plog.NewLogs()
	ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty().Body().SetEmptyBytes().FromRaw(make([]byte, size))
	_, err := plogotlp.NewGRPCClient(conn).Export(ctx, plogotlp.NewExportRequestFromLogs(ld))
	return err
}

// requireExhausted demands what makes exporters send again.
func requireExhausted(t *testing.T, err error, reason string) *errdetails.RetryInfo {
	t.Helper()
	s := status.Convert(err)
	require.Equal(t, codes.ResourceExhausted, s.Code(), "%v", err)
	require.Len(t, s.Details(), 2)
	require.Equal(t, reason, s.Details()[1].(*errdetails.ErrorInfo).GetMetadata()["reason"])
	return s.Details()[0].(*errdetails.RetryInfo)
}

func TestGRPCOverflowIsResourceExhaustedWithRetryInfo(t *testing.T) {
	e := started(t, func(c *Config) { c.Requests = RateConfig{Rate: 1, Per: time.Minute, Burst: 2} })
	conn := serve(t, &logs{}, e)
	require.NoError(t, export(t.Context(), conn, 10))
	require.NoError(t, export(t.Context(), conn, 10))
	retry := requireExhausted(t, export(t.Context(), conn, 10), "request_rate")
	require.InDelta(t, time.Minute, retry.GetRetryDelay().AsDuration(), float64(5*time.Second))
	require.Equal(t, "127.0.0.1", e.RateLimits(1).Rules[0].Fullest[0].Key)
	require.Equal(t, map[string]uint64{"request_rate": 1}, e.RateLimits(0).Refused)
}

func TestGRPCMessagesCountWithTheirSize(t *testing.T) {
	e := started(t, func(c *Config) { c.Bytes = RateConfig{Rate: 100, Burst: 10_000} })
	other := started(t, func(c *Config) { c.Bytes = RateConfig{Rate: 100, Burst: 1_000_000} })
	conn := serve(t, &logs{}, e, other)
	require.NoError(t, export(t.Context(), conn, 30_000), "larger than the burst")
	retry := requireExhausted(t, export(t.Context(), conn, 10), "byte_rate")
	require.InDelta(t, 200*time.Second, retry.GetRetryDelay().AsDuration(), float64(5*time.Second))
	require.InDelta(t, 0.03, other.RateLimits(1).Rules[0].Fullest[0].Bytes, 0.001, "both count")
}

func TestGRPCRulesAndKeys(t *testing.T) {
	e := started(t, func(c *Config) {
		c.Rules = []Rule{{Path: "/opentelemetry.proto.collector.logs.v1.LogsService/*", KeyBy: "header:X-Tenant", Requests: RateConfig{Rate: 1, Per: time.Hour}}}
	})
	conn := serve(t, &logs{}, e)
	as := func(tenant string) context.Context {
		return metadata.AppendToOutgoingContext(t.Context(), "x-tenant", tenant)
	}
	require.NoError(t, export(as("a"), conn, 1))
	requireExhausted(t, export(as("a"), conn, 1), "request_rate")
	require.NoError(t, export(as("b"), conn, 1))
	require.NoError(t, export(t.Context(), conn, 1), "by address, where there is no header")
	requireExhausted(t, export(t.Context(), conn, 1), "request_rate")
	for range 5 {
		_, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
		require.NoError(t, err, "another service")
	}
}

func TestGRPCForwardedAddressCountsBehindAProxy(t *testing.T) {
	for _, trusted := range []bool{false, true} {
		e := started(t, func(c *Config) {
			c.Requests = RateConfig{Rate: 1, Per: time.Hour}
			if trusted {
				c.TrustedProxies = []string{"127.0.0.0/8"}
			}
		})
		conn := serve(t, &logs{}, e)
		as := func(addr string) context.Context {
			return metadata.AppendToOutgoingContext(t.Context(), "x-forwarded-for", addr)
		}
		require.NoError(t, export(as("192.0.2.1"), conn, 1))
		err := export(as("192.0.2.2"), conn, 1)
		if trusted {
			require.NoError(t, err)
			err = export(as("192.0.2.9, 192.0.2.2"), conn, 1)
		}
		requireExhausted(t, err, "request_rate")
	}
}

func TestGRPCConcurrencyIsBounded(t *testing.T) {
	e := started(t, func(c *Config) { c.MaxConcurrent = 1 })
	l := &logs{entered: make(chan struct{}), release: make(chan struct{})}
	conn := serve(t, l, e)
	done := make(chan error, 1)
	go func() { done <- export(t.Context(), conn, 1) }()
	<-l.entered
	retry := requireExhausted(t, export(t.Context(), conn, 1), "concurrency")
	require.Equal(t, time.Second, retry.GetRetryDelay().AsDuration())
	stream, err := conn.NewStream(t.Context(), &echoes.Streams[0], "/test.Echo/Echo")
	require.NoError(t, err)
	requireExhausted(t, stream.RecvMsg(&healthpb.HealthCheckRequest{}), "concurrency")
	close(l.release)
	require.NoError(t, <-done)
	require.Zero(t, e.RateLimits(0).InFlight)
}

// One stream must not carry what single calls may not.
func TestMessagesOfAStreamAreCountedOneByOne(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Config)
		passed int
		reason string
	}{
		"requests": {func(c *Config) { c.Requests = RateConfig{Rate: 3, Per: time.Hour} }, 3, "request_rate"},
		"bytes":    {func(c *Config) { c.Bytes = RateConfig{Rate: 1, Burst: 3000} }, 3, "byte_rate"},
	} {
		t.Run(name, func(t *testing.T) {
			e := started(t, tc.change)
			conn := serve(t, &logs{}, e)
			stream, err := conn.NewStream(t.Context(), &echoes.Streams[0], "/test.Echo/Echo")
			require.NoError(t, err)
			m := &healthpb.HealthCheckRequest{Service: string(make([]byte, 1000))}
			for range tc.passed {
				require.NoError(t, stream.SendMsg(m))
				require.NoError(t, stream.RecvMsg(&healthpb.HealthCheckRequest{}))
			}
			require.NoError(t, stream.SendMsg(m))
			requireExhausted(t, stream.RecvMsg(&healthpb.HealthCheckRequest{}), tc.reason)
			again, err := conn.NewStream(t.Context(), &echoes.Streams[0], "/test.Echo/Echo")
			require.NoError(t, err)
			requireExhausted(t, again.RecvMsg(&healthpb.HealthCheckRequest{}), tc.reason)
		})
	}
}
