package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/pgtest"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/test/harness"
)

// onPostgreSQL makes registries that share one new PostgreSQL database.
func onPostgreSQL(t *testing.T) harness.RegistryOptions {
	t.Helper()
	file := filepath.Join(t.TempDir(), "dsn")
	require.NoError(t, os.WriteFile(file, []byte(pgtest.DSN(t)), 0o600))
	return harness.RegistryOptions{Args: []string{"--db-file", file}}
}

// eachStore runs a test over both stores.
func eachStore(t *testing.T, test func(*testing.T, harness.RegistryOptions)) {
	for name, options := range map[string]func(*testing.T) harness.RegistryOptions{
		"SQLite":     func(*testing.T) harness.RegistryOptions { return harness.RegistryOptions{} },
		"PostgreSQL": onPostgreSQL,
	} {
		t.Run(name, func(t *testing.T) { test(t, options(t)) })
	}
}

// used is how many uses are gone of the fleet's only join token.
func (f *fleet) used() int {
	f.Helper()
	tokens, err := f.Registry.Client.Tokens(f.Context())
	require.NoError(f, err)
	require.Len(f, tokens, 1)
	return tokens[0].Used
}

// enrol enrols a machine by hand, and returns the key id that it was enrolled
// under.
func (f *fleet) enrol(r *harness.Registry, machine string) (kid string, err error) {
	dir := filepath.Join(f.Dir, machine)
	out, err := f.command("enroll", "--device", "swtpm:"+filepath.Join(dir, "tpm"), "--key-dir", filepath.Join(dir, "keys"),
		"--registry", r.URL, "--token-file", r.JoinFile, "--name", machine, "--output", "json")
	if err != nil {
		return "", err
	}
	var answer struct {
		KID   string
		State api.KeyState
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		return "", err
	}
	if answer.State != api.StateEnrolled {
		return "", fmt.Errorf("%s is %s", machine, answer.State)
	}
	return answer.KID, nil
}

// TestAgentThatDiesBeforeItKeepsTheAnswerEnrolsAgain kills an agent when the
// registry has used up its token for it, and it has not heard of it.
func TestAgentThatDiesBeforeItKeepsTheAnswerEnrolsAgain(t *testing.T) {
	f := withRegistry(t, harness.RegistryOptions{}, "a", "b")
	f.token(api.TokenRequest{Uses: 1})
	between := f.middleman(f.Registry)
	collector := f.collector("collector", patient)
	a := f.agent("a", collector.GRPC, collector.Nonce, agentBehind(between.URL))
	b := f.agent("b", collector.GRPC, collector.Nonce)
	f.start(collector)

	const complete = "/v1/enrolments/complete"
	answered := make(chan struct{}, 10)
	between.instead(complete, func() {
		a.Kill()
		answered <- struct{}{}
	})
	for round := range 2 {
		require.NoError(t, a.Start())
		select {
		case <-answered:
		case <-time.After(soon):
			t.Fatal("the agent did not enrol")
		}
		require.False(t, a.Running())
		require.Equal(t, 1, f.used(), "round %d", round)
	}
	m, err := f.Registry.Client.Machine(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, api.StateEnrolled, m.State)

	between.instead(complete, nil)
	f.start(a)
	f.run(f.logs(a, 0, 100))
	require.NoError(t, f.awaitArchive(collector, block.Logs, drainTime, span{0, 100}).exactly(span{0, 100}))
	require.Equal(t, 1, f.used())

	f.start(b)
	f.awaitMetric(soon, b, 1, "otelcol_tpm_enrolments", "outcome", "refused", "reason", string(api.TokenUsedUp))
	_, err = f.Registry.Client.Machine(t.Context(), "b")
	require.ErrorIs(t, err, &api.Error{Reason: api.NotFound})
}

// TestUsesOfATokenAreNeitherLostNorSpentTwice lets more machines come at once
// than a token is good for.
func TestUsesOfATokenAreNeitherLostNorSpentTwice(t *testing.T) {
	machines := []string{"a", "b", "c", "d"}
	const uses = 2
	eachStore(t, func(t *testing.T, o harness.RegistryOptions) {
		f := withRegistry(t, o, machines...)
		f.token(api.TokenRequest{Uses: uses})
		registries := []*harness.Registry{f.Registry, f.Registry}
		if len(o.Args) > 0 {
			o.Replica = f.Registry
			registries[1] = f.registry("second", o)
			f.up(registries[1])
		}
		errs := make([]error, len(machines))
		var wg sync.WaitGroup
		for i, m := range machines {
			wg.Go(func() { _, errs[i] = f.enrol(registries[i%2], m) })
		}
		wg.Wait()
		in := 0
		for i, m := range machines {
			_, err := f.Registry.Client.Machine(t.Context(), m)
			if errs[i] == nil {
				in++
				require.NoError(t, err)
				continue
			}
			require.ErrorContains(t, errs[i], string(api.TokenUsedUp))
			require.ErrorIs(t, err, &api.Error{Reason: api.NotFound})
		}
		require.Equal(t, uses, in)
		require.Equal(t, uses, f.used())
	})
}

// TestWhatAReplicaAnsweredOutlivesIt kills one of two replicas while machines
// enrol at it.
func TestWhatAReplicaAnsweredOutlivesIt(t *testing.T) {
	machines := []string{"a", "b", "c", "d", "e", "f"}
	o := onPostgreSQL(t)
	f := withRegistry(t, o, machines...)
	f.token(api.TokenRequest{Uses: len(machines)})
	o.Replica = f.Registry
	doomed := f.registry("doomed", o)
	f.up(doomed)

	kids, errs := make([]string, len(machines)), make([]error, len(machines))
	first := make(chan struct{}, len(machines))
	var wg sync.WaitGroup
	for i, m := range machines {
		wg.Go(func() {
			if kids[i], errs[i] = f.enrol(doomed, m); errs[i] == nil {
				first <- struct{}{}
			}
		})
	}
	select {
	case <-first:
	case <-time.After(time.Minute):
		t.Error("no machine enrolled")
	}
	doomed.Kill()
	wg.Wait()
	answered := 0
	for i, m := range machines {
		if errs[i] != nil {
			continue
		}
		answered++
		got, err := f.Registry.Client.Machine(t.Context(), m)
		require.NoError(t, err)
		require.Equal(t, api.StateEnrolled, got.State)
		require.Equal(t, kids[i], got.Keys[0].KID)
	}
	t.Logf("%d of %d machines had their answer when the replica died", answered, len(machines))
	for i, m := range machines {
		if errs[i] != nil {
			_, err := f.enrol(f.Registry, m)
			require.NoError(t, err, "after: %v", errs[i])
		}
	}
	require.Equal(t, len(machines), f.used(), "whoever was cut off in the middle needs no second use")
}
