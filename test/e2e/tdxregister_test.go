package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/admin"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/test/harness"
)

// TestClientsOfTheFirstGenerationRegister sends what they send, in every form
// of theirs, to a registry that verifies the quotes.
func TestClientsOfTheFirstGenerationRegister(t *testing.T) {
	eachStore(t, func(t *testing.T, o harness.RegistryOptions) {
		x := withLab(t, o)
		operator, owner, other := newPerson("operator"), newPerson("owner"), newPerson("other")
		for name, write := range map[string]func([]byte) any{"hex": inHex, "upper-case hex": inUpperHex, "numbers": inNumbers} {
			i := newPerson("instance " + name)
			require.Nil(t, x.shown(i), "nobody registered it yet")
			x.accepted(fields(x.first(i, nil, nil), write))
			r := x.first(i, operator.vouch(i), owner.vouch(i))
			x.accepted(fields(r, write)) // both are added
			x.accepted(fields(r, inHex)) // and said again, in another form
			got := x.shown(i)
			require.Equal(t, inHex(x.ppid), got["ppid"])
			require.Equal(t, inHex(r.AttestationQuote), got["attestation_quote"])
			require.Equal(t, party(r.Operator), got["operator"])
			require.Equal(t, party(r.Owner), got["owner"])
			require.Equal(t, "UpToDate", got["tcb_status"])
			require.Equal(t, "none", got["freshness"])
			require.Equal(t, "verified", got["state"])
			require.Equal(t, 1, x.registrations(i))
		}

		i := newPerson("instance hex")
		x.refused("/register", fields(x.first(i, other.vouch(i), owner.vouch(i)), inHex), api.OperatorChanged)
		x.refused("/register", fields(x.first(i, operator.vouch(i), nil), inHex), api.OwnerChanged)
		x.refused("/register", fields(x.first(i, nil, owner.vouch(i)), inHex), api.OwnerWithoutOperator)
		stranger := newPerson("stranger")
		stolen := x.first(i, nil, nil)
		stolen.InstancePubkey = stranger.public()
		x.refused("/register", fields(stolen, inHex), api.ReportDataMismatch)
		forged := x.first(stranger, nil, nil)
		forged.AttestationQuote[100] ^= 1
		x.refused("/register", fields(forged, inHex), api.QuoteSignature)
		moved := x.first(stranger, nil, nil)
		moved.PPID = slices.Concat(x.ppid, operator.public())
		x.refused("/register", fields(moved, inHex), api.PPIDInvalid)
		require.Nil(t, x.shown(stranger))

		_, err := x.Registry.Client.RevokeInstance(t.Context(), i.String(), "stolen")
		require.NoError(t, err)
		x.refused("/register", fields(x.first(i, operator.vouch(i), owner.vouch(i)), inHex), api.InstanceRevoked)
	})
}

// TestReplayedRegistrationIsRefused uses the second generation's nonce twice.
func TestReplayedRegistrationIsRefused(t *testing.T) {
	eachStore(t, func(t *testing.T, o harness.RegistryOptions) {
		x := withLab(t, o)
		i, operator := newPerson("instance"), newPerson("operator")
		r := x.second(i, operator.vouch(i))
		status, answer := x.post("/v1/instances", r)
		require.Equal(t, http.StatusOK, status, "%s", answer)
		var got api.Instance
		require.NoError(t, json.Unmarshal(answer, &got))
		require.Equal(t, "nonce", got.Freshness)
		require.Equal(t, 2, got.Generation)
		require.Equal(t, api.TDXVerified, got.State)
		require.Equal(t, r.TLSKey, got.TLSKey)

		x.refused("/v1/instances", r, api.SessionUsed)
		x.Registry.Kill()
		x.up(x.Registry)
		x.refused("/v1/instances", r, api.SessionUsed)
		x.refused("/register", fields(x.first(i, operator.vouch(i), nil), inHex), api.V1Required)
		exchanged := x.second(i, operator.vouch(i))
		exchanged.TLSKey[0] ^= 1 // somebody in between puts his own key in
		x.refused("/v1/instances", exchanged, api.ReportDataMismatch)

		again := x.second(i, operator.vouch(i))
		status, answer = x.post("/v1/instances", again)
		require.Equal(t, http.StatusOK, status, "%s", answer)
		require.Equal(t, 1, x.registrations(i))
		page, err := x.Registry.Client.Instances(t.Context(), url.Values{"operator": {operator.String()}})
		require.NoError(t, err)
		require.Len(t, page.Items, 1)
		require.Equal(t, x.ppid, []byte(page.Items[0].PPID))
		anybody, err := admin.New(x.Registry.URL, http.DefaultClient, "")
		require.NoError(t, err)
		seen, err := anybody.Instance(t.Context(), i.String())
		require.NoError(t, err)
		require.Equal(t, again.TLSKey, seen.TLSKey)
		require.Empty(t, seen.PPID, "where an instance runs is for viewers")
		require.Empty(t, seen.AttestationQuote)
		_, err = anybody.Instances(t.Context(), nil)
		require.ErrorIs(t, err, &api.Error{Reason: api.Unauthenticated})
	})
}

// TestOneOfManyFirstRegistrationsWins registers one instance a hundred times at
// once, half of them for another operator.
func TestOneOfManyFirstRegistrationsWins(t *testing.T) {
	const times = 100
	eachStore(t, func(t *testing.T, o harness.RegistryOptions) {
		x := withLab(t, o)
		i, operators := newPerson("instance"), []person{newPerson("one"), newPerson("two")}
		bodies := make([]map[string]any, len(operators))
		for n, p := range operators {
			bodies[n] = fields(x.first(i, p.vouch(i), nil), inNumbers)
		}
		answers, errs := make([]string, times), make([]error, times)
		var wg sync.WaitGroup
		for n := range times {
			wg.Go(func() {
				status, answer, err := x.try("/register", bodies[n%2])
				errs[n] = err
				answers[n] = fmt.Sprint(status, " ", reasonOf(answer))
			})
		}
		wg.Wait()
		winner := -1
		seen := map[string]int{}
		for n := range times {
			require.NoError(t, errs[n])
			seen[answers[n]]++
			if answers[n] == "200 " {
				require.True(t, winner < 0 || winner == n%2, "both were accepted")
				winner = n % 2
			}
		}
		t.Logf("answers: %v", seen)
		require.GreaterOrEqual(t, winner, 0)
		for answer := range seen {
			require.Contains(t, []string{"200 ", "409 operator_changed", "503 busy"}, answer)
		}
		require.Equal(t, operators[winner].String(), x.shown(i)["operator"].(map[string]any)["pubkey"])
		require.Equal(t, 1, x.registrations(i))
	})
}

// TestWhatWasAnsweredSurvivesTheRegistry kills it while instances register.
func TestWhatWasAnsweredSurvivesTheRegistry(t *testing.T) {
	const clients, each = 4, 25
	eachStore(t, func(t *testing.T, o harness.RegistryOptions) {
		x := withLab(t, o)
		bodies := make([][]map[string]any, clients)
		name := func(c, n int) person { return newPerson(fmt.Sprintf("instance %d %d", c, n)) }
		for c := range clients {
			for n := range each {
				bodies[c] = append(bodies[c], fields(x.first(name(c, n), nil, nil), inHex))
			}
		}
		var answered atomic.Int64
		done := make([]int, clients)
		var wg sync.WaitGroup
		for c := range clients {
			wg.Go(func() {
				for ; done[c] < each; done[c]++ {
					status, _, err := x.try("/register", bodies[c][done[c]])
					if err != nil || status != http.StatusOK {
						return
					}
					answered.Add(1)
				}
			})
		}
		for deadline := time.Now().Add(soon); answered.Load() < clients*each/4 && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		x.Registry.Kill()
		wg.Wait()
		t.Logf("%d registrations were answered before the registry died", answered.Load())
		require.GreaterOrEqual(t, answered.Load(), int64(clients*each/4))
		x.up(x.Registry)
		for c := range clients {
			for n := range done[c] {
				require.NotNil(t, x.shown(name(c, n)), "what was answered with 200 is gone")
			}
			for n := done[c]; n < each; n++ {
				x.accepted(bodies[c][n])
				require.Equal(t, 1, x.registrations(name(c, n)))
			}
		}
	})
}
