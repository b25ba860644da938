package registrar

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/internal/registry/api"
)

// maxAnswer bounds what is read of an answer in bytes.
const maxAnswer = 1 << 20

// NewClient returns a client for Options.Client: bounded in time, with the
// system's roots of trust or, when there are some, those in PEM instead.
func NewClient(ca []byte) (*http.Client, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(ca) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(ca) {
			return nil, errors.New("the registry's CA file holds no certificate in PEM")
		}
	}
	return &http.Client{Timeout: callTime, Transport: &http.Transport{
		Proxy:           http.ProxyFromEnvironment,
		DialContext:     (&net.Dialer{Timeout: callTime / 2}).DialContext,
		TLSClientConfig: config, TLSHandshakeTimeout: callTime / 2, ResponseHeaderTimeout: callTime,
		MaxIdleConns: 2, MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute,
		MaxResponseHeaderBytes: 64 << 10, ForceAttemptHTTP2: true,
	}}, nil
}

// said is what the registry refused with.
type said struct {
	status int
	reason api.Reason // "" where what answered is no registry
	after  time.Duration
}

func (s *said) Error() string {
	return fmt.Sprintf("the registry answered %d %s", s.status, http.StatusText(s.status))
}

// errNoV1 marks the refusal of a registry of the first generation.
var errNoV1 = errors.New("the registry has no /v1/")

// later returns how long the registry wants to be left alone.
func later(err error) (time.Duration, bool) {
	s, ok := errors.AsType[*said](err)
	if !ok {
		return 0, false
	}
	return s.after, s.after > 0
}

func (r *Registrar) nonce(ctx context.Context) ([]byte, error) {
	var n api.InstanceNonce
	if err := r.json(ctx, "/v1/nonces", nil, &n); err != nil {
		return nil, err
	}
	if len(n.Nonce) == 0 || len(n.Nonce) > api.MaxSession {
		return nil, reason.Refuse(reason.RegistryAnswerInvalid, "its nonce has %d bytes", len(n.Nonce))
	}
	return n.Nonce, nil
}

func (r *Registrar) post(ctx context.Context, reg *api.Registration) (*api.Instance, error) {
	var i api.Instance
	return &i, r.json(ctx, "/v1/instances", reg, &i)
}

// postFirst sends what the first generation knows, and no other member.
func (r *Registrar) postFirst(ctx context.Context, reg *api.Registration) error {
	_, err := r.call(ctx, http.MethodPost, "/register", reg, "application/json")
	return err
}

// identity returns an answer under the registry's signature.
func (r *Registrar) identity(ctx context.Context, origin, nonce []byte) ([]byte, error) {
	path := "/v1/identities/" + hex.EncodeToString(origin) + "?nonce=" + base64.RawURLEncoding.EncodeToString(nonce)
	return r.call(ctx, http.MethodGet, path, nil, "application/cose")
}

func (r *Registrar) json(ctx context.Context, path string, body, into any) error {
	content, err := r.call(ctx, http.MethodPost, path, body, "application/json")
	if err != nil {
		return err
	}
	if err := json.Unmarshal(content, into); err != nil {
		return &reason.Error{Reason: reason.RegistryAnswerInvalid, Detail: "it is not the JSON that was asked for", Err: err}
	}
	return nil
}

// call sends one request and reads its answer. Its errors are *reason.Error.
func (r *Registrar) call(ctx context.Context, method, path string, body any, accept string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	var content io.Reader = http.NoBody
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return nil, reason.Because(reason.Internal, fmt.Errorf("encode a request: %w", err))
		}
		content = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(ctx, method, r.base+path, content)
	if err != nil {
		return nil, reason.Because(reason.Internal, fmt.Errorf("make a request: %w", err))
	}
	req.Header.Set("Accept", accept)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, &reason.Error{Reason: reason.RegistryUnreachable, Detail: "no answer from " + r.base, Err: err}
	}
	defer func() { _ = resp.Body.Close() }()
	answered, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, &reason.Error{Reason: reason.RegistryUnreachable, Detail: "its answer ended early", Err: err}
	case len(answered) > maxAnswer:
		return nil, reason.Refuse(reason.RegistryAnswerInvalid, "it has more than %d bytes", maxAnswer)
	case resp.StatusCode >= http.StatusMultipleChoices:
		return nil, refused(resp.StatusCode, answered)
	}
	return answered, nil
}

// refused decides, once, whether a refusal may end by itself.
func refused(status int, answered []byte) error {
	var body api.ErrorBody
	if json.Unmarshal(answered, &body) != nil || !body.Reason.Known() {
		body = api.ErrorBody{}
	}
	s := &said{status: status, reason: body.Reason, after: time.Duration(min(max(body.RetryAfter, 0), 86_400)) * time.Second}
	out := &reason.Error{Reason: reason.RegistryRefused, Detail: fmt.Sprintf("%s: %.256q", s.reason, body.Error), Err: s}
	switch s.reason {
	case "": // no registry, or one of the first generation, or something in front of it
		out.Detail = fmt.Sprintf("HTTP %d without a reason; is this the registry's address?", status)
		if status >= http.StatusInternalServerError || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout {
			out.Reason = reason.RegistryUnreachable
		}
	case api.SessionExpired, api.SessionUsed, api.SessionMalformed: // the next attempt has another nonce
		out.Reason = reason.RegistryUnreachable
	default:
		if s.reason.Retryable() {
			out.Reason = reason.RegistryUnreachable
		}
	}
	if status == http.StatusNotFound {
		out.Err = errors.Join(s, errNoV1)
	}
	return out
}
