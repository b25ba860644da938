package tpmextension

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/extensioncapabilities"

	"github.com/telemark-otel/telemark/internal/group"
	"github.com/telemark-otel/telemark/internal/signing"
)

var (
	_ extension.Extension                   = (*tpmExtension)(nil)
	_ extensioncapabilities.Dependent       = (*tpmExtension)(nil)
	_ extensioncapabilities.PipelineWatcher = (*tpmExtension)(nil)

	errStarted = errors.New("the tpm extension is started already")
)

// tpmExtension is the component. Everything that begins with Start and ends
// with Shutdown lives in a signer.
type tpmExtension struct {
	cfg     *Config
	set     extension.Settings
	streams streamNames
	pending pendings

	mu     sync.RWMutex
	signer *signer // nil before Start and after Shutdown
}

func newExtension(cfg *Config, set extension.Settings) *tpmExtension {
	return &tpmExtension{cfg: cfg, set: set}
}

// Dependencies implements extensioncapabilities.Dependent.
func (e *tpmExtension) Dependencies() []component.ID {
	var ids []component.ID
	if e.cfg.Storage != nil {
		ids = append(ids, *e.cfg.Storage)
	}
	if nonce := e.cfg.Nonce.Get(); nonce != nil {
		ids = append(ids, clientDependencies(&nonce.ClientConfig)...)
	}
	if registry := e.cfg.Registry.Get(); registry != nil {
		ids = append(ids, clientDependencies(&registry.ClientConfig)...)
	}
	return ids
}

// Start checks what can be checked without a TPM and opens it in the
// background: a missing TPM or nonce server never holds the Collector up.
func (e *tpmExtension) Start(ctx context.Context, host component.Host) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.signer != nil {
		return errStarted
	}
	s, err := startSigner(ctx, e.cfg, e.set, host)
	if err != nil {
		return err
	}
	e.signer = s
	return nil
}

// Shutdown waits for the group in flight within ctx and closes the TPM.
func (e *tpmExtension) Shutdown(ctx context.Context) error {
	e.mu.Lock()
	s := e.signer
	e.signer = nil
	e.mu.Unlock()
	if s == nil {
		return nil
	}
	return s.shutdown(ctx)
}

// Ready implements extensioncapabilities.PipelineWatcher.
func (*tpmExtension) Ready() error { return nil }

// NotReady implements extensioncapabilities.PipelineWatcher: the collector is
// about to stop its pipelines.
func (e *tpmExtension) NotReady() error {
	if s := e.running(); s != nil {
		s.stop()
	}
	return nil
}

// Stopping is closed when the collector is about to stop its pipelines; it is
// nil when the extension is not started.
func (e *tpmExtension) Stopping() <-chan struct{} {
	if s := e.running(); s != nil {
		return s.stopping.Done()
	}
	return nil
}

func (e *tpmExtension) running() *signer {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.signer
}

// Submit queues leaves for signature, also while the TPM is away; see
// group.Committer. It returns group.ErrClosed when not started.
func (e *tpmExtension) Submit(leaves []group.Leaf) (*group.Ticket, error) {
	s := e.running()
	if s == nil {
		return nil, group.ErrClosed
	}
	return s.committer.Submit(leaves)
}

// OpenStream claims a stream name. What it returns is to be used in leaves:
// the name, or the name with "#2" and so on when it is taken. release gives
// it back and may be called twice.
func (e *tpmExtension) OpenStream(name string) (unique string, release func()) {
	return e.streams.acquire(name)
}

// WatchPending has pending called for Status until stop.
func (e *tpmExtension) WatchPending(stream string, pending func() (blocks int, bytes int64)) (stop func()) {
	return e.pending.watch(stream, pending)
}

// CanSign reports whether the TPM is there and the last attempt to sign, if
// there was one, succeeded.
func (e *tpmExtension) CanSign() bool {
	s := e.running()
	if s == nil {
		return false
	}
	st, _ := s.health.get()
	return st == stateReady
}

// KID returns the Name of the signing key, nil before it is known.
func (e *tpmExtension) KID() []byte {
	if s := e.running(); s != nil {
		if o := s.opened.Load(); o != nil {
			return o.key.KID()
		}
	}
	return nil
}

// Status returns a snapshot for a status page.
func (e *tpmExtension) Status() signing.Status {
	s := e.running()
	if s == nil {
		return signing.Status{State: stateStopped.String(), Device: e.cfg.Device, Audience: e.cfg.Audience}
	}
	status := s.status(time.Now())
	status.Pending = e.pending.ask()
	return status
}
