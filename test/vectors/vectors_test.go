// Package vectors_test holds every verifier of this module to the frozen test
// vectors: the product's packages, the processor, and verify.py, which shares no
// code with them.
package vectors_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/test/vectors/internal/vector"
)

func files(t testing.TB) []string {
	t.Helper()
	paths, err := filepath.Glob("*.json")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	return paths
}

func all(t testing.TB) []*vector.Vector {
	t.Helper()
	var out []*vector.Vector
	for _, path := range files(t) {
		v, err := vector.Read(path)
		require.NoError(t, err)
		require.NotEmpty(t, v.Steps, path)
		out = append(out, v)
	}
	return out
}

// decoded is what is expected behind the Collector's decoder.
func decoded(s *vector.Step) (unreadable bool, blocks []vector.Block) {
	if s.Decoded != nil {
		return s.Decoded.Unreadable, s.Decoded.Expect
	}
	return s.Unreadable, s.Expect
}

// TestVerdicts runs every vector through decoder, digest, receipt, nonce, verdict
// and replay.
func TestVerdicts(t *testing.T) {
	for _, v := range all(t) {
		t.Run(v.Name, func(t *testing.T) {
			f := newVerifier(t, v)
			for i := range v.Steps {
				s := &v.Steps[i]
				got := f.step(t, s, export)
				unreadable, want := decoded(s)
				require.Equal(t, unreadable, got.unreadable, "step %d", i)
				require.Len(t, got.blocks, len(want), "step %d", i)
				for k := range want {
					require.Equal(t, want[k], got.blocks[k], "step %d, block %d: %s", i, k, got.details[k])
				}
			}
		})
	}
}

// TestDeprecatedScopesAreRefusedWhereTheDecoderKeepsThem: the other decoder of
// pdata does not drop field 1000.
func TestDeprecatedScopesAreRefusedWhereTheDecoderKeepsThem(t *testing.T) {
	for _, signal := range []string{"metrics", "logs", "traces"} {
		v, err := vector.Read("hidden-1000-" + signal + ".json")
		require.NoError(t, err)
		s := &v.Steps[0]
		got := newVerifier(t, v).step(t, s, digest.UnmarshalBatch)
		require.Equal(t, s.Expect, got.blocks)
	}
}

// elsewhere are the reasons that bytes and replay state alone do not lead to;
// README.md says why.
var elsewhere = map[reason.Reason]bool{
	reason.KeyUnavailable:    true,
	reason.KeyPending:        true,
	reason.UnprovenTPM:       true,
	reason.InvalidValue:      true,
	reason.EntityRefs:        true,
	reason.InFlight:          true,
	reason.WindowFull:        true,
	reason.StoreUnavailable:  true,
	reason.RefusedDownstream: true,
}

func TestEveryReasonHasAVectorOrAnExemption(t *testing.T) {
	seen := map[reason.Reason]int{}
	for _, v := range all(t) {
		for _, s := range v.Steps {
			for _, b := range s.Expect {
				if b.Verdict == reason.Verified {
					continue
				}
				r, err := reason.Parse(b.Verdict)
				require.NoError(t, err, v.Name)
				seen[r]++
			}
		}
	}
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	for _, r := range reason.All() {
		if elsewhere[r] {
			require.Zero(t, seen[r], "%s has vectors and is exempted, too", r)
			require.Contains(t, string(readme), fmt.Sprintf("| `%s` |", r), "README.md does not say why %s has no vector", r)
			continue
		}
		require.NotZero(t, seen[r], "no vector leads to %s, and it is not exempted", r)
	}
}

// TestVectorsAreFrozen: a format change is a new version with new vectors.
func TestVectorsAreFrozen(t *testing.T) {
	content, err := os.ReadFile("SHA256SUMS")
	require.NoError(t, err)
	sums := map[string]string{}
	for line := range strings.Lines(string(content)) {
		sum, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		require.True(t, ok, line)
		sums[name] = sum
	}
	for _, path := range files(t) {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		sum := sha256.Sum256(content)
		require.Equal(t, sums[path], hex.EncodeToString(sum[:]), "%s was changed, or is not listed in SHA256SUMS; frozen vectors are never edited", path)
		delete(sums, path)
	}
	require.Empty(t, sums, "frozen vectors are never removed")
}
