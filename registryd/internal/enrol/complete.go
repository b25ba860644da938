package enrol

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

// pendingRetry is when a machine that waits is told to come again.
const pendingRetry = time.Minute

// Complete judges the second request. peer is the client's address, for the
// audit log. A machine that waits for approval has State pending and no error.
func (s *Service) Complete(ctx context.Context, r *api.EnrolmentComplete, peer string) (*api.Enrolment, error) {
	c, err := s.judge(r, peer)
	if err != nil {
		return nil, err
	}
	return s.settle(ctx, c)
}

// settle decides about a claim and writes the outcome, in one transaction.
func (s *Service) settle(ctx context.Context, c *claim) (*api.Enrolment, error) {
	var out *api.Enrolment
	err := store.Refusal(s.o.Store.Update(ctx, func(tx *store.Tx) error {
		d := &decision{service: s, tx: tx, claim: c}
		if err := d.decide(); err != nil {
			return err
		}
		var err error
		out, err = d.write()
		return err
	}))
	if err != nil {
		s.noteRefusal(ctx, c, err)
		return nil, err
	}
	s.o.Logger.Debug("enrolment", zap.String("machine", out.Machine), zap.String("name", out.Name),
		zap.String("kid", out.KID), zap.String("state", string(out.State)), zap.String("evidence", string(out.Evidence)))
	return out, nil
}

// asRefusal returns the refusal in err.
func asRefusal(err error) *api.Error {
	if e, ok := errors.AsType[*api.Error](err); ok {
		return e
	}
	return api.Because(api.Internal, err)
}
