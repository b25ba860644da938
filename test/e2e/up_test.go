package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/test/harness"
)

// development is a running `telemark up`.
type development struct {
	cmd    *exec.Cmd
	offset int
	dir    string
	ended  chan error
	errOut bytes.Buffer
}

// startUp starts `telemark up` with two agents on ports that are free, and waits
// until it says that all is there.
func startUp(t *testing.T, dir string) *development {
	t.Helper()
	bin, err := harness.Bin("telemark")
	require.NoError(t, err)
	for range 10 {
		d := &development{dir: dir, offset: 20_000 + 100*rand.IntN(200), ended: make(chan error, 1)}
		d.cmd = exec.Command(bin, "up", "--dir", dir, "--agents", "2", "--port-offset", strconv.Itoa(d.offset), "--output", "json")
		d.cmd.Stderr = &d.errOut
		out, err := d.cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, d.cmd.Start())
		var running struct {
			Places []struct{ Name, URL string }
		}
		err = json.NewDecoder(out).Decode(&running)
		go func() { d.ended <- d.cmd.Wait() }()
		if err == nil {
			require.Len(t, running.Places, 3+2*2)
			t.Cleanup(func() { _ = d.cmd.Process.Kill() })
			return d
		}
		require.Error(t, <-d.ended)
		require.Contains(t, d.errOut.String(), "is taken")
	}
	require.FailNow(t, "no free ports were found")
	return nil
}

func (d *development) url(scheme string, port int) string {
	return scheme + "://localhost:" + strconv.Itoa(d.offset+port)
}

// smoke runs `telemark smoke` against it.
func (d *development) smoke(t *testing.T, agentPort int) {
	t.Helper()
	bin, err := harness.Bin("telemark")
	require.NoError(t, err)
	certs := filepath.Join(d.dir, "certs")
	cmd := exec.CommandContext(t.Context(), bin, "smoke", "--output", "json", "--ca", filepath.Join(certs, "ca.crt"),
		"--agent", d.url("https", agentPort), "--gateway", d.url("https", 8443), "--collector", d.url("https", 8444),
		"--admin", d.url("http", 8445), "--admin-token-file", filepath.Join(certs, "admin.token"), "--rate-limit")
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	require.NoError(t, err, "%s\n%s", out, errOut.String())
	var checks []struct{ Check, Outcome, Detail string }
	require.NoError(t, json.Unmarshal(out, &checks))
	require.Len(t, checks, 13)
	for _, c := range checks {
		require.Equal(t, "ok", c.Outcome, "%s: %s", c.Check, c.Detail)
	}
}

// load runs `telemark load` against an agent.
func (d *development) load(t *testing.T, signal string, port int) {
	t.Helper()
	bin, err := harness.Bin("telemark")
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), bin, "load", "--output", "json", "--endpoint", d.url("http", port),
		"--signal", signal, "--rate", "2000", "--items", "50", "--duration", "2s", "--gzip")
	out, err := cmd.Output()
	require.NoError(t, err, "%s", out)
	var report struct {
		Accepted int64 `json:"accepted_items"`
		Refused  int64 `json:"refused_items"`
		Lost     int64 `json:"lost_items"`
		Requests int64
	}
	require.NoError(t, json.Unmarshal(out, &report))
	require.Positive(t, report.Accepted)
	require.Equal(t, 50*report.Requests, report.Accepted)
	require.Zero(t, report.Refused+report.Lost)
}

func (d *development) stop(t *testing.T) {
	t.Helper()
	require.NoError(t, d.cmd.Process.Signal(syscall.SIGINT))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	select {
	case err := <-d.ended:
		require.NoError(t, err)
	case <-ctx.Done():
		require.FailNow(t, "it has not ended")
	}
	require.True(t, strings.HasSuffix(d.errOut.String(), "stopping\n"))
}

func TestDevelopmentStackComesUpPassesTheSmokeTestAndComesBack(t *testing.T) {
	dir := t.TempDir()
	d := startUp(t, dir)
	d.smoke(t, 8442)
	d.smoke(t, 18442)
	for _, signal := range []string{"metrics", "logs", "traces"} {
		d.load(t, signal, 4318)
	}
	d.stop(t)
	d = startUp(t, dir)
	d.smoke(t, 8442)
	d.stop(t)
}
