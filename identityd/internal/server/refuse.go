package server

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/refusal"
	"github.com/telemark-otel/telemark/internal/httpd"
	"github.com/telemark-otel/telemark/internal/identity/api"
)

// When to come again where nothing knows better: a second, but for these.
var retryAfter = map[reason.Reason]time.Duration{
	reason.StepInFlight:        2 * time.Second,
	reason.Stopping:            30 * time.Second,
	reason.StateUnwitnessed:    30 * time.Second,
	reason.ImageUnreachable:    30 * time.Second,
	reason.RegistryUnreachable: 30 * time.Second,
}

// refusalOf turns any error into a refusal.
func refusalOf(err error) *reason.Error {
	if f, ok := errors.AsType[*httpd.Fault](err); ok {
		return &reason.Error{Reason: reason.Reason(f.Word), Detail: f.Detail, Err: f.Err}
	}
	return refusal.Of(err)
}

// words are what is sent of a refusal: its detail, or what its reason always
// says.
func words(e *reason.Error) string {
	switch {
	case e.Detail != "":
		return e.Detail
	case e.Reason.Help() != "":
		return e.Reason.Help()
	default:
		return http.StatusText(e.Reason.Status())
	}
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
	body := api.Error{Error: words(e), Reason: string(e.Reason)}
	after := 0
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		after = seconds(err, e.Reason)
		c.Header().Set("Retry-After", strconv.Itoa(after))
	}
	if c.route == nil || c.route.v1() {
		body.Help, body.RetryAfter = e.Reason.Help(), after
	}
	_ = c.JSON(status, body) // strings and a number
}

func seconds(err error, r reason.Reason) int {
	after := retryAfter[r]
	if d, ok := errors.AsType[*delayed](err); ok {
		after = d.after
	}
	return max(1, int(min(math.Ceil(after.Seconds()), 86_400)))
}

// log tells of a refusal once: failures of ours as warnings, what somebody tried
// without being allowed as information, and typing errors for those who debug.
// Nothing of a request stands in it but what the detail quotes.
func (c *call) log(e *reason.Error) {
	level := zap.DebugLevel
	switch status := e.Reason.Status(); {
	case errors.Is(e.Err, context.Canceled): // the client went away, or we do
	case e.Reason == reason.Busy || e.Reason == reason.RateLimited || e.Reason == reason.Stopping || e.Reason == reason.StepInFlight:
		level = zap.InfoLevel
	case status >= http.StatusInternalServerError:
		level = zap.WarnLevel
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusConflict, status == http.StatusUnprocessableEntity:
		level = zap.InfoLevel
	}
	entry := c.server.o.Logger.Check(level, "Refused.")
	if entry == nil {
		return
	}
	fields := []zap.Field{
		zap.String("route", c.pattern), zap.String("reason", string(e.Reason)),
		zap.String("client", c.client.String()), zap.String("detail", e.Detail),
	}
	if e.Err != nil {
		fields = append(fields, zap.Error(e.Err))
	}
	entry.Write(fields...)
}
