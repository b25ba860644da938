package tpmextension

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"
	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/extension/tpmextension/internal/metadata"
	"github.com/telemark-otel/telemark/internal/group"
	"github.com/telemark-otel/telemark/internal/location"
	"github.com/telemark-otel/telemark/internal/receipt"
	"github.com/telemark-otel/telemark/internal/tpm"
)

// errOpening is the status until the TPM answered for the first time.
var errOpening = errors.New("waiting for the TPM to open")

// signer is one life of the extension, from Start to Shutdown.
type signer struct {
	cfg       *Config
	logger    *zap.Logger
	telemetry *metadata.TelemetryBuilder
	health    health
	auth      []byte          // of a new key; nil = random
	location  location.Source // nil = no claim
	nonceHTTP *http.Client    // nil = no nonces
	registry  *registry       // nil = none
	epochs    epochSource
	committer *group.Committer

	stopping context.Context // ends when the collector is about to stop its pipelines
	stop     context.CancelFunc

	cancel     context.CancelFunc // ends background
	background sync.WaitGroup     // the opener and, after it, the nonce client

	// opening is the opener's own, and after it shutdown's.
	opening struct {
		dev  *tpm.Device
		key  *tpm.Key
		old  bool   // the key was there before this start
		from origin // zero until there is one
	}

	opened atomic.Pointer[opened]
	ready  chan struct{} // closed when opened is set

	// The last signed group, for status.
	last struct {
		sync.Mutex
		at    time.Time
		stats group.Stats
	}
}

// opened is what is known once TPM, key and epoch are there. It never changes.
type opened struct {
	key       *tpm.Key
	algorithm receipt.Algorithm
	kid       []byte
	ueid      []byte
	origin    origin
	nonces    *nonceClient // nil = no nonces
}

func startSigner(ctx context.Context, cfg *Config, set extension.Settings, host component.Host) (_ *signer, err error) {
	s := &signer{cfg: cfg, logger: set.Logger, ready: make(chan struct{})}
	s.stopping, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	if s.auth, err = readAuthFile(errAuthFile, cfg.Key.AuthFile); err != nil {
		return nil, err
	}
	var live location.Live
	if s.location, live, err = cfg.Location.open(reportLocation(set.Logger)); err != nil {
		return nil, err
	}
	if nonce := cfg.Nonce.Get(); nonce != nil {
		if s.nonceHTTP, err = nonce.ToClient(ctx, host.GetExtensions(), set.TelemetrySettings); err != nil {
			return nil, err
		}
	}
	if s.telemetry, err = metadata.NewTelemetryBuilder(set.TelemetrySettings); err != nil {
		return nil, err
	}
	if s.registry, err = openRegistry(ctx, cfg, set, host); err != nil {
		return nil, err
	}
	if s.epochs, err = s.openEpochs(ctx, host, set.ID); err != nil {
		return nil, errors.Join(err, s.registry.close(ctx))
	}
	if s.committer, err = group.New(s.groupConfig()); err != nil {
		return nil, errors.Join(err, s.epochs.close(ctx), s.registry.close(ctx))
	}
	if err = s.observe(); err != nil {
		return nil, errors.Join(err, s.committer.Close(ctx), s.epochs.close(ctx), s.registry.close(ctx))
	}
	s.health.begin(host)
	s.health.set(stateOpening, errOpening)
	var run context.Context
	run, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.background.Go(func() { s.open(run) })
	if live != nil {
		s.background.Go(func() { live.Run(run) })
	}
	return s, nil
}

func (s *signer) openEpochs(ctx context.Context, host component.Host, self component.ID) (epochSource, error) {
	if s.cfg.Storage == nil {
		return countedEpochs{now: time.Now, increment: func(ctx context.Context) (uint64, error) {
			value, err := s.opening.dev.Increment(ctx, s.cfg.NVIndex)
			if err != nil {
				err = s.failed(ctx, err)
			}
			return value, err
		}}, nil
	}
	client, err := openStorage(ctx, host, *s.cfg.Storage, self)
	if err != nil {
		return nil, err
	}
	return &storedEpochs{client: client, now: time.Now}, nil
}

// shutdown waits for the group in flight while ctx allows, but no longer than
// a TPM that works would take: the Collector's own context has no end.
func (s *signer) shutdown(ctx context.Context) error {
	s.stop()
	s.health.end()
	bounded, cancel := context.WithTimeout(ctx, 2*s.cfg.CommandTimeout)
	defer cancel()
	err := s.committer.Close(bounded)
	s.cancel()
	s.background.Wait()
	s.telemetry.Shutdown()
	if s.opening.key != nil {
		err = errors.Join(err, s.opening.key.Close())
	}
	if s.opening.dev != nil {
		err = errors.Join(err, s.opening.dev.Close())
	}
	if s.nonceHTTP != nil {
		s.nonceHTTP.CloseIdleConnections()
	}
	// Last, and for the second time: the committer may still write to storage.
	ended, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.CommandTimeout)
	defer cancel()
	return errors.Join(err, s.committer.Close(ended), s.epochs.close(ended), s.registry.close(ended))
}

// Sign implements group.Signer: one attempt.
func (s *signer) Sign(ctx context.Context, digest []byte) ([]byte, error) {
	o := s.opened.Load()
	sig, err := o.key.Sign(ctx, digest)
	if err != nil {
		return nil, s.failed(ctx, err)
	}
	return sig, nil
}

// GroupSigned implements group.Observer.
func (s *signer) GroupSigned(stats group.Stats) {
	ctx := context.Background()
	s.telemetry.TPMGroups.Add(ctx, 1)
	s.telemetry.TPMGroupSize.Record(ctx, int64(stats.Leaves))
	s.telemetry.TPMSigningDuration.Record(ctx, stats.Signing.Seconds())
	s.last.Lock()
	s.last.at, s.last.stats = time.Now(), stats
	s.last.Unlock()
	s.recovered()
}

// AttemptFailed implements group.Observer.
func (s *signer) AttemptFailed(_ group.Stage, _ int, err error) { s.trouble(err) }

// begin implements group.Config.Begin: it waits for the TPM.
func (s *signer) begin(ctx context.Context) (group.Origin, error) {
	select {
	case <-s.ready:
		o := s.opened.Load()
		return group.Origin{Algorithm: o.algorithm, KID: o.kid, Epoch: o.origin.epoch, Prev: o.origin.prev}, nil
	case <-ctx.Done():
		return group.Origin{}, context.Cause(ctx)
	}
}

func (s *signer) groupConfig() group.Config {
	return group.Config{
		Begin:      s.begin,
		MaxGroup:   s.cfg.MaxGroup,
		MaxWaiting: s.cfg.MaxWaiting,
		Pace:       s.cfg.GroupInterval,
		Signer:     s,
		Chain:      s,
		Claims:     s.claims,
		Backoff:    func(attempt int) time.Duration { return s.backoff(attempt - 1) },
		Observer:   s,
	}
}

// errSaving says so while a storage does not answer, for which nobody else may be
// asked: the writes of a chain come one after the other.
var errSaving = errors.New("the storage has not written the chain state yet; does its disk hang?")

// Save implements group.Chain.
func (s *signer) Save(ctx context.Context, state group.State) error {
	defer s.watchSaving()()
	return s.epochs.save(ctx, s.opened.Load().kid, state)
}

// watchSaving says so when a storage takes long, until done is called.
func (s *signer) watchSaving() (done func()) {
	var mu sync.Mutex
	saved := false
	late := time.AfterFunc(s.cfg.CommandTimeout, func() {
		mu.Lock()
		defer mu.Unlock()
		if !saved { // or signing may have been said to work again by now
			s.trouble(errSaving)
		}
	})
	return func() {
		late.Stop()
		mu.Lock()
		defer mu.Unlock()
		saved = true
	}
}

// claims gathers what a group says beside its root. It waits for a lease of
// the key, where there is a registry, and for a nonce.
func (s *signer) claims(ctx context.Context) (group.Claims, error) {
	o := s.opened.Load()
	c := group.Claims{Audience: s.cfg.Audience, UEID: o.ueid}
	for asked := false; !asked || s.registry.held() != nil; asked = true { // waiting for the one may outlast the other
		if err := s.registry.wait(ctx); err != nil {
			return group.Claims{}, err
		}
		var err error
		if c.Nonce, err = s.nonce(ctx, o); err != nil {
			return group.Claims{}, err
		}
	}
	c.IssuedAt = time.Now()
	c.Location = s.locate(c.IssuedAt)
	return c, nil
}

// nonce returns the nonce to sign under, nil without a nonce server.
func (s *signer) nonce(ctx context.Context, o *opened) ([]byte, error) {
	if o.nonces == nil {
		return nil, nil
	}
	waited := false
	nonce, err := o.nonces.get(ctx, func(why error) { waited = true; s.trouble(why) })
	s.registry.passed(o.nonces.issued())
	if err == nil && waited {
		s.recovered() // though the blocks may have been taken back meanwhile
	}
	return nonce, err
}

func (s *signer) locate(now time.Time) *receipt.Location {
	if s.location == nil {
		return nil
	}
	return s.location.Location(now)
}
