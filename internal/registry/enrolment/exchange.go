package enrolment

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/strictjson"
)

// maxAnswer bounds the body of an answer, many times what any has.
const maxAnswer = 64 << 10

// maxDetail bounds what of a refusal's words is shown.
const maxDetail = 300

// answer is what came for a request.
type answer struct {
	status int
	header http.Header
	body   []byte
	asked  time.Time // before the request left
}

// post sends in and returns the answer when its status is one of these; every
// other is an error.
func (c *Client) post(ctx context.Context, path string, in any, statuses ...int) (*answer, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.endpoint+path, bytes.NewReader(body))
	if err != nil {
		return nil, errEndpoint // err quotes the URL, which may hold a password
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	a := &answer{asked: time.Now()}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, unreachable(fmt.Errorf("ask the registry: %w", err))
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end or given up
	a.status, a.header = resp.StatusCode, resp.Header
	if a.body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1)); err != nil {
		return nil, unreachable(fmt.Errorf("read the registry's answer: %w", err))
	}
	if len(a.body) > maxAnswer {
		return nil, badAnswer(fmt.Errorf("the registry's answer has more than %d bytes", maxAnswer))
	}
	if !slices.Contains(statuses, a.status) {
		return nil, a.refusal()
	}
	return a, nil
}

// read reads a success strictly.
func (a *answer) read(into any) error {
	if err := strictjson.Unmarshal(a.body, into); err != nil {
		return badAnswer(fmt.Errorf("the registry's answer cannot be read: %w", err))
	}
	return nil
}

// refusal reads what is no success. A body that is not the registry's is
// quoted: it may come from a proxy, and say what is wrong.
func (a *answer) refusal() error {
	after := a.retryAfter()
	var body api.ErrorBody
	if err := strictjson.Unmarshal(a.body, &body); err != nil || body.Reason == "" {
		e := badAnswer(fmt.Errorf("the answer is %d %s, and not a registry's: %.200q", a.status, http.StatusText(a.status), a.body))
		e.RetryAfter = after
		return e
	}
	if after == 0 {
		after = seconds(body.RetryAfter)
	}
	detail := strings.TrimPrefix(printable(body.Error), string(body.Reason)+": ")
	if detail == string(body.Reason) || detail == body.Reason.Help() { // who shows it adds the help
		detail = ""
	}
	return refused(&api.Error{Reason: api.Reason(printable(string(body.Reason))), Detail: detail}, a.status, after)
}

// printable bounds words of the registry, which end up in logs and terminals.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	if len(s) > maxDetail {
		return strings.ToValidUTF8(s[:maxDetail], "") + "…"
	}
	return s
}

// retryAfter reads the header of that name (RFC 9110, section 10.2.3).
func (a *answer) retryAfter() time.Duration {
	value := a.header.Get("Retry-After")
	if n, err := strconv.Atoi(value); err == nil {
		return seconds(n)
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(at.Sub(a.now()), 0), MaxRetryAfter)
	}
	return 0
}

func seconds(n int) time.Duration {
	return time.Duration(min(max(n, 0), int(MaxRetryAfter/time.Second))) * time.Second
}

// clockTolerance is by how much two clocks may differ that agree: the header
// Date is whole seconds, and an answer is on its way for a while.
const clockTolerance = 5 * time.Second

// now is the time that the registry had when it answered. A lease is counted
// from it, since a machine's clock may be wrong.
func (a *answer) now() time.Time {
	date, err := http.ParseTime(a.header.Get("Date"))
	if err != nil || date.Sub(a.asked).Abs() < clockTolerance {
		return a.asked
	}
	return date
}

var errEndpoint = errors.New("the registry's endpoint is no http or https URL without query")
