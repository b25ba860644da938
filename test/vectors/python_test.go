package vectors_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/test/vectors/internal/vector"
)

func python(t *testing.T, paths ...string) (string, error) {
	t.Helper()
	for _, tool := range []string{"python3", "openssl"} {
		_, err := exec.LookPath(tool)
		require.NoError(t, err, "verify.py needs %s: install it (make setup)", tool)
	}
	out, err := exec.CommandContext(t.Context(), "python3", append([]string{"verify.py"}, paths...)...).CombinedOutput()
	return string(out), err
}

// TestIndependentVerifierAgrees runs the verifier that was written from the
// specification alone.
func TestIndependentVerifierAgrees(t *testing.T) {
	out, err := python(t)
	require.NoError(t, err, out)
	require.Contains(t, out, " passed, 0 failed")
	require.NotContains(t, out, "\n0 passed")
}

// TestIndependentVerifierNoticesAWrongVector: it must not agree with just
// anything.
func TestIndependentVerifierNoticesAWrongVector(t *testing.T) {
	for _, change := range []func(*vector.Vector){
		func(v *vector.Vector) { v.Steps[0].Expect[0].Verdict = "duplicate" },
		func(v *vector.Vector) { v.Steps[0].Expect[0].Leaf[0] ^= 1 },
		func(v *vector.Vector) { v.Nonce.Secret[0] ^= 1 },
		func(v *vector.Vector) { v.Steps[0].Request[len(v.Steps[0].Request)-1] ^= 1 },
		func(v *vector.Vector) { v.Keys = v.Keys[:0] },
	} {
		v, err := vector.Read("ok-logs.json")
		require.NoError(t, err)
		change(v)
		content, err := v.Encode()
		require.NoError(t, err)
		path := filepath.Join(t.TempDir(), "ok-logs.json")
		require.NoError(t, os.WriteFile(path, content, 0o600))
		out, err := python(t, path)
		require.Error(t, err)
		require.True(t, strings.HasSuffix(out, "0 passed, 1 failed\n"), out)
	}
}
