package tpmverifyprocessor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/extension/xextension/storage"

	"github.com/telemark-otel/telemark/internal/nonce"
	"github.com/telemark-otel/telemark/internal/replay"
	"github.com/telemark-otel/telemark/internal/verdict"
)

// nonceExtension is what is needed of the nonce extension, and how it is
// recognised.
type nonceExtension interface {
	// Nonces returns what checks nonces, nil on an instance that only relays.
	Nonces() *nonce.Authority
	// Windows returns the replay windows, nil on an instance that only relays.
	Windows() replay.Store
	// Limits returns how long a block may travel after its nonce was issued,
	// and how far clocks may differ.
	Limits() (maxDelay, skew time.Duration)
}

// keySource knows keys, and which machines they stand for: a key file, or a
// registry.
type keySource interface {
	verdict.KeySource

	// Names reports whether an attribute that is bound names an enrolled
	// machine by this value. Binds says quickly that an attribute is not bound.
	Names(attribute, value string) bool
	Binds(attribute string) bool

	// Start returns an error when there is nothing to begin with. What goes
	// wrong later is reported through status, and Lookup then answers from what
	// was known, or verdict.ErrUnavailable where that would be guessing.
	Start(ctx context.Context, status func(*componentstatus.Event)) error
	Shutdown(ctx context.Context) error
}

// liveKeys is a key source that asks somebody else for what it does not know.
type liveKeys interface {
	// Changed returns a channel that is closed when it knows more than before.
	Changed() <-chan struct{}
	// Asking reports whether an answer about some key may come soon.
	Asking() bool
	// Known reports whether it has ever known all keys: until then it cannot
	// say whom unsigned data names.
	Known() bool
}

// Errors of Start.
var (
	errNoNonce   = errors.New("tpmverify: there is no nonce extension: add one under extensions and service::extensions (mode check does without)")
	errTwoNonces = errors.New("tpmverify: there is more than one nonce extension: name one under nonce")
	errRelay     = errors.New("tpmverify: the nonce extension only relays and keeps no windows: take mode check here, or an issuing one")
)

func (p *verifier) findNonces(host component.Host) error {
	ext, err := findNonceExtension(host, p.cfg.Nonce)
	if err != nil {
		return err
	}
	if p.cfg.Mode == ModeCheck {
		p.nonces = ext
		return nil
	}
	if ext == nil {
		return errNoNonce
	}
	if ext.Nonces() == nil || ext.Windows() == nil {
		return errRelay
	}
	p.nonces, p.windows = ext, ext.Windows()
	return nil
}

// findNonceExtension returns nil when none is named and there is none.
func findNonceExtension(host component.Host, id *component.ID) (nonceExtension, error) {
	extensions := host.GetExtensions()
	if id != nil {
		c, ok := extensions[*id]
		if !ok {
			return nil, fmt.Errorf("tpmverify: nonce: there is no extension %q under service::extensions", id)
		}
		ext, ok := c.(nonceExtension)
		if !ok {
			return nil, fmt.Errorf("tpmverify: nonce: extension %q is not a nonce extension", id)
		}
		return ext, nil
	}
	var found nonceExtension
	for _, c := range extensions {
		ext, ok := c.(nonceExtension)
		if !ok {
			continue
		}
		if found != nil {
			return nil, errTwoNonces
		}
		found = ext
	}
	return found, nil
}

func storageClient(ctx context.Context, host component.Host, id, owner component.ID, name string) (storage.Client, error) {
	c, ok := host.GetExtensions()[id]
	if !ok {
		return nil, fmt.Errorf("tpmverify: park::storage: there is no extension %q under service::extensions", id)
	}
	ext, ok := c.(storage.Extension)
	if !ok {
		return nil, fmt.Errorf("tpmverify: park::storage: extension %q is not a storage extension", id)
	}
	client, err := ext.GetClient(ctx, component.KindProcessor, owner, name)
	if err != nil {
		return nil, fmt.Errorf("tpmverify: park::storage: open %q: %w", id, err)
	}
	return client, nil
}

// scopeRegistry knows the scopes in use in this process, for each set of
// windows. Two instances that share a scope would each drop as duplicates what
// the other one delivered.
type scopeRegistry struct {
	mu    sync.Mutex
	taken map[scopeKey]component.ID
}

type scopeKey struct {
	windows replay.Store
	scope   string
}

var scopes = scopeRegistry{taken: map[scopeKey]component.ID{}}

func (r *scopeRegistry) take(windows replay.Store, scope string, id component.ID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := scopeKey{windows, scope}
	if other, ok := r.taken[key]; ok {
		return fmt.Errorf("tpmverify: %q and %q would share the replay windows of scope %q, and each drop what the other one delivered: "+
			"use an instance in one pipeline of a signal only, name further ones apart (tpmverify/NAME), or set scope", other, id, scope)
	}
	r.taken[key] = id
	return nil
}

func (r *scopeRegistry) give(windows replay.Store, scope string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.taken, scopeKey{windows, scope})
}
