package server

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/httpd"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

// delayed is a refusal that knows when to come again.
type delayed struct {
	error
	after time.Duration
}

func (d *delayed) Unwrap() error { return d.error }

// When to come again where nothing knows better.
var retryAfter = map[api.Reason]time.Duration{
	api.RateLimited:           time.Second,
	api.Busy:                  time.Second,
	api.StoreUnavailable:      2 * time.Second,
	api.CollateralUnavailable: 30 * time.Second,
	api.CollateralExpired:     30 * time.Second,
	api.QueueFull:             5 * time.Minute,
}

func refusePath(path string) error { return api.Refuse(api.NotFound, "there is no path %.128q", path) }

func refuseMethod(method string) error {
	return api.Refuse(api.MethodNotAllowed, "method %.32q", method)
}

func refuseBody() error { return api.Refuse(api.BadRequest, "this call takes no body") }

// refusalOf turns any error into a refusal.
func refusalOf(err error) *api.Error {
	if f, ok := errors.AsType[*httpd.Fault](err); ok {
		return &api.Error{Reason: api.Reason(f.Word), Detail: f.Detail, Err: f.Err}
	}
	e, _ := errors.AsType[*api.Error](store.Refusal(err)) // always one
	return e
}

// fail answers with a refusal. What was begun as a success can only be cut off.
func (c *call) fail(err error) {
	e := refusalOf(err)
	c.reason = e.Reason
	c.log(e)
	if c.Status() != 0 {
		panic(http.ErrAbortHandler)
	}
	// A body that nobody reads has to end some time; see Deadlines.
	status := e.Reason.Status()
	body := api.ErrorBody{Error: e.Detail, Reason: e.Reason, Help: e.Reason.Help()}
	if body.Error == "" {
		body.Error = body.Help
	}
	if body.Error == "" {
		body.Error = http.StatusText(status)
	}
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		body.RetryAfter = seconds(err, e.Reason)
		c.Header().Set("Retry-After", strconv.Itoa(body.RetryAfter))
	}
	if status == http.StatusUnauthorized {
		c.Header().Set("WWW-Authenticate", `Bearer realm="registryd"`)
	}
	if c.pattern == "/register" {
		// The first generation knows these two members.
		body.Help, body.RetryAfter = "", 0
	}
	encoded, _ := json.Marshal(body) // strings and a number
	_ = c.Bytes(status, "application/json", encoded)
}

func seconds(err error, r api.Reason) int {
	after := retryAfter[r]
	if d, ok := errors.AsType[*delayed](err); ok {
		after = d.after
	}
	return max(1, int(min(math.Ceil(after.Seconds()), 86_400)))
}

// log tells of a refusal: failures of ours as warnings, what somebody tried
// without being allowed as information, and typing errors for those who debug.
func (c *call) log(e *api.Error) {
	level := zap.DebugLevel
	switch status := e.Reason.Status(); {
	case errors.Is(e.Err, context.Canceled): // the client went away
	case e.Reason == api.Busy || e.Reason == api.RateLimited:
		level = zap.InfoLevel
	case status >= http.StatusInternalServerError:
		level = zap.WarnLevel
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusConflict:
		level = zap.InfoLevel
	}
	if entry := c.server.o.Logger.Check(level, "Refused."); entry != nil {
		fields := []zap.Field{
			zap.String("route", c.pattern), zap.String("reason", string(e.Reason)),
			zap.String("client", c.peer()), zap.String("detail", e.Detail),
		}
		if c.identity.Name != "" {
			fields = append(fields, zap.String("identity", c.identity.Name))
		}
		if e.Err != nil {
			fields = append(fields, zap.Error(e.Err))
		}
		entry.Write(fields...)
	}
}
