package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// asked runs a command against a registry that knows one instance.
func asked(t *testing.T, i *api.Instance, args ...string) string {
	t.Helper()
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/instances" {
			_ = json.NewEncoder(w).Encode(api.Page[api.Instance]{Items: []api.Instance{*i}})
			return
		}
		if r.URL.Path != "/v1/instances/"+hex.EncodeToString(i.Pubkey) {
			w.WriteHeader(http.StatusNotFound)
			_ = json.NewEncoder(w).Encode(api.ErrorBody{Error: "none", Reason: api.NotFound})
			return
		}
		_ = json.NewEncoder(w).Encode(i)
	}))
	t.Cleanup(registry.Close)
	var out bytes.Buffer
	cmd := newRoot(strings.NewReader(""), &out, &out)
	cmd.SetArgs(append([]string{"fleet", "instances", "--registry", registry.URL}, args...))
	require.NoError(t, cmd.ExecuteContext(t.Context()), "%s", &out)
	return out.String()
}

func exposedInstance() *api.Instance {
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	return &api.Instance{
		Pubkey: bytes.Repeat([]byte{0xab}, 32), Kind: api.KindTDX, State: api.TDXVerified, Generation: 2, Freshness: "nonce",
		RegisteredAt: at, VerifiedAt: at, ExpiresAt: at.Add(24 * time.Hour), TCBStatus: "UpToDate", Policy: "default", PPIDProven: true,
		Owner: &api.Party{Pubkey: bytes.Repeat([]byte{0xcd}, 32)}, Measurements: &api.Measurements{MRTD: bytes.Repeat([]byte{1}, 48)},
		Facts: &api.InstanceFacts{
			Origin: bytes.Repeat([]byte{0xef}, 32), Boot: "3f2a-boot", State: "workload_exposed", Counter: 9, Image: "app@sha256:aa",
			SSH: "closed", SSHClosed: at.Add(-time.Hour), SSHClosedSeen: at.Add(-time.Minute), Evidence: api.FactsRTMR3, AsOf: at, VerifiedAt: at,
		},
	}
}

func TestAuditorReadsWhenAndInWhichBootTheDoorWasClosed(t *testing.T) {
	i := exposedInstance()
	list := asked(t, i)
	require.Contains(t, list, strings.Repeat("ab", 32))
	require.Regexp(t, `closed +app@sha256:aa +2026-11-21T12:00:00Z +rtmr3`, list)
	require.Contains(t, list, "1 instance")

	one := asked(t, i, "show", strings.Repeat("AB", 32))
	for _, want := range []string{
		"closed as of 2026-11-21T12:00:00Z, in boot 3f2a-boot; first seen closed 2026-11-21T11:59:00Z; closed since 2026-11-21T11:00:00Z by the VM's own clock",
		"began with " + strings.Repeat("ef", 32), "workload_exposed, counter 9", "rtmr3: the register of the verified quote", "pin MRTD",
		strings.Repeat("cd", 32), strings.Repeat("01", 48),
	} {
		require.Contains(t, one, want)
	}

	var read api.Instance
	require.NoError(t, json.Unmarshal([]byte(asked(t, i, "show", strings.Repeat("ab", 32), "--output", "json")), &read))
	require.Equal(t, i.Facts, read.Facts)
}

func TestNobodyTakesAnUnprovenClaimForAProvenOne(t *testing.T) {
	show := func(change func(*api.Instance)) string {
		i := exposedInstance()
		change(i)
		return asked(t, i, "show", strings.Repeat("ab", 32))
	}
	unverified := show(func(i *api.Instance) { i.Facts.Evidence, i.State = api.FactsUnverified, api.TDXUnverified })
	require.Contains(t, unverified, "None of this is proven")
	require.NotContains(t, unverified, "pin MRTD")
	over := show(func(i *api.Instance) { i.State = api.TDXExpired })
	require.Contains(t, over, "It was so then. The instance is expired now.")
	superseded := show(func(i *api.Instance) {
		i.State, i.Facts.SupersededBy = api.TDXSuperseded, bytes.Repeat([]byte{0x77}, 32)
	})
	require.Contains(t, superseded, "goes on with "+strings.Repeat("77", 32))
	words := show(func(i *api.Instance) { i.Facts.Evidence = api.FactsStatement })
	require.Contains(t, words, "no register for the events")
	hidden := show(func(i *api.Instance) { i.Facts.Evidence, i.Facts.RTMR3Base = api.FactsStatement, "ff" })
	require.Contains(t, hidden, "on top of what is not known")
	silent := show(func(i *api.Instance) { i.Facts = nil })
	require.Contains(t, silent, "says nothing of what runs in it")
	open := show(func(i *api.Instance) { i.Facts.SSH = "open" })
	require.Contains(t, open, "open as of 2026-11-21T12:00:00Z, in boot 3f2a-boot")
	never := show(func(i *api.Instance) { i.Facts.SSH, i.Facts.Step = "never_opened", "configure" })
	require.Contains(t, never, "never opened as of")
	require.Contains(t, never, "with the step configure under way")
}
