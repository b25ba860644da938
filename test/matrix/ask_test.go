package matrix

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/test/harness"
)

func (w *world) dial(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient(address, grpc.WithTransportCredentials(grpcCredentials(w.clientTLS())))
}

func (w *world) client() *http.Client {
	return &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: w.clientTLS(), DisableKeepAlives: true}}
}

// request sends an HTTP request to a place: the name of a node for its own HTTP
// side, NODE.admin, or NODE.otlp.
func (w *world) request(place, method, path, contentType string, body []byte) (*http.Response, []byte, error) {
	name, side, _ := strings.Cut(place, ".")
	n, err := w.node(name)
	if err != nil {
		return nil, nil, err
	}
	address := n.side(side)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, w.scheme()+"://"+address+path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if side == "admin" {
		token, err := w.token()
		if err != nil {
			return nil, nil, err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := w.client().Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp, answer, err
}

// side returns one of a node's addresses: its own HTTP side where side is empty.
func (n *node) side(side string) string {
	return map[string]string{"": n.http, "admin": n.admin, "otlp": n.otlp, "grpc": n.grpc}[side]
}

// closed is "closed PLACE…": who shows no certificate gets no answer there. PLACE is
// as for 'ask', or NODE.grpc.
func (s scene) closed(place string) error {
	name, side, _ := strings.Cut(place, ".")
	n, err := s.node(name)
	if err != nil {
		return err
	}
	nobody := s.clientTLS().Clone()
	nobody.Certificates = nil
	conn, err := tls.Dial("tcp", n.side(side), nobody)
	if err != nil {
		return fmt.Errorf("%s: %w", place, err) // what is closed speaks TLS, to everybody
	}
	defer func() { _ = conn.Close() }()
	// In TLS 1.3 a client learns with its first read that it is not let in.
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	var alert *net.OpError
	if _, err := conn.Read(make([]byte, 1)); !errors.As(err, &alert) || !strings.Contains(err.Error(), "certificate required") {
		return fmt.Errorf("%s answers somebody without a certificate: %w", place, err)
	}
	return nil
}

// ask is "ask PLACE METHOD PATH [JSON]" and prints the status, the headers that
// matter, and the body.
func ask(s scene, args []string) error {
	var body []byte
	contentType := ""
	if len(args) > 3 {
		body, contentType = []byte(args[3]), "application/json"
	}
	resp, answer, err := s.request(args[0], args[1], args[2], contentType, body)
	if err != nil {
		return err
	}
	s.say("%s", resp.Status)
	for _, header := range []string{"Retry-After", "Age"} {
		if v := resp.Header.Get(header); v != "" {
			s.say("%s: %s", header, v)
		}
	}
	s.say("%s", answer)
	return nil
}

func (s scene) untilRefused(place, method, path, body string) error {
	for range 1000 {
		resp, answer, err := s.request(place, method, path, "application/json", []byte(body))
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			s.say("%s\nRetry-After: %s\n%s", resp.Status, resp.Header.Get("Retry-After"), answer)
			return nil
		}
	}
	return errors.New("nothing is refused")
}

// makeMetrics is "make MACHINE system|application SERVICE [JSON]": the agent makes
// metrics on request. It prints what 'ask' would; the name is for 'arrived'.
func makeMetrics(s scene, args []string) error {
	data := ""
	if len(args) > 3 {
		data = `,"custom_data":` + args[3]
	}
	resp, answer, err := s.request(args[0], http.MethodPost, "/metrics/generate", "application/json", []byte(`{"metric_type":"`+args[1]+`"`+data+`}`))
	if err != nil {
		return err
	}
	s.say("%s\n%s", resp.Status, answer)
	var made struct {
		Payload string `json:"payload_id"`
		Items   int    `json:"items"`
	}
	if resp.StatusCode != http.StatusOK {
		return nil
	}
	if err := json.Unmarshal(answer, &made); err != nil {
		return err
	}
	s.services[args[2]] = &service{machine: args[0], signal: block.Metrics, n: made.Items, payload: made.Payload}
	return nil
}

// overflow is "overflow PLACE": requests until one is refused, whose answer it
// prints. They are for logs, without data, over gRPC, or over HTTP where PLACE is
// NODE.otlp; NODE.nonce are requests for nonces of a key that nobody has.
func overflow(s scene, args []string) error {
	name, side, _ := strings.Cut(args[0], ".")
	n, err := s.node(name)
	if err != nil {
		return err
	}
	switch side {
	case "otlp":
		return s.untilRefused(args[0], http.MethodPost, "/v1/logs", `{}`)
	case "nonce":
		return s.untilRefused(name, http.MethodGet, "/nonce?kid=000b"+strings.Repeat("ee", 32), "")
	}
	conn, err := s.dial(n.grpc)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	for range 1000 {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		err = harness.ExportGRPC(ctx, conn, digest.NewBatch(block.Logs))
		cancel()
		if err != nil {
			break
		}
	}
	answer := status.Convert(err)
	s.say("%s", answer.Code())
	for _, d := range answer.Details() {
		switch d := d.(type) {
		case *errdetails.RetryInfo:
			s.say("retry after %s", d.GetRetryDelay().AsDuration())
		case *errdetails.ErrorInfo:
			s.say("reason %s", d.GetMetadata()["reason"])
		}
	}
	return nil
}
