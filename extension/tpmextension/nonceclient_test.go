package tpmextension

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

var testKID = append([]byte{0x00, 0x0b}, bytes.Repeat([]byte{7}, 32)...)

// issuer answers nonce requests without a network, so that it works in a
// synctest bubble. Each nonce is 32 bytes of its number.
type issuer struct {
	mu       sync.Mutex
	kid      []byte
	lifetime time.Duration
	down     bool
	asked    []time.Time

	kept  int // the number of the nonce that a relay hands out again, 0 = none
	keptT time.Time
	mute  bool // the relay does not say how old it is
}

// keep makes it a relay whose issuer is away.
func (i *issuer) keep(age time.Duration, mute bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.kept, i.keptT, i.mute = max(len(i.asked), 1), time.Now().Add(-age), mute
}

func (i *issuer) RoundTrip(req *http.Request) (*http.Response, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked = append(i.asked, time.Now())
	if i.down {
		return nil, errors.New("connection refused")
	}
	number, header := len(i.asked), http.Header{}
	if i.kept > 0 {
		number = i.kept
		if !i.mute {
			header.Set("Age", strconv.Itoa(int(time.Since(i.keptT)/time.Second)))
		}
	}
	body := answerJSON(bytes.Repeat([]byte{byte(number)}, 32), i.kid, i.lifetime)
	return &http.Response{Status: "200 OK", StatusCode: http.StatusOK, Header: header, Body: io.NopCloser(strings.NewReader(body)), Request: req}, nil
}

func (i *issuer) set(down bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.down = down
}

func (i *issuer) times() []time.Time {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]time.Time(nil), i.asked...)
}

func answerJSON(nonce, kid []byte, lifetime time.Duration) string {
	issued := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	return fmt.Sprintf(`{"nonce":"%x","kid":"%x","issued_at":%q,"expires_at":%q}`,
		nonce, kid, issued.Format(time.RFC3339Nano), issued.Add(lifetime).Format(time.RFC3339Nano))
}

func startNonceClient(t *testing.T, rt http.RoundTripper, maxAge time.Duration) *nonceClient {
	t.Helper()
	return startNonceClientEvery(t, rt, 30*time.Second, maxAge)
}

func startNonceClientEvery(t *testing.T, rt http.RoundTripper, interval, maxAge time.Duration) *nonceClient {
	t.Helper()
	cfg := &NonceConfig{RenewInterval: interval, MaxAge: maxAge}
	cfg.Endpoint = "http://nonces.test/relay"
	c, err := newNonceClient(&http.Client{Transport: rt}, cfg, testKID, "telemark", zap.NewNop(), func(context.Context) {})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); c.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return c
}

func TestNonceIsRenewedWithJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &issuer{kid: testKID, lifetime: 24 * time.Hour}
		c := startNonceClient(t, server, time.Hour)
		first, err := c.get(t.Context(), nil)
		require.NoError(t, err)
		time.Sleep(time.Hour)
		last, err := c.get(t.Context(), nil)
		require.NoError(t, err)
		require.NotEqual(t, first, last)

		asked := server.times()
		require.Greater(t, len(asked), 60)
		gaps := map[time.Duration]bool{}
		for i := 1; i < len(asked); i++ {
			gap := asked[i].Sub(asked[i-1])
			require.GreaterOrEqual(t, gap, 24*time.Second)
			require.LessOrEqual(t, gap, 36*time.Second)
			gaps[gap] = true
		}
		require.Greater(t, len(gaps), 10, "a fleet must not stay in step")
	})
}

func TestNonceOutageGoesOnUnderTheLastOneUpToMaxAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &issuer{kid: testKID, lifetime: 24 * time.Hour}
		c := startNonceClient(t, server, time.Hour)
		_, err := c.get(t.Context(), nil)
		require.NoError(t, err)
		synctest.Wait()
		server.set(true)
		time.Sleep(59 * time.Minute)
		_, err = c.get(t.Context(), func(error) { t.Error("a nonce below max_age is good enough") })
		require.NoError(t, err)
		require.Error(t, c.err())

		time.Sleep(2 * time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var why error
		_, err = c.get(ctx, func(e error) { why = e })
		require.ErrorIs(t, err, context.DeadlineExceeded, "nothing is signed under a nonce that is too old")
		require.ErrorIs(t, why, errNoNonce)
		require.ErrorContains(t, why, "connection refused")

		server.set(false)
		_, err = c.get(t.Context(), nil)
		require.NoError(t, err)
		require.NoError(t, c.err())
	})
}

func TestNonceIsNotUsedBeyondTheLifetimeItsIssuerGaveIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &issuer{kid: testKID, lifetime: 5 * time.Minute}
		c := startNonceClient(t, server, time.Hour)
		_, err := c.get(t.Context(), nil)
		require.NoError(t, err)
		server.set(true)
		time.Sleep(6 * time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = c.get(ctx, nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestNothingIsSignedThatArrivesAfterTheNonceHasExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &issuer{kid: testKID, lifetime: 24 * time.Hour}
		c := startNonceClient(t, server, 24*time.Hour)
		_, err := c.get(t.Context(), nil)
		require.NoError(t, err)
		server.set(true)
		time.Sleep(24*time.Hour - nonceTransit - time.Minute)
		_, err = c.get(t.Context(), nil)
		require.NoError(t, err)
		time.Sleep(2 * time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = c.get(ctx, nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

// A server that answers never makes blocks wait, however long the interval is
// beside max_age and beside the lifetime that the issuer gives.
// A gateway hands out the latest nonce of a key again while the issuer is away.
// That makes the nonce no younger: what is signed after its end is lost.
func TestNonceThatARelayKeptIsAsOldAsItIs(t *testing.T) {
	for name, mute := range map[string]bool{"with Age": false, "without": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &issuer{kid: testKID, lifetime: 24 * time.Hour}
				c := startNonceClient(t, server, 24*time.Hour)
				_, err := c.get(t.Context(), nil)
				require.NoError(t, err)
				synctest.Wait()
				server.keep(0, mute)
				time.Sleep(23 * time.Hour)
				_, err = c.get(t.Context(), nil)
				require.NoError(t, err)
				age, ok := c.age(time.Now())
				require.True(t, ok)
				require.InDelta(t, 23*time.Hour, age, float64(time.Minute))
				time.Sleep(55 * time.Minute)
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				_, err = c.get(ctx, nil)
				require.ErrorIs(t, err, context.DeadlineExceeded)
			})
		})
	}
	t.Run("by somebody who starts meanwhile", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			server := &issuer{kid: testKID, lifetime: 24 * time.Hour}
			server.keep(20*time.Hour, false)
			c := startNonceClient(t, server, 24*time.Hour)
			_, err := c.get(t.Context(), nil)
			require.NoError(t, err)
			server.set(true)
			time.Sleep(4 * time.Hour)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err = c.get(ctx, nil)
			require.ErrorIs(t, err, context.DeadlineExceeded)
		})
	})
}

// Of two gateways one may be cut off.
func TestOlderNonceDoesNotReplaceAYoungerOneThatIsStillGood(t *testing.T) {
	now := time.Now()
	young := lease{nonce: []byte{2}, fetched: now.Add(-time.Minute), limit: time.Hour}
	old := lease{nonce: []byte{1}, fetched: now.Add(-2 * time.Hour), limit: 24 * time.Hour}
	require.Equal(t, young, young.next(old, now))
	require.Equal(t, young, old.next(young, now))
	require.Equal(t, old, young.next(old, now.Add(time.Hour)), "better than none")
	require.Equal(t, old, lease{}.next(old, now))
	for age, want := range map[string]time.Duration{
		"": 0, "-1": 0, "x": 0, "1, 2": 0, "99999999999999999999": 0, "90": 90 * time.Second,
	} {
		require.Equal(t, want, ageOf(http.Header{"Age": {age}}), age)
	}
}

func TestNonceIsRenewedBeforeItMayNotBeUsedAnyMore(t *testing.T) {
	for name, tc := range map[string]struct{ interval, maxAge, lifetime time.Duration }{
		"as old as it may get": {time.Hour, time.Hour, 24 * time.Hour},
		"shorter lifetime":     {time.Hour, 24 * time.Hour, 10 * time.Minute},
		"of seconds":           {30 * time.Second, time.Hour, 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &issuer{kid: testKID, lifetime: tc.lifetime}
				c := startNonceClientEvery(t, server, tc.interval, tc.maxAge)
				_, err := c.get(t.Context(), nil)
				require.NoError(t, err)
				for range 10 * 3600 {
					time.Sleep(time.Second)
					_, err := c.get(t.Context(), func(why error) { t.Errorf("it waited: %v", why) })
					require.NoError(t, err)
				}
			})
		})
	}
}

func TestNoncesWithoutALifetimeWorthTheNameAreNotFetchedOverAndOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &issuer{kid: testKID, lifetime: 1}
		startNonceClient(t, server, time.Hour)
		time.Sleep(time.Minute)
		require.Less(t, len(server.times()), 90)
	})
}

func TestPauseCountsTheTimeAMachineSlept(t *testing.T) {
	since := time.Now().Round(0).Add(-2 * time.Hour) // wall clock only
	require.True(t, pauseSince(t.Context(), since, time.Hour))
}

func TestNonceOutageIsNotHammered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &issuer{kid: testKID, lifetime: time.Hour, down: true}
		startNonceClient(t, server, time.Hour)
		time.Sleep(10 * time.Minute)
		require.Less(t, len(server.times()), 90)
		require.Greater(t, len(server.times()), 40)
	})
}

func TestLeaseAgeCountsTheTimeAMachineSlept(t *testing.T) {
	l := lease{nonce: []byte{1}, fetched: time.Now()}
	woken := l.fetched.Round(0).Add(3 * time.Hour) // wall clock only
	require.Equal(t, 3*time.Hour, l.age(woken))
	require.Zero(t, l.age(l.fetched.Add(-time.Hour)))
}

func TestNonceAnswersAreReadStrictly(t *testing.T) {
	good := bytes.Repeat([]byte{9}, 32)
	rules := answerRules{kid: testKID, audience: "telemark"}
	kid := hex.EncodeToString(testKID)
	times := `"issued_at":"2026-11-01T00:00:00Z","expires_at":"2026-11-02T00:00:00Z"`

	got, err := rules.parse([]byte(answerJSON(good, testKID, time.Hour)))
	require.NoError(t, err)
	require.Equal(t, answer{nonce: good, issued: got.issued, lifetime: time.Hour}, got)
	_, err = rules.parse([]byte(`{"audience":"telemark","nonce":"` + hex.EncodeToString(good) + `","kid":"` + kid + `",` + times + "}\n"))
	require.NoError(t, err)

	for name, tc := range map[string]struct {
		body string
		want error
	}{
		"for another key":        {answerJSON(good, append([]byte{0, 0x0b}, make([]byte, 32)...), time.Hour), errAnswerKID},
		"without kid":            {`{"nonce":"` + hex.EncodeToString(good) + `",` + times + `}`, errAnswerKID},
		"for another audience":   {`{"audience":"other","nonce":"` + hex.EncodeToString(good) + `","kid":"` + kid + `",` + times + `}`, errAnswerAudience},
		"nonce too short":        {answerJSON(good[:31], testKID, time.Hour), errAnswerNonce},
		"nonce too long":         {answerJSON(bytes.Repeat(good, 3), testKID, time.Hour), errAnswerNonce},
		"nonce not hex":          {`{"nonce":"zz","kid":"` + kid + `",` + times + `}`, errAnswerNonce},
		"no lifetime":            {answerJSON(good, testKID, 0), errAnswerExpired},
		"time malformed":         {`{"nonce":"` + hex.EncodeToString(good) + `","kid":"` + kid + `","issued_at":"yesterday","expires_at":"x"}`, errAnswerMalformed},
		"member twice":           {`{"kid":"` + kid + `","kid":"` + kid + `"}`, errAnswerMalformed},
		"member in another case": {strings.Replace(answerJSON(good, testKID, time.Hour), `"kid"`, `"KID"`, 1), errAnswerMalformed},
		"member unknown":         {strings.Replace(answerJSON(good, testKID, time.Hour), `{`, `{"x":"y",`, 1), errAnswerMalformed},
		"member not a string":    {`{"nonce":{"a":1}}`, errAnswerMalformed},
		"array":                  {`["nonce"]`, errAnswerMalformed},
		"truncated":              {`{"nonce":"00"`, errAnswerMalformed},
		"trailing":               {answerJSON(good, testKID, time.Hour) + "{}", errAnswerMalformed},
		"empty":                  {"", errAnswerMalformed},
		"too large":              {answerJSON(good, testKID, time.Hour) + strings.Repeat(" ", maxNonceBody), errAnswerTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := rules.parse([]byte(tc.body))
			require.ErrorIs(t, err, tc.want)
		})
	}
}

func TestNonceRedirectDoesNotCarryCredentialsAway(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("the redirect was followed")
	}))
	defer elsewhere.Close()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL, http.StatusFound)
	}))
	defer server.Close()
	cfg := &NonceConfig{RenewInterval: time.Minute, MaxAge: time.Hour}
	cfg.Endpoint = server.URL
	c, err := newNonceClient(server.Client(), cfg, testKID, "telemark", zap.NewNop(), func(context.Context) {})
	require.NoError(t, err)
	require.ErrorContains(t, c.renew(t.Context()), "302")
}

func TestNonceAnswerWithoutEndIsCutOff(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(bytes.Repeat([]byte{' '}, 4096)); err != nil {
				return
			}
		}
	}))
	defer server.Close()
	cfg := &NonceConfig{RenewInterval: time.Minute, MaxAge: time.Hour}
	cfg.Endpoint = server.URL
	c, err := newNonceClient(server.Client(), cfg, testKID, "telemark", zap.NewNop(), func(context.Context) {})
	require.NoError(t, err)
	require.ErrorIs(t, c.renew(t.Context()), errAnswerTooLarge)
}
