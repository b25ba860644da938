package api_test

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

var update = flag.Bool("update", false, "write docs/guide/registry-reasons.md")

const page = "../../../docs/guide/registry-reasons.md"

func render() string {
	var b strings.Builder
	b.WriteString("# Reasons of the registry\n\nWhy registryd refuses a request. The same word stands in the member `reason` of its answers, in its log, in the\n" +
		"label `reason` of its metrics and in what `telemark` prints. \"again\" says whether the same request may succeed later\nwithout anybody changing anything.\n\n")
	b.WriteString("| reason | status | again | what happened, what to do |\n|---|---|---|---|\n")
	for _, r := range api.Reasons() {
		again := ""
		if r.Retryable() {
			again = "yes"
		}
		fmt.Fprintf(&b, "| `%s` | %d %s | %s | %s |\n", r, r.Status(), http.StatusText(r.Status()), again, r.Help())
	}
	return b.String()
}

func TestPageOfReasonsIsCurrent(t *testing.T) {
	if *update {
		require.NoError(t, os.WriteFile(page, []byte(render()), 0o600))
	}
	got, err := os.ReadFile(page)
	require.NoError(t, err)
	require.Equal(t, render(), string(got), "run: go test ./internal/registry/api -update")
}

func TestEveryReasonIsUsable(t *testing.T) {
	word := regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)
	seen := map[api.Reason]bool{}
	for _, r := range api.Reasons() {
		require.False(t, seen[r], "%s stands twice", r)
		seen[r] = true
		require.Regexp(t, word, string(r))
		require.True(t, r.Known())
		require.GreaterOrEqual(t, r.Status(), 400, r)
		require.NotEmpty(t, http.StatusText(r.Status()), r)
		require.NotContains(t, r.Help(), "|", "it stands in a table")
		require.True(t, strings.HasSuffix(r.Help(), "."), r)
	}
	require.False(t, api.Reason("nothing").Known())
	require.Equal(t, http.StatusInternalServerError, api.Reason("nothing").Status())
}
