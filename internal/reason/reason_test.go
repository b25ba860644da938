package reason_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/reason"
)

var update = flag.Bool("update", false, "write docs/guide/reasons.md")

const page = "../../docs/guide/reasons.md"

var classWords = map[reason.Class]string{
	reason.ClassForged:    "content, proof or signature is wrong; sending it again does not help",
	reason.ClassStale:     "was right once, and is too late now",
	reason.ClassReplayed:  "was accepted before; dropped, and the sender is told success",
	reason.ClassPolicy:    "authentic, and policy does not allow it",
	reason.ClassTransient: "nothing is wrong with the block; it is tried again",
}

func render() string {
	var b strings.Builder
	b.WriteString("# Reasons\n\nWhy a block is not accepted as verified. The same word stands in the attribute `telemark.verdict`, in log lines, in the\n" +
		"attribute `reason` of metrics, on the status page and in the test vectors; `telemark explain REASON` prints it with what\nto check. They stand in the order of judgement: of several, a block gets the first.\n")
	for _, c := range []reason.Class{reason.ClassForged, reason.ClassStale, reason.ClassReplayed, reason.ClassPolicy, reason.ClassTransient} {
		if b.Len() > 0 && c == reason.ClassForged {
			b.WriteString("\n| class | meaning |\n|---|---|\n")
		}
		fmt.Fprintf(&b, "| %s | %s |\n", c, classWords[c])
	}
	b.WriteString("\n| reason | class | what happened, what to check |\n|---|---|---|\n")
	for _, r := range reason.All() {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", r, r.Class(), r.Help())
	}
	return b.String()
}

func TestPageOfReasonsIsCurrent(t *testing.T) {
	if *update {
		require.NoError(t, os.WriteFile(page, []byte(render()), 0o600))
	}
	got, err := os.ReadFile(page)
	require.NoError(t, err)
	require.Equal(t, render(), string(got), "run: go test ./internal/reason -update")
}

func TestEveryReasonIsUsable(t *testing.T) {
	word := regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)
	seen := map[reason.Reason]bool{}
	for _, r := range reason.All() {
		require.False(t, seen[r], "%s stands twice", r)
		seen[r] = true
		require.Regexp(t, word, string(r))
		require.NotEqual(t, reason.ClassUnknown, r.Class(), r)
		require.NotEmpty(t, r.Help(), r)
		parsed, err := reason.Parse(string(r))
		require.NoError(t, err)
		require.Equal(t, r, parsed)
	}
	_, err := reason.Parse(reason.Verified)
	require.Error(t, err, "verified is a verdict, not a reason")
}

func TestErrorCarriesItsReason(t *testing.T) {
	cause := errors.New("cause")
	err := fmt.Errorf("block 7: %w", reason.Wrap(reason.DigestMismatch, cause))
	require.Equal(t, reason.DigestMismatch, reason.Of(err))
	require.ErrorIs(t, err, cause)
	require.ErrorIs(t, err, &reason.Error{Reason: reason.DigestMismatch})
	require.NotErrorIs(t, err, &reason.Error{Reason: reason.Duplicate})
	require.Equal(t, "too_deep: 65 levels", reason.New(reason.TooDeep, "%d levels", 65).Error())
	require.Empty(t, reason.Of(cause))
	require.Empty(t, reason.Of(nil))
}
