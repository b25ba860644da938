package guest

import (
	"context"
	"fmt"
)

// queue lets one call at a time into the kernel. A call that is given up by its
// caller keeps its place until it is over.
type queue chan struct{}

func newQueue() queue { return make(queue, 1) }

// run calls f, which cannot be interrupted, and returns with ctx at the latest.
func run[T any](ctx context.Context, q queue, what string, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	select {
	case q <- struct{}{}:
	case <-ctx.Done():
		return none, fmt.Errorf("%s: another call is under way: %w", what, ctx.Err())
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-q }()
		value, err := f()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return none, fmt.Errorf("%s: %w", what, r.err)
		}
		return r.value, nil
	case <-ctx.Done():
		return none, fmt.Errorf("%s: the kernel has not answered: %w", what, ctx.Err())
	}
}
