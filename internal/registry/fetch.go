package registry

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/api"
)

const (
	mediaAnswer = "application/cose"
	mediaEvents = "text/event-stream"

	maxErrorBody  = 16 << 10
	maxRetryAfter = 30 * time.Second
)

// StatusError is an answer that is no success; it is nobody's word, since it is
// not signed.
type StatusError struct {
	Status     int
	Reason     api.Reason // "" when it does not say
	RetryAfter time.Duration
}

func (e *StatusError) Error() string {
	s := fmt.Sprintf("the registry answers %d", e.Status)
	if e.Reason != "" {
		s += fmt.Sprintf(" (%.64q)", string(e.Reason))
	}
	switch e.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		s += "; look at auth and tls of this verifier, and at the roles of the registry"
	case http.StatusBadRequest:
		if e.Reason == "" {
			s += "; the endpoint is not that of a registry, or wants https"
		}
	case http.StatusNotFound:
		s += "; the endpoint is not that of a registry, or lacks a path"
	}
	return s
}

// connections hands out an HTTP client, and makes a new one when the old one's
// connections turn out dead: a connection that swallows everything would else be
// used again for the next request.
type connections struct {
	dial func(context.Context) (*http.Client, error)

	mu     sync.Mutex
	client *http.Client
}

func (c *connections) get(ctx context.Context) (*http.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client != nil {
		return c.client, nil
	}
	client, err := newHTTP(ctx, c.dial)
	if err != nil {
		return nil, err
	}
	c.client = client
	return client, nil
}

// drop gives up a client, whichever it is when it is nil.
func (c *connections) drop(client *http.Client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client != nil && (client == nil || client == c.client) {
		c.client.CloseIdleConnections()
		c.client = nil
	}
}

// newHTTP returns a client for one use: its time is bounded by contexts alone,
// and it follows nobody elsewhere with our credentials.
func newHTTP(ctx context.Context, dial func(context.Context) (*http.Client, error)) (*http.Client, error) {
	made, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	client := *made
	client.Timeout = 0
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &client, nil
}

// address returns the URL of a path below the endpoint.
func (c *Client) address(query url.Values, path ...string) string {
	u := c.base.JoinPath(path...)
	u.RawQuery = query.Encode()
	return u.String()
}

func (q *question) values() url.Values {
	return url.Values{"nonce": {base64.RawURLEncoding.EncodeToString(q.nonce)}}
}

func send(ctx context.Context, client *http.Client, address, accept string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("make a request to the registry: %w", err)
	}
	req.Header.Set("Accept", accept)
	if accept == mediaEvents {
		req.Header.Set("Cache-Control", "no-store")
	}
	resp, err := client.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // which leaves the nonce out, so that the same error reads the same
		}
		return nil, fmt.Errorf("ask the registry: %w", err)
	}
	return resp, nil
}

// fetch asks, and returns the signed answer unopened.
func (c *Client) fetch(ctx context.Context, address string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.o.Timeout, fmt.Errorf("no answer within %v", c.o.Timeout))
	defer cancel()
	client, err := c.requests.get(ctx)
	if err != nil {
		return nil, fmt.Errorf("set up the connection to the registry: %w", err)
	}
	resp, err := send(ctx, client, address, mediaAnswer)
	if err != nil {
		c.requests.drop(client)
		return nil, because(ctx, err)
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end or given up
	if !hasType(resp, mediaAnswer) || resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNotFound {
		return nil, statusError(resp)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, answer.MaxSize+1))
	if err != nil {
		c.requests.drop(client)
		return nil, because(ctx, fmt.Errorf("read the registry's answer: %w", err))
	}
	if len(body) > answer.MaxSize {
		return nil, refuse(RefusedMalformed, "it has more than %d bytes", answer.MaxSize)
	}
	return body, nil
}

// because prefers the reason for which a context ended.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return fmt.Errorf("ask the registry: %w", cause)
	}
	return err
}

func hasType(resp *http.Response, want string) bool {
	got, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return err == nil && got == want
}

func statusError(resp *http.Response) error {
	e := &StatusError{Status: resp.StatusCode}
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
		e.RetryAfter = min(time.Duration(min(seconds, 3600))*time.Second, maxRetryAfter)
	}
	var body api.ErrorBody
	if content, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody)); err == nil && json.Unmarshal(content, &body) == nil {
		e.Reason = body.Reason
	}
	return e
}

// fetchKey asks for one key and judges the answer.
func (c *Client) fetchKey(ctx context.Context, kid string) (*answer.Key, *question, error) {
	q, err := c.question()
	if err != nil {
		return nil, nil, err
	}
	name := hex.EncodeToString([]byte(kid))
	encoded, err := c.fetch(ctx, c.address(q.values(), "v1", "keys", name))
	if err != nil {
		return nil, nil, err
	}
	var k answer.Key
	if err := c.o.Verifier.Open(answer.KindKey, encoded, &k); err != nil {
		return nil, nil, refusedOpen(err)
	}
	if err := q.check(&k.Head, c.now(), c.o.Skew); err != nil {
		return nil, nil, err
	}
	if k.Record.KID != name {
		return nil, nil, refuse(RefusedKID, "it is about %.80q", k.Record.KID)
	}
	return &k, q, nil
}

// fetchPage asks for one page of a snapshot and judges it.
func (c *Client) fetchPage(ctx context.Context, since uint64) (*answer.Snapshot, *question, []byte, error) {
	q, err := c.question()
	if err != nil {
		return nil, nil, nil, err
	}
	values := q.values()
	values.Set("since", strconv.FormatUint(since, 10))
	values.Set("limit", strconv.Itoa(pageLimit))
	encoded, err := c.fetch(ctx, c.address(values, "v1", "keys"))
	if err != nil {
		return nil, nil, nil, err
	}
	var s answer.Snapshot
	if err := c.o.Verifier.Open(answer.KindSnapshot, encoded, &s); err != nil {
		return nil, nil, nil, refusedOpen(err)
	}
	if err := q.check(&s.Head, c.now(), c.o.Skew); err != nil {
		return nil, nil, nil, err
	}
	return &s, q, encoded, checkSnapshot(&s, since)
}
