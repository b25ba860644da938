package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/group"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/receipt"
	"github.com/telemark-otel/telemark/internal/signtest"
	"github.com/telemark-otel/telemark/internal/tpm"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"telemark": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code":     cmdCode,
			"mode":     cmdMode,
			"sign":     cmdSign,
			"replace":  cmdReplace,
			"fix":      cmdFix,
			"drop":     cmdDrop,
			"registry": cmdRegistry,
			"instance": cmdInstance,
			"vm":       cmdVM,
			"tpm2":     cmdTPM2,
		},
		Setup: func(e *testscript.Env) error {
			// $WORK may be too long for a unix socket.
			e.Setenv("TPM", t.TempDir())
			return nil
		},
	})
}

// cmdCode is "code N COMMAND…": the command exits with code N.
func cmdCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N command…")
	}
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		code = exit.ExitCode()
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// cmdMode is "mode 0600 FILE".
func cmdMode(ts *testscript.TestScript, neg bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	want, err := strconv.ParseUint(args[0], 8, 32)
	ts.Check(err)
	if same := uint64(info.Mode().Perm()) == want; same == neg {
		ts.Fatalf("%s has mode %v", args[1], info.Mode())
	}
}

// cmdSign is "sign DEVICE KEYS FILE N TOLERATE": N log records, one block each,
// in one group, signed by the TPM, written as JSON lines.
func cmdSign(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[3])
	ts.Check(err)
	var tolerate block.Tolerance
	if len(args) > 4 {
		tolerate, err = parseTolerate(args[4:])
		ts.Check(err)
	}
	out, err := signLines(args[0], ts.MkAbs(args[1]), n, tolerate)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), out, 0o600))
}

// cmdReplace is "replace FILE OLD NEW": the first OLD becomes NEW.
func cmdReplace(ts *testscript.TestScript, _ bool, args []string) {
	b := ts.ReadFile(args[0])
	if !strings.Contains(b, args[1]) {
		ts.Fatalf("%s does not contain %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Replace(b, args[1], args[2], 1)), 0o600))
}

// cmdDrop is "drop FILE N": line N goes.
func cmdDrop(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	lines := strings.SplitAfter(ts.ReadFile(args[0]), "\n")
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Join(append(lines[:n-1:n-1], lines[n:]...), "")), 0o600))
}

func signLines(device, keys string, n int, tolerate block.Tolerance) (out []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dev, err := tpm.Open(ctx, device, tpm.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	key, err := dev.OpenKey(ctx, tpm.KeyOptions{Dir: keys})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, key.Close()) }()

	batches := make([]digest.Batch, n)
	leaves := make([]group.Leaf, n)
	manifests := make([][]byte, n)
	for i := range batches {
		batches[i] = signtest.Data(block.Logs, "edge-a", 2)
		p, err := batches[i].At(0).Prepare(tolerate)
		if err != nil {
			return nil, err
		}
		manifests[i] = p.Manifest
		leaves[i] = group.Leaf{Signal: block.Logs, Tolerances: tolerate, Stream: "tpmsign:logs", Items: uint64(p.Items), Keys: p.Keys, Digest: p.Digest}
	}
	signed, err := commit(ctx, key, leaves)
	if err != nil {
		return nil, err
	}
	for i, b := range batches {
		b.At(0).Attach(digest.Proof{Receipt: signed[i].Receipt, Manifest: manifests[i]})
		line, err := (&plog.JSONMarshaler{}).MarshalLogs(b.Logs())
		if err != nil {
			return nil, err
		}
		out = append(append(out, line...), '\n')
	}
	return out, nil
}

// commit signs leaves as an agent does.
func commit(ctx context.Context, key *tpm.Key, leaves []group.Leaf) ([]group.Signed, error) {
	now := time.Now()
	issued := binary.BigEndian.AppendUint64(nil, uint64(now.UnixMilli()))[2:]
	c, err := group.New(group.Config{
		Algorithm: receipt.ES256, KID: key.KID(), Epoch: 7, Signer: key,
		Claims: func(context.Context) (group.Claims, error) {
			return group.Claims{
				Audience: "telemark", IssuedAt: now, UEID: receipt.UEID("telemark", key.KID()),
				Nonce:    append(issued, bytes.Repeat([]byte{1}, 26)...),
				Location: &receipt.Location{Latitude: 50.11, Longitude: 8.68, Source: "static"},
			}, nil
		},
		Backoff: func(int) time.Duration { return time.Second },
	})
	if err != nil {
		return nil, err
	}
	defer c.Close(ctx) //nolint:errcheck // what is signed is signed
	ticket, err := c.Submit(leaves)
	if err != nil {
		return nil, err
	}
	select {
	case <-ticket.Done():
		return ticket.Result()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// The configurations that are shipped, and the ones that stand on top of them,
// with the rules that these break on purpose.
var shipped = []struct{ files, broken []string }{
	{files: []string{"agent.yaml"}},
	{files: []string{"gateway.yaml"}},
	{files: []string{"gateway-stock.yaml"}},
	{files: []string{"gateway.yaml", "gateway-check.yaml"}},
	{files: []string{"collector.yaml"}},
	{files: []string{"agent.yaml", "agent-registry.yaml"}},
	{files: []string{"agent.yaml", "agent-swtpm.yaml"}},
	{files: []string{"agent.yaml", "agent-swtpm-server.yaml"}},
	{files: []string{"collector.yaml", "collector-quarantine.yaml"}},
	{files: []string{"collector.yaml", "collector-registry.yaml"}},
	{files: []string{"collector.yaml", "collector-quarantine.yaml", "collector-registry.yaml"}},
	{files: []string{"agent.yaml", "agent-plaintext.yaml"}, broken: []string{"tls-insecure"}},
	{files: []string{"gateway.yaml", "gateway-plaintext.yaml"}, broken: []string{"plaintext-listener", "tls-insecure"}},
	{files: []string{"collector.yaml", "collector-plaintext.yaml"}, broken: []string{"plaintext-listener", "tls-insecure"}},
}

// inConfig finds the variables that a configuration reads.
var inConfig = regexp.MustCompile(`\$\{env:([A-Z0-9_]+)`)

func TestShippedConfigurationsAreClean(t *testing.T) {
	dir := filepath.Join("..", "..", "configs")
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	require.NoError(t, err)
	left := map[string]bool{}
	for _, f := range files {
		left[filepath.Base(f)] = true
		content, err := os.ReadFile(f)
		require.NoError(t, err)
		for _, m := range inConfig.FindAllSubmatch(content, -1) {
			t.Setenv(string(m[1]), "") // for it to come back
			require.NoError(t, os.Unsetenv(string(m[1])))
		}
	}
	for _, c := range shipped {
		t.Run(strings.Join(c.files, "+"), func(t *testing.T) {
			args := []string{"config", "lint", "--output", "json"}
			for _, f := range c.files {
				args = append(args, filepath.Join(dir, f))
				delete(left, f)
			}
			var out, errOut bytes.Buffer
			code := run(args, strings.NewReader(""), &out, &errOut)
			var findings []located
			require.NoError(t, json.Unmarshal(out.Bytes(), &findings), "%s", errOut.String())
			broken := map[string]bool{}
			for _, f := range findings {
				broken[f.Rule] = true
			}
			require.Equal(t, c.broken, slices.Sorted(maps.Keys(broken)), "%s", out.String())
			require.Equal(t, len(findings) == 0, code == 0)
		})
	}
	require.Empty(t, left, "not checked")
}

func TestEveryReasonHasAPage(t *testing.T) {
	for _, r := range reason.All() {
		p := pageOf(r)
		require.NotEmpty(t, p.Check, r)
		require.NotEmpty(t, p.Means, r)
		require.NotEqual(t, "unknown", p.Class, r)
	}
	for r := range nextSteps {
		_, err := reason.Parse(string(r))
		require.NoError(t, err, "no such reason any more")
	}
}

// Every command says how it is used.
func TestEveryCommandHasHelpWithExamples(t *testing.T) {
	var check func(c *cobra.Command)
	check = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			if sub.Name() != "help" && sub.Name() != "completion" {
				check(sub)
			}
		}
		require.NotEmpty(t, c.Short, c.CommandPath())
		require.Contains(t, c.Example, "telemark ", c.CommandPath())
	}
	check(newRoot(strings.NewReader(""), io.Discard, io.Discard))
}
