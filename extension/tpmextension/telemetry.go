package tpmextension

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/telemark-otel/telemark/internal/signing"
)

// observe registers what is read when somebody collects.
func (s *signer) observe() error {
	err := errors.Join(
		s.telemetry.RegisterTPMEnrolmentStateCallback(s.observeEnrolmentState),
		s.telemetry.RegisterTPMEpochCallback(s.observeEpoch),
		s.telemetry.RegisterTPMLeaseRemainingCallback(s.observeLeaseRemaining),
		s.telemetry.RegisterTPMNonceAgeCallback(s.observeNonceAge),
		s.telemetry.RegisterTPMUpCallback(s.observeUp),
		s.telemetry.RegisterTPMWaitingCallback(s.observeWaiting),
	)
	if err != nil {
		s.telemetry.Shutdown()
		return fmt.Errorf("register internal metrics: %w", err)
	}
	return nil
}

func (s *signer) observeEpoch(_ context.Context, o metric.Int64Observer) error {
	if opened := s.opened.Load(); opened != nil {
		o.Observe(int64(opened.origin.epoch))
	}
	return nil
}

func (s *signer) observeNonceAge(_ context.Context, o metric.Float64Observer) error {
	if age, ok := s.nonceAge(time.Now()); ok {
		o.Observe(age.Seconds())
	}
	return nil
}

func (s *signer) observeUp(_ context.Context, o metric.Int64Observer) error {
	up := int64(0)
	if st, _ := s.health.get(); st == stateReady {
		up = 1
	}
	o.Observe(up)
	return nil
}

func (s *signer) observeWaiting(_ context.Context, o metric.Int64Observer) error {
	o.Observe(int64(s.committer.Stats().Waiting))
	return nil
}

func (s *signer) nonceAge(now time.Time) (time.Duration, bool) {
	o := s.opened.Load()
	if o == nil || o.nonces == nil {
		return 0, false
	}
	return o.nonces.age(now)
}

// status is the snapshot for status pages.
func (s *signer) status(now time.Time) signing.Status {
	state, err := s.health.get()
	stats := s.committer.Stats()
	out := signing.Status{
		State:    state.String(),
		Error:    message(err),
		Device:   s.cfg.Device,
		Audience: s.cfg.Audience,
		Seq:      stats.Seq,
		Streams:  stats.Streams,
		Waiting:  stats.Waiting,

		Enrolment: s.registry.status(now),
	}
	if o := s.opened.Load(); o != nil {
		info := o.key.Info()
		out.KID, out.Alg, out.PublicKey, out.Epoch = hex.EncodeToString(o.kid), info.Alg, info.PublicKey, o.origin.epoch
		if o.nonces != nil {
			out.NonceError = message(o.nonces.err())
		}
	}
	if age, ok := s.nonceAge(now); ok {
		seconds := age.Seconds()
		out.NonceAgeSeconds = &seconds
	}
	s.last.Lock()
	defer s.last.Unlock()
	out.LastSigned, out.LastSigningSeconds = s.last.at, s.last.stats.Signing.Seconds()
	return out
}
