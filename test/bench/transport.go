package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/telemark-otel/telemark/internal/block"
)

// The load generator and the sink speak gRPC as plain HTTP/2, so that neither
// encodes, compresses or decodes anything while something is measured:
//
//	POST /opentelemetry.proto.collector.….v1.…Service/Export
//	compressed 1 | length 4 | message        and the status in the trailer

const frameHeader = 5

// frame makes one message ready to be sent.
func frame(message []byte, zip bool) ([]byte, error) {
	var buf bytes.Buffer
	buf.Write(make([]byte, frameHeader))
	if zip {
		w := gzip.NewWriter(&buf)
		if _, err := w.Write(message); err != nil {
			return nil, err
		}
		if err := w.Close(); err != nil {
			return nil, err
		}
	} else {
		buf.Write(message)
	}
	b := buf.Bytes()
	if zip {
		b[0] = 1
	}
	binary.BigEndian.PutUint32(b[1:], uint32(len(b)-frameHeader))
	return b, nil
}

func unencryptedHTTP2() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

// sender sends finished frames to one receiver.
type sender struct {
	client *http.Client
	base   string
	zip    bool
}

func newSender(endpoint string, zip bool) *sender {
	return &sender{
		client: &http.Client{Transport: &http.Transport{Protocols: unencryptedHTTP2()}, Timeout: time.Minute},
		base:   "http://" + endpoint,
		zip:    zip,
	}
}

func (s *sender) close() { s.client.CloseIdleConnections() }

var methods = map[block.Signal]string{
	block.Metrics: "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
	block.Logs:    "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
	block.Traces:  "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
}

// export sends one frame and demands that all of it is accepted.
func (s *sender) export(ctx context.Context, signal block.Signal, frame []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base+methods[signal], bytes.NewReader(frame))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	if s.zip {
		req.Header.Set("Grpc-Encoding", "gzip")
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	status, message := resp.Trailer.Get("Grpc-Status"), resp.Trailer.Get("Grpc-Message")
	if status == "" { // an answer without body has it in the header
		status, message = resp.Header.Get("Grpc-Status"), resp.Header.Get("Grpc-Message")
	}
	if status != "0" {
		return fmt.Errorf("%s, grpc status %s: %s", resp.Status, status, message)
	}
	return accepted(answer)
}

// accepted says whether an answer is an ExportResponse without a rejection: it
// is empty, or its partial_success (field 1) is.
func accepted(answer []byte) error {
	if len(answer) < frameHeader {
		return fmt.Errorf("an answer of %d bytes", len(answer))
	}
	message := answer[frameHeader:]
	if answer[0] == 1 {
		r, err := gzip.NewReader(bytes.NewReader(message))
		if err != nil {
			return err
		}
		if message, err = io.ReadAll(io.LimitReader(r, 1<<16)); err != nil {
			return err
		}
	}
	if len(message) > 0 && !bytes.Equal(message, []byte{0x0a, 0x00}) {
		return fmt.Errorf("not all was accepted: %q", message)
	}
	return nil
}

// maxInFlight bounds what a slow machine lets pile up.
const maxInFlight = 1024

// sendPaced sends frames at a rate per second, whether or not earlier ones were
// answered, and waits for all answers.
func (s *sender) sendPaced(ctx context.Context, signal block.Signal, frames [][]byte, rate int) error {
	var group sync.WaitGroup
	var failed atomic.Pointer[error]
	slots := make(chan struct{}, maxInFlight)
	began := time.Now()
	for i, frame := range frames {
		time.Sleep(time.Duration(i)*time.Second/time.Duration(rate) - time.Since(began))
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			if err := s.export(ctx, signal, frame); err != nil {
				failed.Store(&err)
			}
		})
	}
	group.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// sink is an OTLP server that accepts and discards everything.
type sink struct {
	server   *http.Server
	endpoint string
	bytes    atomic.Int64 // of messages, as they came
}

func newSink() (*sink, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &sink{endpoint: l.Addr().String()}
	s.server = &http.Server{
		Handler:           s,
		Protocols:         unencryptedHTTP2(),
		ReadHeaderTimeout: time.Minute,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 4096, MaxReceiveBufferPerConnection: 16 << 20, MaxReceiveBufferPerStream: 4 << 20},
	}
	go func() { _ = s.server.Serve(l) }()
	return s, nil
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n, err := io.Copy(io.Discard, r.Body)
	status := "0"
	if err != nil {
		status = "13" // INTERNAL
	}
	s.bytes.Add(n - frameHeader)
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	_, _ = w.Write(make([]byte, frameHeader)) // an empty ExportResponse
	w.Header().Set("Grpc-Status", status)
}

// quiet waits until nothing has come for longer than a batch waits.
func (s *sink) quiet(ctx context.Context) {
	const look = 10 * time.Millisecond
	for seen, quiet := s.bytes.Load(), time.Duration(0); quiet < flushAfter+look && ctx.Err() == nil; {
		time.Sleep(look)
		now := s.bytes.Load()
		quiet += look
		if now != seen {
			seen, quiet = now, 0
		}
	}
}

func (s *sink) close() { _ = s.server.Close() }
