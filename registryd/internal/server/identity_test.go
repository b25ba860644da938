package server_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/limit"
	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/api"
)

// spoken is the body of a registration with a statement.
func (r *rig) spoken(seed byte, counter uint64) *api.Registration {
	r.t.Helper()
	reg := r.first(seed, 2)
	s := statement.Statement{
		Version: 1, Instance: publicOf(seed), Origin: publicOf(seed), Boot: "boot", State: statement.OperatorRegistered,
		Counter: counter, Operator: publicOf(2),
	}
	raw, err := s.Encode()
	require.NoError(r.t, err)
	reg.Nonce, reg.Statement = ok[api.InstanceNonce](r.t, r.do(http.MethodPost, "/v1/nonces", nil)).Nonce, raw
	reg.AttestationQuote = r.lab.Quote(api.ReportDataV1(reg))
	reg.Possession = ed25519.Sign(keyOf(seed), api.PossessionMessage(reg))
	return reg
}

func (r *rig) witness(origin, nonce []byte, edits ...edit) *reply {
	r.t.Helper()
	return r.do(http.MethodGet, "/v1/identities/"+hex.EncodeToString(origin)+"?nonce="+base64.RawURLEncoding.EncodeToString(nonce), nil, edits...)
}

func TestWitnessSignsWhatItSawAndWhatItNeverSaw(t *testing.T) {
	r := newRig(t)
	nonce := bytes.Repeat([]byte{3}, 32)
	open := func(resp *reply) *answer.Identity {
		require.Equal(t, http.StatusOK, resp.StatusCode, "%s", resp.body)
		require.Equal(t, "application/cose", resp.Header.Get("Content-Type"))
		var i answer.Identity
		require.NoError(t, r.verifier.Open(answer.KindIdentity, resp.body, &i))
		return &i
	}
	never := open(r.witness(publicOf(1), nonce))
	require.NoError(t, never.Answers(publicOf(1), nonce, time.Now(), time.Now(), time.Minute))
	require.False(t, never.Known())
	refused(t, api.NotFound, r.do(http.MethodGet, "/v1/identities/"+hex.EncodeToString(publicOf(1)), nil))

	got := ok[api.Instance](t, r.do(http.MethodPost, "/v1/instances", r.spoken(1, 7)))
	require.EqualValues(t, 7, got.Facts.Counter)
	require.NotEmpty(t, got.Statement)
	seen := open(r.witness(publicOf(1), nonce))
	require.NoError(t, seen.Answers(publicOf(1), nonce, time.Now(), time.Now(), time.Minute))
	require.EqualValues(t, 7, seen.Counter)
	require.True(t, seen.Verified)
	require.Equal(t, api.Hex(publicOf(1)), seen.Instance)
	require.Greater(t, seen.Revision, never.Revision)
	require.Error(t, r.verifier.Open(answer.KindKey, r.witness(publicOf(1), nonce).body, &answer.Key{}), "one kind stands for no other")

	id := ok[api.Identity](t, r.do(http.MethodGet, "/v1/identities/"+hex.EncodeToString(publicOf(1)), nil))
	require.EqualValues(t, 7, id.Counter)
	require.Equal(t, "never_opened", id.Facts.SSH)

	shown := ok[api.Instance](t, r.do(http.MethodGet, "/v1/instances/"+hex.EncodeToString(publicOf(1)), nil))
	require.NotNil(t, shown.Facts)
	require.Nil(t, shown.Statement, "quote and statement are for viewers")
	shown = ok[api.Instance](t, r.do(http.MethodGet, "/v1/instances/"+hex.EncodeToString(publicOf(1)), nil, r.as("viewer")))
	require.Equal(t, got.Statement, shown.Statement)

	refused(t, api.StateRollback, r.do(http.MethodPost, "/v1/instances", r.spoken(1, 6)))
	page := ok[api.Page[api.Instance]](t, r.do(http.MethodGet, "/v1/instances?state=superseded", nil, r.as("viewer")))
	require.Empty(t, page.Items)
}

func TestWitnessRefusesWhatItCannotAnswer(t *testing.T) {
	r := newRig(t)
	refused(t, api.BadRequest, r.do(http.MethodGet, "/v1/identities/abcd", nil))
	refused(t, api.BadRequest, r.witness(publicOf(1), []byte("short")))
	refused(t, api.BadRequest, r.witness(publicOf(1), make([]byte, 65)))
	refused(t, api.BadRequest, r.do(http.MethodGet, "/v1/identities/"+hex.EncodeToString(publicOf(1)), nil, header("Accept", "application/cose")))
}

// An instance has no role, and a disk that was set back has to be noticed all
// the same.
func TestWitnessIsOpenWhereLookUpsNeedARole(t *testing.T) {
	r := newRig(t, func(s *settings) { s.RequireAuth = true })
	ok[api.Instance](t, r.do(http.MethodPost, "/v1/instances", r.spoken(1, 7)))
	require.Equal(t, http.StatusOK, r.witness(publicOf(1), make([]byte, 32)).StatusCode)
	path := "/v1/identities/" + hex.EncodeToString(publicOf(1))
	require.Nil(t, ok[api.Identity](t, r.do(http.MethodGet, path, nil)).Facts)
	require.NotNil(t, ok[api.Identity](t, r.do(http.MethodGet, path, nil, r.as("viewer"))).Facts)
}

// Everybody may ask, and nobody can use up what the instance needs.
func TestTooManyQuestionsAboutOneIdentityAreThoseOfOneClient(t *testing.T) {
	r := newRig(t, func(s *settings) {
		s.PerKey = limit.Rate{Events: 1, Per: time.Hour, Burst: 3}
		s.Proxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	flood, instance := header("X-Forwarded-For", "192.0.2.1"), header("X-Forwarded-For", "192.0.2.2")
	for range 3 {
		require.Equal(t, http.StatusOK, r.witness(publicOf(1), make([]byte, 32), flood).StatusCode)
	}
	refused(t, api.RateLimited, r.witness(publicOf(1), make([]byte, 32), flood))
	require.Equal(t, http.StatusOK, r.witness(publicOf(4), make([]byte, 32), flood).StatusCode)
	require.Equal(t, http.StatusOK, r.witness(publicOf(1), make([]byte, 32), instance).StatusCode)
}
