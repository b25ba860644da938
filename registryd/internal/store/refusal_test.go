package store

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

func TestWhatTheStoreSaysBecomesARefusal(t *testing.T) {
	require.NoError(t, Refusal(nil))
	refused := api.Refuse(api.NameTaken, "x")
	require.Same(t, refused, Refusal(fmt.Errorf("in a transaction: %w", refused)))
	for err, reason := range map[error]api.Reason{
		ErrNotFound: api.NotFound, ErrExists: api.Conflict, ErrInvalid: api.BadRequest, ErrUnavailable: api.StoreUnavailable,
		context.Canceled: api.StoreUnavailable, context.DeadlineExceeded: api.StoreUnavailable, errors.New("anything"): api.Internal,
	} {
		got := Refusal(fmt.Errorf("in a transaction: %w", err))
		require.ErrorIs(t, got, &api.Error{Reason: reason}, "%v", err)
		require.ErrorIs(t, got, err, "the cause stays for the log")
	}
}
