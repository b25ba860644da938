package nonceextension

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
)

// issuing is an issuing server in memory, as a RoundTripper.
type issuing struct {
	mu       sync.Mutex
	err      error
	status   int
	lifetime time.Duration
	asked    []time.Time
	held     chan struct{} // answers wait for it
}

func (s *issuing) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	s.asked = append(s.asked, time.Now())
	err, status, held, number := s.err, s.status, s.held, len(s.asked)
	s.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	if err != nil {
		return nil, err
	}
	one := func(kid string) nonceAnswer {
		now := time.Now()
		return nonceAnswer{fmt.Sprintf("%064x", number), kid, "telemark", formatTime(now), formatTime(now.Add(s.lifetime))}
	}
	var body any = one(r.URL.Query().Get("kid"))
	if r.Method == http.MethodPost {
		var req kidsRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			return nil, err
		}
		var all noncesAnswer
		for _, k := range req.KIDs {
			all.Nonces = append(all.Nonces, one(k))
		}
		body = all
	}
	b, err := json.Marshal(body)
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(string(b)))}, err
}

func (s *issuing) set(err error, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.status = err, status
}

// moments are when it was asked.
func (s *issuing) moments() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

func (s *issuing) times() int { return len(s.moments()) }

// relayOver is a relay without listeners over an issuing server in memory.
func relayOver(t *testing.T, s *issuing, keep int) *relay {
	t.Helper()
	if s.status == 0 {
		s.status = http.StatusOK
	}
	if s.lifetime == 0 {
		s.lifetime = 24 * time.Hour
	}
	set, _ := settings()
	e, err := newExtension(set, createDefaultConfig().(*Config))
	require.NoError(t, err)
	e.cfg.Upstream.GetOrInsertDefault().Endpoint = "http://issuer"
	e.cfg.Keep = keep
	y, err := newRelay(t.Context(), e, componenttest.NewNopHost())
	require.NoError(t, err)
	y.upstream.client = &http.Client{Transport: s, Timeout: 5 * time.Second}
	return y
}

func kidBytes(t *testing.T, s string) kid {
	t.Helper()
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return kidOf(b)
}

var errRefusedConnection = errors.New("connection refused")

func TestDeadIssuerIsAskedAfterPausesThatDouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &issuing{err: errRefusedConnection}
		y := relayOver(t, s, 10)
		defer y.upstream.stop()
		k := kidBytes(t, kid1)
		for range 1000 {
			_, err := y.upstream.nonce(t.Context(), k)
			var r *refusal
			require.ErrorAs(t, err, &r)
			require.Equal(t, codeUpstreamUnavailable, r.code)
		}
		require.Equal(t, 1, s.times(), "nobody waits for a dead server")
		time.Sleep(10 * time.Minute)
		asked := s.moments()
		for i := 1; i < len(asked); i++ {
			pause := asked[i].Sub(asked[i-1])
			want := min(firstProbe<<min(i-1, 20), maxProbe)
			require.InDelta(t, want, pause, 0.21*float64(want), "probe %d", i)
		}
		require.InDelta(t, 45, s.times(), 8)

		s.set(nil, http.StatusOK)
		time.Sleep(maxProbe * 6 / 5)
		require.NoError(t, y.upstream.failed())
		n := s.times()
		time.Sleep(time.Hour)
		require.Equal(t, n, s.times(), "a server that answers is not probed")
	})
}

func TestCallersForOneKeyShareAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &issuing{held: make(chan struct{})}
		y := relayOver(t, s, 10)
		defer y.upstream.stop()
		var wg sync.WaitGroup
		got := make([]upstreamAnswer, 50)
		for i := range got {
			wg.Go(func() {
				var err error
				got[i], err = y.upstream.nonce(t.Context(), kidBytes(t, []string{kid1, kid2}[i%2]))
				require.NoError(t, err)
			})
		}
		impatient, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := y.upstream.nonce(impatient, kidBytes(t, kid1))
		require.ErrorIs(t, err, context.Canceled)
		synctest.Wait()
		require.Equal(t, 2, s.times(), "one request for each key")
		close(s.held)
		wg.Wait()
		for i := range got {
			require.Equal(t, got[i%2].body, got[i].body)
		}
		require.NotEqual(t, got[0].body, got[1].body)
		require.NoError(t, y.upstream.failed(), "a caller that left says nothing about the server")
	})
}

func TestKeptNonceBridgesAnOutageAndNeverOutlivesItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &issuing{lifetime: time.Minute}
		y := relayOver(t, s, 10)
		defer y.upstream.stop()
		h := y.handler()
		fresh := serveNonce(t, h, kid1)
		require.Equal(t, http.StatusOK, fresh.Code)
		require.Empty(t, fresh.Header().Get("Age"))

		s.set(errRefusedConnection, 0)
		time.Sleep(20 * time.Second)
		kept := serveNonce(t, h, kid1)
		require.Equal(t, http.StatusOK, kept.Code)
		require.Equal(t, fresh.Body.String(), kept.Body.String())
		require.Equal(t, "20", kept.Header().Get("Age"))
		require.Equal(t, http.StatusBadGateway, serveNonce(t, h, kid2).Code, "of another key there is none")
		require.EqualValues(t, 1, y.counts.kept.Load())

		time.Sleep(40*time.Second - time.Millisecond)
		require.Equal(t, http.StatusOK, serveNonce(t, h, kid1).Code)
		time.Sleep(time.Millisecond)
		require.Equal(t, http.StatusBadGateway, serveNonce(t, h, kid1).Code, "past its expiry")
		require.Zero(t, y.kept.len())

		s.set(nil, http.StatusOK)
		time.Sleep(maxProbe * 2)
		again := serveNonce(t, h, kid1)
		require.Equal(t, http.StatusOK, again.Code)
		require.NotEqual(t, fresh.Body.String(), again.Body.String())
	})
}

func TestKeptNoncesAnswerForSeveralKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &issuing{}
		y := relayOver(t, s, 10)
		defer y.upstream.stop()
		h := y.handler()
		require.Equal(t, http.StatusOK, serve(t, h, http.MethodPost, "/nonces", `{"kids":["`+kid1+`","`+kid2+`"]}`).Code)
		s.set(errRefusedConnection, 0)
		var both noncesAnswer
		w := serve(t, h, http.MethodPost, "/nonces", `{"kids":["`+kid2+`","`+kid1+`"]}`)
		require.Equal(t, http.StatusOK, w.Code)
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &both))
		require.Equal(t, kid2, both.Nonces[0].KID)
		require.Equal(t, kid1, both.Nonces[1].KID)
		other := "000b" + strings.Repeat("33", 32)
		require.Equal(t, http.StatusBadGateway, serve(t, h, http.MethodPost, "/nonces", `{"kids":["`+kid1+`","`+other+`"]}`).Code)
		require.Equal(t, http.StatusOK, serveNonce(t, h, kid1).Code)
	})
}

// Somebody who asks once for each of many keys must not push out those that
// agents ask for all the time.
func TestStrangersDoNotPushKeptNoncesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &issuing{}
		y := relayOver(t, s, 100)
		defer y.upstream.stop()
		h := y.handler()
		for range 2 {
			require.Equal(t, http.StatusOK, serveNonce(t, h, kid1).Code)
		}
		for i := range 5000 {
			require.Equal(t, http.StatusOK, serveNonce(t, h, fmt.Sprintf("000b%064x", i)).Code)
		}
		require.LessOrEqual(t, y.kept.len(), 100)
		s.set(errRefusedConnection, 0)
		require.Equal(t, http.StatusOK, serveNonce(t, h, kid1).Code)
	})
}

func TestKeyThatTheIssuerRefusesGetsNoKeptNonce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &issuing{}
		y := relayOver(t, s, 10)
		defer y.upstream.stop()
		h := y.handler()
		require.Equal(t, http.StatusOK, serveNonce(t, h, kid1).Code)
		s.set(nil, http.StatusTooManyRequests)
		require.Equal(t, http.StatusTooManyRequests, serveNonce(t, h, kid1).Code)
		require.Equal(t, 1, y.kept.len())
		s.set(nil, http.StatusGone)
		require.Equal(t, http.StatusGone, serveNonce(t, h, kid1).Code)
		s.set(errRefusedConnection, 0)
		require.Equal(t, http.StatusBadGateway, serveNonce(t, h, kid1).Code)
		require.EqualValues(t, 2, y.counts.refused[codeIssuerRefused].Load())
	})
}

func TestRelayMayKeepNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &issuing{}
		y := relayOver(t, s, 0)
		defer y.upstream.stop()
		require.Equal(t, http.StatusOK, serveNonce(t, y.handler(), kid1).Code)
		s.set(errRefusedConnection, 0)
		require.Equal(t, http.StatusBadGateway, serveNonce(t, y.handler(), kid1).Code)
		require.Zero(t, y.kept.len())
	})
}

// An answer that was overtaken by a later one does not replace it.
func TestLaterNonceStays(t *testing.T) {
	now := time.Now()
	c, err := newKeptNonces(10)
	require.NoError(t, err)
	late := keptNonce{body: []byte("late"), expires: now.Add(2 * time.Hour), asked: now, lifetime: 2 * time.Hour}
	early := keptNonce{body: []byte("early"), expires: now.Add(time.Hour), asked: now, lifetime: time.Hour}
	k := kidBytes(t, kid1)
	c.put(k, late)
	c.put(k, early)
	got, ok := c.get(k, now)
	require.True(t, ok)
	require.Equal(t, "late", string(got.body))
	c.put(k, keptNonce{body: make([]byte, maxKeptBody+1), expires: now.Add(3 * time.Hour), asked: now, lifetime: time.Hour})
	got, _ = c.get(k, now)
	require.Equal(t, "late", string(got.body))
}

// Neither a clock that is behind nor one that was put back makes a nonce last longer.
func TestWrongClockDoesNotLengthenANonce(t *testing.T) {
	now := time.Now()
	ours := keptNonce{expires: now.Add(time.Hour), asked: now.Add(-2 * time.Minute), lifetime: time.Minute}
	require.False(t, ours.lasts(now), "the issuing server's clock is ahead of ours")
	theirs := keptNonce{expires: now, asked: now, lifetime: time.Minute}
	require.False(t, theirs.lasts(now))
}

func TestStopEndsAnAttemptUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &issuing{held: make(chan struct{})}
		y := relayOver(t, s, 10)
		done := make(chan error, 1)
		go func() {
			_, err := y.upstream.nonce(t.Context(), kidBytes(t, kid1))
			done <- err
		}()
		synctest.Wait()
		began := time.Now()
		y.upstream.stop()
		require.Error(t, <-done)
		require.Zero(t, time.Since(began))
		_, err := y.upstream.nonce(t.Context(), kidBytes(t, kid1))
		require.ErrorIs(t, err, context.Canceled)
	})
}
