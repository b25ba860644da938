package tpmextension

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/receipt"
	"github.com/telemark-otel/telemark/internal/tpm"
)

// publicKeyFile is where package tpm writes what verifiers need of the key.
const publicKeyFile = "key.json"

// open brings TPM, key and epoch up, trying again until it works, until
// somebody has to repair something, or until ctx is done. Then it keeps the
// nonce fresh.
func (s *signer) open(ctx context.Context) {
	for attempt := 0; ; attempt++ {
		o, err := s.attempt(ctx)
		if err == nil {
			s.openedNow(o)
			s.enrol(ctx)
			if o.nonces != nil {
				o.nonces.run(ctx)
			}
			return
		}
		if ctx.Err() != nil {
			return
		}
		if fatal(err) {
			s.permanent(err)
			return
		}
		s.trouble(err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(s.backoff(attempt)):
		}
	}
}

// fatal says whether asking again could never mend err. What is not known to
// be so is tried again: a directory in use comes free, a missing package gets
// installed, a full disk is emptied.
func fatal(err error) bool {
	for _, f := range []error{
		tpm.ErrWrongTPM, tpm.ErrHandleTaken, tpm.ErrKeyDamaged, tpm.ErrOtherAlgorithm,
		tpm.ErrUnfit, tpm.ErrBlobs, tpm.ErrContext, tpm.ErrReference, tpm.ErrNoParent, tpm.ErrWrongAuth, tpm.ErrOtherHandle,
		errStateDamaged, errEpochExceeded, errNonceEndpoint,
	} {
		if errors.Is(err, f) {
			return true
		}
	}
	var rc tpm2.TPMRC
	return errors.As(err, &rc) && tpm.Classify(err) == tpm.Permanent
}

// attempt goes on where the one before stopped.
func (s *signer) attempt(ctx context.Context) (*opened, error) {
	if err := s.openKey(ctx); err != nil {
		return nil, err
	}
	kid := s.opening.key.KID()
	if err := s.prepareEnrolment(ctx, kid); err != nil {
		return nil, err
	}
	from, err := s.beginEpoch(ctx, keyFacts{kid: kid, fresh: !s.opening.old, foreign: s.opening.key.Imported()})
	if err != nil {
		return nil, err
	}
	algorithm, err := receipt.ParseAlgorithm(string(s.opening.key.Algorithm()))
	if err != nil {
		return nil, err
	}
	o := &opened{key: s.opening.key, algorithm: algorithm, kid: kid, ueid: receipt.UEID(s.cfg.deployment(), kid), origin: from}
	if nonce := s.cfg.Nonce.Get(); nonce != nil {
		o.nonces, err = newNonceClient(s.nonceHTTP, nonce, kid, s.cfg.Audience, s.logger, func(ctx context.Context) {
			s.telemetry.TPMNonceErrors.Add(ctx, 1)
		})
		if err != nil {
			return nil, err
		}
	}
	return o, nil
}

// beginEpoch returns where this start begins, which is written beside the key
// too. There is one epoch to a start, however many attempts that takes.
func (s *signer) beginEpoch(ctx context.Context, key keyFacts) (_ origin, err error) {
	dir := s.cfg.keyDir()
	if s.cfg.Storage != nil { // a TPM that counts has a time-out of its own
		defer s.watchSaving()()
	}
	if s.opening.from.epoch == 0 {
		if key.floor, err = readFloor(dir, key.kid); err != nil {
			return origin{}, err
		}
		if s.opening.from, err = s.epochs.next(ctx, key); err != nil {
			return origin{}, err
		}
	}
	return s.opening.from, writeFloor(dir, key.kid, s.opening.from.epoch)
}

func (s *signer) openKey(ctx context.Context) error {
	var err error
	if s.opening.dev == nil {
		s.opening.dev, err = tpm.Open(ctx, s.cfg.Device, tpm.Options{
			Algorithm: tpm.Algorithm(s.cfg.Key.Algorithm), CommandTimeout: s.cfg.CommandTimeout, Report: s.report,
		})
		if err != nil {
			s.opening.dev = nil
			return s.failed(ctx, err)
		}
	}
	if s.opening.key == nil {
		dir := s.cfg.keyDir()
		_, err = tpm.ReadKeyInfo(dir)
		// A key.json that was edited or lost makes no key young.
		s.opening.old = s.opening.old || !errors.Is(err, fs.ErrNotExist)
		from, err := s.imports(dir)
		if err != nil {
			return err
		}
		s.opening.key, err = s.opening.dev.OpenKey(ctx, tpm.KeyOptions{Dir: dir, Handle: s.cfg.Key.Handle, Auth: s.auth, Import: from})
		if err != nil {
			s.opening.key = nil
			return s.failed(ctx, err)
		}
		// Nobody knows what an imported key has signed before, from another
		// directory: its epochs may not begin anew.
		s.opening.old = s.opening.old || s.opening.key.Imported()
		s.describe(s.opening.key)
	}
	return nil
}

// openedNow publishes o.
func (s *signer) openedNow(o *opened) {
	s.opened.Store(o)
	// Last: what the first group runs into must not be painted over.
	defer close(s.ready)
	s.logger.Info("signing key is ready",
		zap.String("kid", hex.EncodeToString(o.kid)),
		zap.String("public_key_file", filepath.Join(s.cfg.keyDir(), publicKeyFile)),
		zap.Uint64("epoch", o.origin.epoch))
	if err := s.registry.held(); err != nil {
		s.health.set(stateFailing, err)
		return
	}
	s.health.set(stateReady, nil)
}

// backoff is the pause after the attempt with this number, from 0.
func (s *signer) backoff(attempt int) time.Duration {
	r := s.cfg.Retry
	d := float64(r.InitialInterval) * math.Pow(r.Multiplier, float64(attempt))
	return jitter(time.Duration(min(d, float64(r.MaxInterval))))
}

// failed counts a failure of the TPM and says in words what to look at.
func (s *signer) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	class := tpm.Classify(err)
	s.telemetry.TPMErrors.Add(ctx, 1, metric.WithAttributes(attribute.String("class", class.String())))
	return fmt.Errorf("TPM %s: %w%s", s.cfg.Device, err, advice(s.cfg.Device, class, err))
}

// advice is what a person can do about it.
func advice(device string, class tpm.Class, err error) string {
	hardware := strings.HasPrefix(device, "/dev/")
	switch {
	case hardware && errors.Is(err, fs.ErrPermission):
		return " (add the collector's user to the group of the device, on most systems tss)"
	case hardware && errors.Is(err, fs.ErrNotExist):
		return " (is a TPM 2.0 enabled in the firmware, and is `device` right?)"
	case class == tpm.Lockout:
		return " (dictionary attack lockout: it ends by itself after the TPM's recovery time, or with tpm2_dictionarylockout --clear-lockout)"
	default:
		return ""
	}
}

// trouble says that signing does not work now and is tried again.
func (s *signer) trouble(err error) {
	if s.health.set(stateFailing, err) {
		s.logger.Warn("cannot sign, trying again; blocks wait", zap.Error(err))
	}
}

// permanent says that signing will not work until somebody repairs something.
func (s *signer) permanent(err error) {
	if s.health.set(stateFailed, err) {
		s.logger.Error("cannot sign until this is repaired and the collector is started again; blocks wait", zap.Error(err))
	}
}

func (s *signer) recovered() {
	if s.registry.held() != nil { // a group that was signed just before
		return
	}
	if s.health.set(stateReady, nil) {
		s.logger.Info("signing works again")
	}
}

// report logs what the device has to say.
func (s *signer) report(e tpm.Event) {
	if e.Err != nil {
		s.logger.Warn("TPM: "+e.Message, zap.Error(e.Err))
		return
	}
	s.logger.Info("TPM: " + e.Message)
}
