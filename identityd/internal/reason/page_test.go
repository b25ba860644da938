package reason_test

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
)

var update = flag.Bool("update", false, "write docs/guide/identity-reasons.md")

const page = "../../../docs/guide/identity-reasons.md"

func render() string {
	var b strings.Builder
	b.WriteString("# Reasons of identityd\n\nWhy identityd refuses a request, or to start. The same word stands in the member `reason` of its answers, in its log, in\n" +
		"the label `reason` of its metrics and in what `telemark` prints. \"again\" says whether the same request may succeed later\nwithout anybody changing anything.\n\n")
	b.WriteString("| reason | status | again | what happened, what to do |\n|---|---|---|---|\n")
	for _, r := range reason.Reasons() {
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
	require.Equal(t, render(), string(got), "run: go test ./identityd/internal/reason -update")
}
