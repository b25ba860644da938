// Package matrix tests what happens to signed telemetry, case by case, in
// scripts that can be read without knowing Go: testdata/*.txtar, in the form of
// github.com/rogpeppe/go-internal/testscript. They run the shipped
// configurations (configs/) as real processes: agents with software TPMs, a
// gateway, a receiving collector, and between them somebody who holds, repeats,
// changes and forges what passes through. Every script runs twice, without TLS
// and with TLS and client certificates on every hop.
//
// A script says which machines there are, starts what it needs, sends data
// under names (a service is a batch of numbered items of one signal) and then
// asks for what came of it: the answer's code, the reason and number of
// refusals, the collectors' own counters, and which services arrived.
// commands_test.go has what the words mean.
//
// It leaves out load, crashes at every step, the registry and splitting gateways,
// which package e2e tests, and malformed receipts, which test/vectors holds.
package matrix

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/test/harness"
)

func TestPlain(t *testing.T) { run(t, nil) }

func TestMutualTLS(t *testing.T) {
	certs, err := makeCertificates(t.TempDir())
	require.NoError(t, err)
	run(t, certs)
}

// run runs all scripts; certs is nil for no TLS.
func run(t *testing.T, certs *certificates) {
	for _, bin := range []string{"otelcol-telemark", "otelcol-stock", "telemark"} {
		_, err := harness.Bin(bin)
		require.NoError(t, err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Cmds:                commands,
		Condition: func(cond string) (bool, error) {
			if cond != "mutual" {
				return false, errors.New("there is no such condition")
			}
			return certs != nil, nil
		},
		Setup: func(env *testscript.Env) error {
			w, err := newWorld(t.TempDir(), certs)
			if err != nil {
				return err
			}
			env.Values[worldKey{}] = w
			env.Defer(w.end)
			return nil
		},
	})
}

func TestScriptsAreThere(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*.txtar")
	require.NoError(t, err)
	require.Len(t, scripts, 9)
}
