// Package smoke tries a running deployment from outside, as its users do: an
// agent, its gateway and the receiving collector, over their HTTP sides.
package smoke

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/telemark-otel/telemark/internal/signing"
)

// Options say where the three are. What is empty is not tried.
type Options struct {
	Agent, Gateway, Collector string // base URLs
	Admin                     string // base URL of the collector's admin listener
	AdminToken                string
	// RateLimit has the gateway's limit on nonces tried, with a key of nobody.
	RateLimit bool
	Client    *http.Client
	// Patience is how long what was sent may take to be verified.
	Patience time.Duration
}

// Outcome of one check.
type Outcome string

// The outcomes.
const (
	OK      Outcome = "ok"
	Failed  Outcome = "failed"
	Skipped Outcome = "skipped"
)

// Check is one line of the report.
type Check struct {
	Name    string        `json:"check"`
	Outcome Outcome       `json:"outcome"`
	Took    time.Duration `json:"took_ns"`
	Detail  string        `json:"detail,omitempty"`
}

type smoke struct {
	o    Options
	kid  string // of the agent's key, once its status was read
	seen progress
}

// progress is what the collector's status says of the agent's key.
type progress struct {
	verified, refused uint64
	reasons           map[string]uint64
}

// skipped says why a check could not be made.
type skipped string

func (s skipped) Error() string { return string(s) }

// Run makes every check, whatever becomes of the others, and tells each as it
// ends.
func Run(ctx context.Context, o Options, tell func(Check)) (passed bool) {
	s := &smoke{o: o}
	passed = true
	for _, c := range []struct {
		name string
		do   func(context.Context) (string, error)
	}{
		{"agent health", s.health(o.Agent)},
		{"gateway health", s.health(o.Gateway)},
		{"collector health", s.health(o.Collector)},
		{"agent status", s.agentStatus},
		{"nonce from the collector", s.nonce(o.Collector)},
		{"nonce through the gateway", s.nonce(o.Gateway)},
		{"verified so far", s.before},
		{"system metrics", s.generate(`{"metric_type":"system"}`)},
		{"application metrics", s.generate(`{"metric_type":"application","custom_data":{"smoke":{"test":1},"source":"telemark smoke"}}`)},
		{"bad request refused", s.badRequest},
		{"verified at the collector", s.verified},
		{"gateway status", s.gatewayStatus},
		{"gateway rate limit", s.rateLimit},
	} {
		begun := time.Now()
		detail, err := c.do(ctx)
		check := Check{Name: c.name, Outcome: OK, Took: time.Since(begun), Detail: detail}
		var skip skipped
		switch {
		case errors.As(err, &skip):
			check.Outcome, check.Detail = Skipped, string(skip)
		case err != nil:
			check.Outcome, check.Detail, passed = Failed, err.Error(), false
		}
		tell(check)
	}
	return passed
}

const maxAnswer = 4 << 20

// call sends a request and reads a JSON answer into v, which may be nil.
func (s *smoke) call(ctx context.Context, method, address, body, token string, v any) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := s.o.Client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	content, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return resp, fmt.Errorf("%s %s: %w", method, address, err)
	}
	if resp.StatusCode != http.StatusOK {
		return resp, fmt.Errorf("%s %s: %s: %.300s", method, address, resp.Status, bytes.TrimSpace(content))
	}
	if v == nil {
		return resp, nil
	}
	if err := json.Unmarshal(content, v); err != nil {
		return resp, fmt.Errorf("%s %s: the answer is not the JSON that is expected: %w", method, address, err)
	}
	return resp, nil
}

func (s *smoke) health(base string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		if base == "" {
			return "", skipped("no address given")
		}
		var h struct {
			Status string `json:"status"`
		}
		if _, err := s.call(ctx, http.MethodGet, base+"/health", "", "", &h); err != nil {
			return "", err
		}
		return h.Status, nil
	}
}

func (s *smoke) agentStatus(ctx context.Context) (string, error) {
	if s.o.Agent == "" {
		return "", skipped("no address of the agent given")
	}
	var a struct {
		Signer *signing.Status `json:"signer"`
	}
	if _, err := s.call(ctx, http.MethodGet, s.o.Agent+"/metrics/status", "", "", &a); err != nil {
		return "", err
	}
	if a.Signer == nil {
		return "", errors.New("the agent shows no signing extension: nothing is signed, or several extensions sign and `ondemand::signer` names none")
	}
	s.kid = a.Signer.KID
	if a.Signer.State != "ready" {
		return "", fmt.Errorf("the signer is %s: %s", a.Signer.State, a.Signer.Error)
	}
	detail := fmt.Sprintf("key %.16s…, epoch %d, group %d", a.Signer.KID, a.Signer.Epoch, a.Signer.Seq)
	if e := a.Signer.Enrolment; e != nil {
		if e.State != "enrolled" {
			return "", fmt.Errorf("the key is %s at the registry: %s", e.State, e.Error)
		}
		detail += ", enrolled as " + e.Name
	}
	return detail, nil
}

// key is the agent's, or one of nobody.
func (s *smoke) key() string {
	if s.kid != "" {
		return s.kid
	}
	return stranger()
}

// stranger is the TPM Name of a key that nobody has.
func stranger() string {
	b := make([]byte, 34)
	_, _ = rand.Read(b) // never fails
	b[0], b[1] = 0x00, 0x0b
	return hex.EncodeToString(b)
}

func (s *smoke) nonce(base string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		if base == "" {
			return "", skipped("no address given")
		}
		var n struct {
			Nonce     string    `json:"nonce"`
			KID       string    `json:"kid"`
			ExpiresAt time.Time `json:"expires_at"`
		}
		kid := s.key()
		if _, err := s.call(ctx, http.MethodGet, base+"/nonce?kid="+url.QueryEscape(kid), "", "", &n); err != nil {
			return "", err
		}
		if b, err := hex.DecodeString(n.Nonce); err != nil || len(b) < 32 || n.KID != kid {
			return "", fmt.Errorf("a nonce of %d hexadecimal digits for the key %.16q, asked was for %.16q", len(n.Nonce), n.KID, kid)
		}
		return fmt.Sprintf("%d bytes, good until %s", len(n.Nonce)/2, n.ExpiresAt.Format(time.RFC3339)), nil
	}
}

func (s *smoke) generate(body string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		if s.o.Agent == "" {
			return "", skipped("no address of the agent given")
		}
		var g struct {
			PayloadID string `json:"payload_id"`
			Items     int    `json:"items"`
		}
		if _, err := s.call(ctx, http.MethodPost, s.o.Agent+"/metrics/generate", body, "", &g); err != nil {
			return "", err
		}
		if g.Items < 1 || g.PayloadID == "" {
			return "", fmt.Errorf("%d items and the payload id %q", g.Items, g.PayloadID)
		}
		return fmt.Sprintf("data points: %d, payload %s", g.Items, g.PayloadID), nil
	}
}

func (s *smoke) badRequest(ctx context.Context) (string, error) {
	if s.o.Agent == "" {
		return "", skipped("no address of the agent given")
	}
	resp, err := s.call(ctx, http.MethodPost, s.o.Agent+"/metrics/generate", `{"metric_type":"nothing"}`, "", nil)
	if resp == nil {
		return "", err
	}
	if resp.StatusCode != http.StatusBadRequest {
		return "", fmt.Errorf("answered %s, want 400", resp.Status)
	}
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
		return "", err // by something that is no agent
	}
	return "400", nil
}

// read asks the collector what it has of the agent's key.
func (s *smoke) read(ctx context.Context) (p progress, err error) {
	switch {
	case s.o.Admin == "":
		return p, skipped("no address of the collector's admin listener given (--admin, --admin-token-file)")
	case s.kid == "":
		return p, skipped("the agent's key is not known")
	}
	var a struct {
		Streams []struct {
			Verified uint64            `json:"verified"`
			Refused  map[string]uint64 `json:"refused"`
		} `json:"streams"`
	}
	if _, err := s.call(ctx, http.MethodGet, s.o.Admin+"/metrics/status?limit=1000&kid="+s.kid, "", s.o.AdminToken, &a); err != nil {
		return p, err
	}
	p.reasons = map[string]uint64{}
	for _, stream := range a.Streams {
		p.verified += stream.Verified
		for reason, n := range stream.Refused {
			p.refused += n
			p.reasons[reason] += n
		}
	}
	return p, nil
}

// since names the reasons of what was refused after before.
func (p progress) since(before progress) string {
	var reasons []string
	for reason, n := range p.reasons {
		if n > before.reasons[reason] {
			reasons = append(reasons, fmt.Sprintf("%.64s", reason))
		}
	}
	slices.Sort(reasons)
	return strings.Join(reasons, ", ")
}

func (s *smoke) before(ctx context.Context) (string, error) {
	var err error
	if s.seen, err = s.read(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d blocks, %d refused", s.seen.verified, s.seen.refused), nil
}

// verified waits until what was generated has arrived and was verified.
func (s *smoke) verified(ctx context.Context) (string, error) {
	const blocks = 2 // one request each of system and application metrics
	ctx, cancel := context.WithTimeout(ctx, s.o.Patience)
	defer cancel()
	for {
		now, err := s.read(ctx)
		if err != nil && ctx.Err() == nil {
			return "", err
		}
		switch {
		case err == nil && now.refused > s.seen.refused:
			return "", fmt.Errorf("%d blocks of this agent were refused meanwhile (%s); see 'telemark explain REASON' and the collector's log",
				now.refused-s.seen.refused, now.since(s.seen))
		case err == nil && now.verified >= s.seen.verified+blocks:
			return fmt.Sprintf("%d more blocks", now.verified-s.seen.verified), nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("%d more blocks after %s, want at least %d", now.verified-min(now.verified, s.seen.verified), s.o.Patience, blocks)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (s *smoke) gatewayStatus(ctx context.Context) (string, error) {
	if s.o.Gateway == "" {
		return "", skipped("no address of the gateway given")
	}
	var g struct {
		Upstream struct {
			State string `json:"state"`
		} `json:"upstream"`
	}
	if _, err := s.call(ctx, http.MethodGet, s.o.Gateway+"/gateway/status", "", "", &g); err != nil {
		return "", err
	}
	return "upstream " + g.Upstream.State, nil
}

// rateLimit asks for nonces of a key of nobody until the gateway has enough.
func (s *smoke) rateLimit(ctx context.Context) (string, error) {
	const most = 2000
	switch {
	case s.o.Gateway == "":
		return "", skipped("no address of the gateway given")
	case !s.o.RateLimit:
		return "", skipped("not asked for (--rate-limit)")
	}
	kid := stranger()
	for n := 1; n <= most; n++ {
		resp, err := s.call(ctx, http.MethodGet, s.o.Gateway+"/nonce?kid="+kid, "", "", nil)
		if resp == nil {
			return "", err
		}
		if resp.StatusCode == http.StatusTooManyRequests {
			if resp.Header.Get("Retry-After") == "" {
				return "", errors.New("429 without Retry-After")
			}
			return fmt.Sprintf("request %d was answered 429, Retry-After %s s", n, resp.Header.Get("Retry-After")), nil
		}
		if err != nil {
			return "", err
		}
	}
	return "", fmt.Errorf("%d requests for one key, and none was too many", most)
}
