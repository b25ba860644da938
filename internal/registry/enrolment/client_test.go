package enrolment_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/registry/enrolment"
	"github.com/telemark-otel/telemark/internal/registry/enrolment/enrolmenttest"
	"github.com/telemark-otel/telemark/internal/tpm"
	"github.com/telemark-otel/telemark/internal/tpm/tpmtest"
)

// machine is a TPM with a signing key.
func machine(t *testing.T) (*tpm.Device, *tpm.Key) {
	t.Helper()
	dev, err := tpm.Open(t.Context(), tpmtest.New(t), tpm.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, dev.Close()) })
	key, err := dev.OpenKey(t.Context(), tpm.KeyOptions{Dir: filepath.Join(t.TempDir(), "key")})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, key.Close()) })
	return dev, key
}

func client(t *testing.T, url string, more ...func(*enrolment.Options)) *enrolment.Client {
	t.Helper()
	dev, key := machine(t)
	o := enrolment.Options{Endpoint: url, HTTP: &http.Client{}, Device: dev, Key: key, Timeout: 10 * time.Second}
	for _, f := range more {
		f(&o)
	}
	c, err := enrolment.New(o)
	require.NoError(t, err)
	return c
}

func failure(t *testing.T, c *enrolment.Client, r enrolment.Request) *enrolment.Error {
	t.Helper()
	result, err := c.Enrol(t.Context(), r)
	require.Nil(t, result)
	e, ok := errors.AsType[*enrolment.Error](err)
	require.True(t, ok, "%v", err)
	return e
}

func TestEveryEndorsementKeyEnrols(t *testing.T) {
	t.Parallel()
	registry := enrolmenttest.Start(t)
	for _, algorithm := range []tpm.EKAlgorithm{0, tpm.EKRSA2048, tpm.EKECCP256, tpm.EKECCP384} {
		c := client(t, registry.URL+"/", func(o *enrolment.Options) { o.EK = algorithm })
		result, err := c.Enrol(t.Context(), enrolment.Request{Name: "edge-a", Token: &registry.Token})
		require.NoError(t, err, "%v", algorithm)
		require.Equal(t, api.StateEnrolled, result.State)
		require.Equal(t, "edge-a", result.Name)
		require.InDelta(t, time.Hour, result.ValidFor, float64(time.Minute))
		require.InDelta(t, 30*time.Minute, result.RenewIn, float64(time.Minute))
		require.Zero(t, result.ClockAhead)
		if algorithm != 0 {
			require.Equal(t, algorithm, result.EK)
		}
		_, err = c.Enrol(t.Context(), enrolment.Request{Name: "edge-a"})
		require.NoError(t, err, "renewal")
	}
}

func TestTokenIsProvenAndNotSent(t *testing.T) {
	t.Parallel()
	registry := enrolmenttest.Start(t)
	c := client(t, registry.URL)
	_, err := c.Enrol(t.Context(), enrolment.Request{Token: &registry.Token})
	require.NoError(t, err)
	sent := registry.Completions()[0]
	require.Equal(t, registry.Token.ID, sent.Token.ID)
	require.NotContains(t, string(sent.Token.Proof), string(registry.Token.Secret))

	other := api.Token{ID: registry.Token.ID, Secret: bytes.Repeat([]byte{1}, 32)}
	e := failure(t, c, enrolment.Request{Token: &other})
	require.Equal(t, string(api.TokenProofInvalid), e.Cause)
	require.False(t, e.Retryable)
}

func TestPendingIsNoFailureAndNoLease(t *testing.T) {
	t.Parallel()
	registry := enrolmenttest.Start(t)
	registry.Set(enrolmenttest.Answer{State: api.StatePending})
	result, err := client(t, registry.URL).Enrol(t.Context(), enrolment.Request{})
	require.NoError(t, err)
	require.Equal(t, api.StatePending, result.State)
	require.Zero(t, result.ValidFor)
}

func TestQuoteAndEventLogAreGivenWhenAskedFor(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "log")
	require.NoError(t, os.WriteFile(log, []byte("events"), 0o600))
	registry := enrolmenttest.Start(t)
	registry.Set(enrolmenttest.Answer{PCRs: []uint{0, 7, 14}, EventLog: true})
	_, err := client(t, registry.URL, func(o *enrolment.Options) { o.EventLog = log }).Enrol(t.Context(), enrolment.Request{})
	require.NoError(t, err)
	quote := registry.Completions()[0].Quote
	require.Len(t, quote.PCRs, 3)
	require.Equal(t, []byte("events"), quote.EventLog)

	for name, content := range map[string]func(string) error{
		"missing":   func(string) error { return nil },
		"too large": func(p string) error { return os.WriteFile(p, make([]byte, api.MaxEventLog+1), 0o600) },
	} {
		path := filepath.Join(t.TempDir(), "log")
		require.NoError(t, content(path))
		e := failure(t, client(t, registry.URL, func(o *enrolment.Options) { o.EventLog = path }), enrolment.Request{})
		require.Equal(t, string(api.EventLogMissing), e.Cause, name)
		require.ErrorContains(t, e, path, name)
		require.False(t, e.Retryable)
	}
}

func TestRefusalsKeepTheirReason(t *testing.T) {
	t.Parallel()
	registry := enrolmenttest.Start(t)
	c := client(t, registry.URL)
	for reason, retryable := range map[api.Reason]bool{
		api.TokenUsedUp: false, api.NameTaken: false, api.MachineRevoked: false, api.KeyRevoked: false, api.NotGenuine: false,
		api.PCRMismatch: false, api.SessionExpired: true, api.SessionUsed: true, api.SessionMalformed: true,
		api.RateLimited: true, api.Busy: true, api.QueueFull: true, api.StoreUnavailable: true, api.Internal: true,
	} {
		registry.Set(enrolmenttest.Answer{Refuse: api.Refuse(reason, "because"), After: 7})
		e := failure(t, c, enrolment.Request{})
		require.Equal(t, string(reason), e.Cause)
		require.Equal(t, retryable, e.Retryable, reason)
		require.Equal(t, 7*time.Second, e.RetryAfter)
		require.ErrorIs(t, e, &api.Error{Reason: reason})
		require.Equal(t, reason == api.MachineRevoked || reason == api.KeyRevoked, e.Revoked(), reason)
	}
}

// answering is a client of a server that answers a start with this.
func answering(t *testing.T, h http.HandlerFunc, more ...func(*enrolment.Options)) *enrolment.Client {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return client(t, server.URL, more...)
}

func text(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

func TestGarbageInsteadOfAChallengeIsRefused(t *testing.T) {
	t.Parallel()
	challenge := func(session, nonce, blob, secret int, pcrs string) string {
		b64 := func(n int) string { return strings.Repeat("AAAA", n/3) }
		return fmt.Sprintf(`{"session":%q,"nonce":%q,"credential":{"blob":%q,"secret":%q},"pcrs":%s,"expires_at":"2030-01-01T00:00:00Z"}`,
			b64(session), b64(nonce), b64(blob), b64(secret), pcrs)
	}
	for name, h := range map[string]http.HandlerFunc{
		"empty":               text(200, ""),
		"HTML":                text(200, "<html>"),
		"two members":         text(200, `{"session":"AAAA","session":"AAAA"}`),
		"unknown member":      text(200, `{"surprise":1}`),
		"no session":          text(200, challenge(0, 33, 99, 99, "[]")),
		"long session":        text(200, challenge(600, 33, 99, 99, "[]")),
		"short nonce":         text(200, challenge(30, 3, 99, 99, "[]")),
		"no credential":       text(200, challenge(30, 33, 0, 0, "[]")),
		"PCR 24":              text(200, challenge(30, 33, 99, 99, "[24]")),
		"PCR -1":              text(200, challenge(30, 33, 99, 99, "[-1]")),
		"many PCRs":           text(200, challenge(30, 33, 99, 99, "["+strings.Repeat("0,", 99)+"0]")),
		"oversized":           text(200, strings.Repeat("x", 1<<20)),
		"oversized refusal":   text(503, strings.Repeat("x", 1<<20)),
		"proxy":               text(502, "<html>bad gateway"),
		"created":             text(201, "{}"),
		"redirect":            func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) },
		"refusal, no reason":  text(403, `{"error":"no"}`),
		"refusal, not strict": text(403, `{"Reason":"machine_revoked"}`),
		"trailing":            text(200, challenge(30, 33, 99, 99, "[]")+"{}"),
	} {
		e := failure(t, answering(t, h), enrolment.Request{})
		require.Equal(t, enrolment.CauseBadAnswer, e.Cause, name)
		require.True(t, e.Retryable, name)
		require.Less(t, len(e.Error()), 1000, name)
	}
}

func TestUnknownReasonsAreJudgedByTheirStatusAndBounded(t *testing.T) {
	t.Parallel()
	for status, retryable := range map[int]bool{403: false, 409: false, 429: true, 503: true, 500: true} {
		reason := "new_" + strings.Repeat("x", 5000) + "\x1b"
		h := text(status, fmt.Sprintf(`{"error":"\u001b[2J%s","reason":%q,"retry_after":-5}`, strings.Repeat("y", 5000), "new_"+strings.Repeat("x", 5000)))
		e := failure(t, answering(t, h), enrolment.Request{})
		require.Equal(t, enrolment.CauseUnknown, e.Cause, reason)
		require.Equal(t, retryable, e.Retryable, status)
		require.Zero(t, e.RetryAfter)
		require.Less(t, len(e.Error()), 1000)
		require.NotContains(t, e.Error(), "\x1b", "what a registry says ends up in terminals")
	}
}

func TestRetryAfterIsBoundedAndMayBeADate(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]time.Duration{
		"3": 3 * time.Second, "999999999": enrolment.MaxRetryAfter, "-1": 0, "soon": 0,
		time.Now().Add(100 * time.Hour).UTC().Format(http.TimeFormat): enrolment.MaxRetryAfter,
		time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat):      0,
	} {
		e := failure(t, answering(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", value)
			w.WriteHeader(http.StatusServiceUnavailable)
		}), enrolment.Request{})
		require.Equal(t, want, e.RetryAfter, value)
	}
}

func TestRegistryThatHangsOrDripsIsGivenUp(t *testing.T) {
	t.Parallel()
	impatient := func(o *enrolment.Options) { o.Timeout = 300 * time.Millisecond }
	for name, h := range map[string]http.HandlerFunc{
		"black hole": func(_ http.ResponseWriter, r *http.Request) { enrolmenttest.Hang(r) },
		"drip": func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // else nobody notices that the client is gone
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte(" "))
				_ = http.NewResponseController(w).Flush()
				time.Sleep(10 * time.Millisecond)
			}
		},
		"cut off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte("{"))
		},
	} {
		c := answering(t, h, impatient)
		begun := time.Now()
		e := failure(t, c, enrolment.Request{})
		require.Equal(t, enrolment.CauseUnreachable, e.Cause, name)
		require.True(t, e.Retryable, name)
		require.Less(t, time.Since(begun), 8*time.Second, name)
	}
	e := failure(t, client(t, "http://127.0.0.1:1"), enrolment.Request{})
	require.Equal(t, enrolment.CauseUnreachable, e.Cause)
}

func TestEndedContextIsReportedAsSuch(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	c := answering(t, func(_ http.ResponseWriter, r *http.Request) { cancel(); enrolmenttest.Hang(r) })
	_, err := c.Enrol(ctx, enrolment.Request{})
	require.ErrorIs(t, err, context.Canceled)
}

func TestCredentialOfAnotherMachineIsNotOpened(t *testing.T) {
	t.Parallel()
	registry, other := enrolmenttest.Start(t), enrolmenttest.Start(t)
	stranger := client(t, other.URL)
	var challenge []byte
	other.Set(enrolmenttest.Answer{Start: func(w http.ResponseWriter, r *http.Request) {
		recorder := httptest.NewRecorder()
		registry.ServeHTTP(recorder, r)
		challenge = recorder.Body.Bytes()
		w.WriteHeader(http.StatusTeapot)
	}})
	require.Error(t, failure(t, stranger, enrolment.Request{}))
	require.NotEmpty(t, challenge)

	registry.Set(enrolmenttest.Answer{Start: text(http.StatusOK, string(challenge))})
	e := failure(t, client(t, registry.URL), enrolment.Request{})
	require.Equal(t, enrolment.CauseTPM, e.Cause)
	require.ErrorIs(t, e, tpm.ErrNotForUs)
	require.False(t, e.Retryable)
	require.Empty(t, registry.Completions())
}

func TestAnswerForAnotherKeyOrOfTwoMindsIsRefused(t *testing.T) {
	t.Parallel()
	registry := enrolmenttest.Start(t)
	c := client(t, registry.URL)
	good, err := c.Enrol(t.Context(), enrolment.Request{Name: "edge-a"})
	require.NoError(t, err)
	for name, change := range map[string]func(*api.Enrolment) int{
		"another kid":      func(e *api.Enrolment) int { e.KID = strings.Repeat("00", 34); return 200 },
		"another machine":  func(e *api.Enrolment) int { e.Machine = strings.Repeat("00", 32); return 200 },
		"terminal escape":  func(e *api.Enrolment) int { e.Name = "a\x1b[2J"; return 200 },
		"long name":        func(e *api.Enrolment) int { e.Name = strings.Repeat("a", 129); return 200 },
		"evidence":         func(e *api.Enrolment) int { e.Evidence = "trust me"; return 200 },
		"pending, 200":     func(e *api.Enrolment) int { e.State = api.StatePending; return 200 },
		"enrolled, 202":    func(*api.Enrolment) int { return 202 },
		"revoked, 200":     func(e *api.Enrolment) int { e.State = api.StateRevoked; return 200 },
		"lease is over":    func(e *api.Enrolment) int { e.Expires = time.Now().Add(-time.Minute); return 200 },
		"lease of no time": func(e *api.Enrolment) int { e.Expires = time.Time{}; return 200 },
	} {
		answer := good.Enrolment
		status := change(&answer)
		registry.Set(enrolmenttest.Answer{Complete: func(w http.ResponseWriter, _ *http.Request) { enrolmenttest.Reply(w, status, answer) }})
		e := failure(t, c, enrolment.Request{Name: "edge-a"})
		require.Equal(t, enrolment.CauseBadAnswer, e.Cause, name)
	}
}

func TestLeaseIsCountedByTheRegistrysClock(t *testing.T) {
	t.Parallel()
	registry := enrolmenttest.Start(t)
	c := client(t, registry.URL)
	good, err := c.Enrol(t.Context(), enrolment.Request{})
	require.NoError(t, err)
	for _, ahead := range []time.Duration{48 * time.Hour, -48 * time.Hour} {
		answer := good.Enrolment
		answer.Expires, answer.RenewAt = time.Now().Add(ahead+time.Hour), time.Time{}
		registry.Set(enrolmenttest.Answer{Complete: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
			enrolmenttest.Reply(w, http.StatusOK, answer)
		}})
		result, err := c.Enrol(t.Context(), enrolment.Request{})
		require.NoError(t, err)
		require.InDelta(t, time.Hour, result.ValidFor, float64(time.Minute))
		require.Equal(t, result.ValidFor/2, result.RenewIn, "a time to renew that makes no sense is not obeyed")
		require.InDelta(t, ahead, result.ClockAhead, float64(time.Minute))
	}
}

func TestEndpointIsAURL(t *testing.T) {
	t.Parallel()
	dev, key := machine(t)
	for _, bad := range []string{"", "registry:3000", "ftp://registry", "https://", "https://r/?a=b", "https://r/#f", "https://user:secret@\x7f/"} {
		_, err := enrolment.New(enrolment.Options{Endpoint: bad, HTTP: &http.Client{}, Device: dev, Key: key})
		require.ErrorContains(t, err, "endpoint", bad)
		require.NotContains(t, err.Error(), "secret")
	}
	_, err := enrolment.New(enrolment.Options{Endpoint: "https://registry:3000"})
	require.Error(t, err)
}

// counting counts what a TPM is asked for that takes it long.
type counting struct {
	enrolment.Device
	keys int
}

func (c *counting) EK(ctx context.Context, algorithm tpm.EKAlgorithm) (*tpm.EK, error) {
	c.keys++
	return c.Device.EK(ctx, algorithm)
}

// TestRegistryThatIsAwayDoesNotKeepTheTPMBusy: an endorsement key takes some TPMs
// seconds to make, and nothing is signed meanwhile.
func TestRegistryThatIsAwayDoesNotKeepTheTPMBusy(t *testing.T) {
	t.Parallel()
	registry := enrolmenttest.Start(t)
	var seen *counting
	c := client(t, registry.URL, func(o *enrolment.Options) { seen = &counting{Device: o.Device}; o.Device = seen })
	_, err := c.Enrol(t.Context(), enrolment.Request{})
	require.NoError(t, err)
	registry.Set(enrolmenttest.Answer{Start: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }})
	for range 3 {
		require.Equal(t, enrolment.CauseUnreachable, failure(t, c, enrolment.Request{}).Cause)
	}
	require.Equal(t, 1, seen.keys)
	registry.Set(enrolmenttest.Answer{Refuse: api.Refuse(api.NotGenuine, "no")})
	require.Equal(t, string(api.NotGenuine), failure(t, c, enrolment.Request{}).Cause)
	registry.Set(enrolmenttest.Answer{})
	_, err = c.Enrol(t.Context(), enrolment.Request{})
	require.NoError(t, err)
	require.Equal(t, 2, seen.keys, "a refusal may be for what was read")
}
