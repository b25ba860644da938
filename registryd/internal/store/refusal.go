package store

import (
	"context"
	"errors"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// Refusal turns what a transaction returned into what a caller of the registry
// is told, an *api.Error; a refusal of the function inside stays what it is, and
// nil stays nil.
func Refusal(err error) error {
	if err == nil {
		return nil
	}
	if refused, ok := errors.AsType[*api.Error](err); ok {
		return refused
	}
	switch {
	case errors.Is(err, ErrNotFound):
		return api.Because(api.NotFound, err)
	case errors.Is(err, ErrExists):
		return api.Because(api.Conflict, err)
	case errors.Is(err, ErrInvalid):
		return &api.Error{Reason: api.BadRequest, Detail: "a name, key, filter or cursor is of a form that nothing here has", Err: err}
	case errors.Is(err, ErrUnavailable), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return api.Because(api.StoreUnavailable, err)
	default:
		return api.Because(api.Internal, err)
	}
}
