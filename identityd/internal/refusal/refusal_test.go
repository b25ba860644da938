package refusal_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/refusal"
	"github.com/telemark-otel/telemark/identityd/internal/storage"
	"github.com/telemark-otel/telemark/identityd/internal/workload"
	"github.com/telemark-otel/telemark/internal/identity/persist"
	"github.com/telemark-otel/telemark/internal/identity/unlock"
	"github.com/telemark-otel/telemark/internal/tdx/guest"
)

// words are the constants of type Reason of a package.
func words(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	var out []string
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		require.NoError(t, err)
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			if of, ok := spec.Type.(*ast.Ident); ok && of.Name == "Reason" && len(spec.Values) == 1 {
				word, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
				require.NoError(t, err)
				out = append(out, word)
			}
			return true
		})
	}
	require.Greater(t, len(out), 10, dir)
	return out
}

// The owner's tool gives these, the VM never does.
var ofTheTool = map[unlock.Reason]bool{
	unlock.QuoteMismatch: true, unlock.NonceMismatch: true, unlock.SignerInvalid: true,
}

func TestNoReasonOfARoomIsLost(t *testing.T) {
	rooms := map[string]func(string) error{
		"../storage": func(w string) error {
			return &storage.Error{Reason: storage.Reason(w), Detail: "what was found"}
		},
		"../workload": func(w string) error {
			return &workload.Error{Reason: workload.Reason(w), Doing: "what was found"}
		},
		"../../../internal/identity/unlock": func(w string) error {
			return &unlock.Error{Reason: unlock.Reason(w), Detail: "what was found"}
		},
	}
	for dir, make := range rooms {
		for _, w := range words(t, dir) {
			if ofTheTool[unlock.Reason(w)] {
				continue
			}
			got := refusal.Of(fmt.Errorf("register the owner: %w", make(w)))
			require.NotEqual(t, reason.Internal, got.Reason, "%s of %s has no word in package reason", w, dir)
			require.True(t, got.Reason.Known(), w)
			require.Equal(t, "what was found", got.Detail)
		}
	}
}

func TestErrorsWithoutAReasonGetOne(t *testing.T) {
	require.Nil(t, refusal.Of(nil))
	for err, want := range map[error]reason.Reason{
		errors.New("disk on fire"):                    reason.Internal,
		context.DeadlineExceeded:                      reason.CallTimeout,
		persist.Validate([]string{"../etc"}):          reason.PersistDirsInvalid,
		fmt.Errorf("quote: %w", guest.ErrNoTDX):       reason.QuoteUnavailable,
		fmt.Errorf("extend: %w", guest.ErrReadOnly):   reason.EventLogUnavailable,
		&storage.Error{Reason: "invented"}:            reason.Internal,
		reason.Refuse(reason.TokenUsed, "long since"): reason.TokenUsed,
	} {
		got := refusal.Of(err)
		require.Equal(t, want, got.Reason, "%v", err)
		require.ErrorIs(t, got, err)
	}
}
