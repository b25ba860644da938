package server_test

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/internal/identity/api"
)

func TestFromFreshToExposedInTheOlderForm(t *testing.T) {
	r := newRig(t)
	require.JSONEq(t, fmt.Sprintf(`{"pubkey":"%x"}`, r.machine.Instance()), string(r.do(http.MethodGet, "/instance/pubkey", nil).body))
	got := r.registerOperator()
	require.Regexp(t, `^\{"status":"success","owner_token":"[0-9a-f]{64}"\}\n$`, string(got.body))
	require.Equal(t, "{\"status\":\"success\"}\n", string(r.registerOwner().body))
	for range 2 { // a new configure before the expose
		w := r.configuration()
		w["port"] = 80 + int(r.machine.Counter())
		require.Equal(t, "{\"status\":\"success\"}\n", string(r.do(http.MethodPost, "/workload/configure", w, signed(r.owner)).body))
	}
	require.Equal(t, "{\"status\":\"success\"}\n", string(r.do(http.MethodPost, "/workload/expose", r.exposure(), signed(r.owner)).body))
	require.Equal(t, state.WorkloadExposed, r.machine.View().State)
	refused(t, reason.WorkloadExposed, r.do(http.MethodPost, "/workload/configure", r.configuration(), signed(r.owner)))
}

func TestFromFreshToExposedInTheSecondForm(t *testing.T) {
	r := newRig(t, func(s *settings) { s.Fixed.RequireV1 = true })
	now := func(key ed25519.PrivateKey) edit { return r.signedFor(key, r.machine.Counter()) }
	done := func(got *reply) *api.Done {
		t.Helper()
		d := ok[api.Done](t, got)
		require.Equal(t, r.machine.Counter(), d.Counter)
		return d
	}
	body := r.role(r.operator)
	body["owner_pubkey"] = public(r.owner)
	token := done(r.do(http.MethodPost, api.PathRegisterOperator, body, now(r.operator))).OwnerToken
	other := newKey(t)
	refused(t, reason.OwnerNotExpected, r.do(http.MethodPost, api.PathRegisterOwner, r.role(other), header(api.HeaderToken, token), now(other)))
	done(r.do(http.MethodPost, api.PathRegisterOwner, r.role(r.owner), header(api.HeaderToken, token), now(r.owner)))
	done(r.do(http.MethodPost, api.PathConfigure, r.configuration(), now(r.owner)))
	done(r.do(http.MethodPost, api.PathConfigure, r.configuration(), now(r.owner)))
	done(r.do(http.MethodPost, api.PathExpose, r.exposure(), now(r.owner)))
}

func TestOlderFormsAreRefusedWhereTheSecondIsRequired(t *testing.T) {
	r := newRig(t, func(s *settings) { s.Fixed.RequireV1 = true })
	for _, path := range []string{"/operator/register", "/owner/register", "/workload/configure", "/workload/expose"} {
		e := refused(t, reason.V1Required, r.do(http.MethodPost, path, r.role(r.operator), header(api.HeaderToken, strings.Repeat("a", 64))))
		require.Contains(t, e.Error, "/v1"+path)
	}
	require.Zero(t, r.control.calls.Load())
	r.do(http.MethodGet, "/instance/pubkey", nil)
}

func TestRacedTokenGivesOneOwner(t *testing.T) {
	r := newRig(t)
	r.registerOperator()
	const racers = 100
	answers := make([]int, racers)
	reasons := make([]string, racers)
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range racers {
		key := newKey(t)
		wg.Go(func() {
			<-start
			got := r.do(http.MethodPost, "/owner/register", r.role(key), header(api.HeaderToken, r.token))
			answers[i] = got.StatusCode
			var e api.Error
			_ = json.Unmarshal(got.body, &e)
			reasons[i] = e.Reason
		})
	}
	close(start)
	wg.Wait()
	var won int
	for i, status := range answers {
		if status == http.StatusOK {
			won++
			continue
		}
		require.Contains(t, []reason.Reason{
			reason.TokenUsed, reason.StepInFlight, reason.OwnerRegistered, reason.Busy, reason.OwnerNotExpected,
		}, reason.Reason(reasons[i]))
	}
	require.Equal(t, 1, won)
}

func TestTokenOpensOnceAndNothingElseDoes(t *testing.T) {
	r := newRig(t)
	r.registerOperator()
	try := func(token string) *reply {
		return r.do(http.MethodPost, "/owner/register", r.role(r.owner), header(api.HeaderToken, token))
	}
	refused(t, reason.TokenMissing, r.do(http.MethodPost, "/owner/register", r.role(r.owner)))
	for _, token := range []string{"x", strings.Repeat("0", 64), r.token[:63], r.token + "0", strings.ToUpper(r.token)} {
		refused(t, reason.TokenInvalid, try(token))
	}
	refused(t, reason.BadRequest, r.do(http.MethodPost, "/owner/register", r.role(r.owner), func(req *http.Request) {
		req.Header[http.CanonicalHeaderKey(api.HeaderToken)] = []string{r.token, r.token}
	}))
	// A body that cannot be verified does not use the token up.
	wrong := r.role(r.owner)
	wrong["signature"] = api.Hex(ed25519.Sign(r.owner, []byte("something else")))
	refused(t, reason.SignatureInvalid, r.do(http.MethodPost, "/owner/register", wrong, header(api.HeaderToken, r.token)))
	ok[api.Done](t, try(r.token))
	refused(t, reason.TokenUsed, try(r.token))
	for _, entry := range r.logs.All() {
		require.NotContains(t, fmt.Sprint(entry.Message, entry.ContextMap()), r.token, "the token stands in the log")
	}
}

func TestCallsOutOfOrderAreRefused(t *testing.T) {
	r := newRig(t)
	token := strings.Repeat("0", 64)
	refused(t, reason.OperatorMissing, r.do(http.MethodPost, "/owner/register", r.role(r.owner), header(api.HeaderToken, token)))
	refused(t, reason.OwnerMissing, r.do(http.MethodPost, "/workload/configure", r.configuration(), signed(r.owner)))
	refused(t, reason.OwnerMissing, r.do(http.MethodPost, api.PathUnlock, r.configuration(), signed(r.owner)))
	r.registerOperator()
	refused(t, reason.OperatorRegistered, r.do(http.MethodPost, "/operator/register", r.role(r.operator)))
	refused(t, reason.OwnerMissing, r.do(http.MethodPost, "/workload/expose", r.exposure(), signed(r.owner)))
	r.registerOwner()
	refused(t, reason.WorkloadMissing, r.do(http.MethodPost, "/workload/expose", r.exposure(), signed(r.owner)))
}

// Points and scalars that a lenient verifier takes.
func TestCrookedKeysAndSignaturesAreRefused(t *testing.T) {
	r := newRig(t)
	good := r.role(r.operator)
	sig := ed25519.Sign(r.operator, r.machine.Instance())
	// S + L is the same scalar to a verifier that does not look.
	order := [32]byte{0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 31: 0x10}
	malleable := append([]byte{}, sig...)
	carry := 0
	for i := range 32 {
		n := int(malleable[32+i]) + int(order[i]) + carry
		malleable[32+i], carry = byte(n), n>>8
	}
	identity := append([]byte{1}, make([]byte, 31)...)
	nonCanonical := append([]byte{0xee}, append(bytesOf(0xff, 30), 0x7f)...) // 2^255-19+1: the identity again
	for name, c := range map[string]struct {
		pubkey, signature any
		want              reason.Reason
	}{
		"low order":            {hex.EncodeToString(identity), good["signature"], reason.PubkeyLowOrder},
		"low order, zero":      {strings.Repeat("0", 64), good["signature"], reason.PubkeyLowOrder},
		"non-canonical point":  {hex.EncodeToString(nonCanonical), good["signature"], reason.PubkeyNonCanonical},
		"no point":             {"02" + strings.Repeat("00", 31), good["signature"], reason.PubkeyMalformed},
		"short key":            {"ab", good["signature"], reason.PubkeyMalformed},
		"scalar above order":   {good["pubkey"], hex.EncodeToString(malleable), reason.SignatureNonCanonical},
		"R of low order":       {good["pubkey"], hex.EncodeToString(append(identity, sig[32:]...)), reason.SignatureNonCanonical},
		"other bytes":          {good["pubkey"], hex.EncodeToString(ed25519.Sign(r.operator, []byte("x"))), reason.SignatureInvalid},
		"hex of the key":       {good["pubkey"], hex.EncodeToString(ed25519.Sign(r.operator, []byte(hex.EncodeToString(r.machine.Instance())))), reason.SignatureInvalid},
		"other key":            {public(r.owner), good["signature"], reason.SignatureInvalid},
		"short signature":      {good["pubkey"], "abcd", reason.SignatureMalformed},
		"upper case":           {strings.ToUpper(public(r.operator).String()), good["signature"], reason.BadRequest},
		"the instance's key":   {api.Hex(r.machine.Instance()), good["signature"], reason.PubkeyTaken},
		"null for a signature": {good["pubkey"], nil, reason.BadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, c.want, r.do(http.MethodPost, "/operator/register", map[string]any{"pubkey": c.pubkey, "signature": c.signature}))
		})
	}
	require.Equal(t, state.Fresh, r.machine.View().State)
	require.Zero(t, r.control.calls.Load())
}

func bytesOf(b byte, n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = b
	}
	return out
}

func TestRegistrationOfTheSecondFormIsSignedByItsKeyForItsCounter(t *testing.T) {
	r := newRig(t)
	body := r.role(r.operator)
	refused(t, reason.SignatureMissing, r.do(http.MethodPost, api.PathRegisterOperator, body))
	refused(t, reason.SignatureInvalid, r.do(http.MethodPost, api.PathRegisterOperator, body, r.signedFor(r.owner, r.machine.Counter())))
	refused(t, reason.CounterMismatch, r.do(http.MethodPost, api.PathRegisterOperator, body, r.signedFor(r.operator, r.machine.Counter()+1)))
	refused(t, reason.CounterMalformed, r.do(http.MethodPost, api.PathRegisterOperator, body, r.signedFor(r.operator, r.machine.Counter()), header(api.HeaderCounter, "00")))
	ok[api.Done](t, r.do(http.MethodPost, api.PathRegisterOperator, body, r.signedFor(r.operator, r.machine.Counter())))
	refused(t, reason.CounterMismatch, r.do(http.MethodPost, api.PathRegisterOperator, body, r.signedFor(r.operator, 0)))
}
