package reason_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
)

func TestEveryReasonIsUsable(t *testing.T) {
	word := regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)
	seen := map[reason.Reason]bool{}
	for _, r := range reason.Reasons() {
		require.False(t, seen[r], "%s stands twice", r)
		seen[r] = true
		require.Regexp(t, word, string(r))
		require.True(t, r.Known())
		require.GreaterOrEqual(t, r.Status(), 400, r)
		require.NotEmpty(t, http.StatusText(r.Status()), r)
		require.NotContains(t, r.Help(), "|", "it stands in a table")
		require.True(t, strings.HasSuffix(r.Help(), "."), r)
	}
	require.False(t, reason.Reason("nothing").Known())
	require.Equal(t, http.StatusInternalServerError, reason.Reason("nothing").Status())
}

func TestEveryConstantStandsInTheTable(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "reason.go", nil, 0)
	require.NoError(t, err)
	var constants int
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if name, ok := spec.Type.(*ast.Ident); ok && name.Name == "Reason" {
			word, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			require.NoError(t, err)
			require.True(t, reason.Reason(word).Known(), word)
			constants++
		}
		return true
	})
	require.Len(t, reason.Reasons(), constants)
}

func TestReasonIsFoundThroughWrapping(t *testing.T) {
	cause := errors.New("disk is full")
	err := fmt.Errorf("write: %w", reason.Because(reason.StateUnavailable, cause))
	require.Equal(t, reason.StateUnavailable, reason.Of(err))
	require.ErrorIs(t, err, &reason.Error{Reason: reason.StateUnavailable})
	require.NotErrorIs(t, err, &reason.Error{Reason: reason.StateRollback})
	require.ErrorIs(t, err, cause)
	require.Equal(t, reason.Internal, reason.Of(cause))
	require.Empty(t, reason.Of(nil))
	require.True(t, reason.StateUnavailable.Retryable())
	require.False(t, reason.TokenUsed.Retryable())
	require.Equal(t, "token_used: twice", reason.Refuse(reason.TokenUsed, "twice").Error())
}
