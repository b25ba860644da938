package enrol

import (
	"context"
	"crypto/rand"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// Judge is Complete without the store.
func (s *Service) Judge(r *api.EnrolmentComplete) error {
	_, err := s.judge(r, "")
	return err
}

// CompleteAgain is Complete of a request as if it came in another session, so
// that benchmarks need no TPM for each.
func (s *Service) CompleteAgain(ctx context.Context, r *api.EnrolmentComplete) error {
	c, err := s.judge(r, "")
	if err != nil {
		return err
	}
	_, _ = rand.Read(c.session.id[:])
	_, err = s.settle(ctx, c)
	return err
}
