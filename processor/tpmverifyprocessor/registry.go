package tpmverifyprocessor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/policy"
	"github.com/telemark-otel/telemark/internal/registry"
	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/verdict"
)

const (
	// firstAnswer is how long the start waits for the registry. Whatever comes
	// before its first answer waits for it.
	firstAnswer = 3 * time.Second
	// maxPinFile bounds the file of pinned keys in bytes.
	maxPinFile = 64 << 10
	// downAfter is how long the registry may be out of reach before the
	// component's status says so: a restart is no incident.
	downAfter = 5 * time.Second
)

// newKeys returns the configured source of keys.
func (p *verifier) newKeys(host component.Host, defaults *policy.Policy) keySource {
	if !p.cfg.Keys.Registry.HasValue() {
		return newFileKeys(p.cfg.Keys, defaults, p.logger, p.meters)
	}
	return &registryKeys{
		cfg:      p.cfg.Keys.Registry.Get(),
		id:       p.id,
		defaults: defaults,
		host:     host,
		set:      p.set,
		logger:   p.logger,
		meters:   p.meters,
		now:      p.now,
	}
}

// registryKeys is the key source over a registry. Instances with the same
// section share one client, so that a collector has one stream of events however
// many pipelines it has.
type registryKeys struct {
	cfg      *RegistryConfig
	id       component.ID
	defaults *policy.Policy
	host     component.Host
	set      component.TelemetrySettings
	logger   *zap.Logger
	meters   *meters
	now      func() time.Time

	// Set by Start.
	shared *sharedRegistry
	keys   *registry.Keys
	status func(*componentstatus.Event)

	// Owned by observe, whose calls take turns.
	down  time.Time // since when it is out of reach, zero when it is not
	bad   bool      // the status says so
	count int       // keys, as last recorded
}

// Lookup implements verdict.KeySource.
func (k *registryKeys) Lookup(kid []byte) (*verdict.Key, error) { return k.keys.Lookup(kid) }

// Recheck implements verdict.Rechecker.
func (k *registryKeys) Recheck(kid []byte) error { return k.keys.Recheck(kid) }

// Names implements keySource.
func (k *registryKeys) Names(attribute, value string) bool { return k.keys.Names(attribute, value) }

// Binds implements keySource.
func (k *registryKeys) Binds(attribute string) bool { return k.keys.Binds(attribute) }

// Changed implements liveKeys.
func (k *registryKeys) Changed() <-chan struct{} { return k.keys.Changed() }

// Asking implements liveKeys.
func (k *registryKeys) Asking() bool { return k.keys.Asking() }

// Known implements liveKeys.
func (k *registryKeys) Known() bool { return k.keys.Known() }

// Start fails only where no answer could ever be believed: without pinned keys
// or with a connection that cannot be set up. A registry that is out of reach
// makes blocks wait.
func (k *registryKeys) Start(ctx context.Context, status func(*componentstatus.Event)) error {
	k.status, k.count = status, -1
	shared, err := registries.take(ctx, k)
	if err != nil {
		return fmt.Errorf("tpmverify: keys::registry: %w", err)
	}
	k.shared = shared
	return nil
}

// Shutdown gives the client up; the last one closes it.
func (k *registryKeys) Shutdown(context.Context) error {
	if k.shared == nil {
		return nil
	}
	shared := k.shared
	k.shared = nil
	if err := registries.give(shared, k); err != nil {
		return fmt.Errorf("tpmverify: keys::registry: %w", err)
	}
	return nil
}

// open makes the client, with this instance as the one that reports for it.
func (k *registryKeys) open(ctx context.Context, observer registry.Observer) (*registry.Client, error) {
	pinned, err := readPins(k.cfg.PinFile, k.logger)
	if err != nil {
		return nil, fmt.Errorf("pin_file: %w", err)
	}
	client, err := registry.New(registry.Options{
		Endpoint: k.cfg.Endpoint,
		HTTP: func(ctx context.Context) (*http.Client, error) {
			return k.cfg.ToClient(ctx, k.host.GetExtensions(), k.set)
		},
		Verifier: pinned,
		Cache:    k.cfg.Cache,
		Refresh:  k.cfg.Refresh,
		MaxStale: k.cfg.MaxStale,
		Skew:     k.cfg.Skew,
		Timeout:  k.cfg.Timeout,
		Logger:   k.logger,
		Observer: observer,
		Now:      k.now,
	})
	if err != nil {
		return nil, err
	}
	if err := client.Start(ctx, firstAnswer); err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return client, nil
}

// observe records how it stands, and puts it into the component's status.
func (k *registryKeys) observe(s registry.Status) {
	if s.Keys != k.count {
		k.count = s.Keys
		k.meters.TpmverifyKeys.Record(context.Background(), int64(s.Keys), k.meters.signal)
	}
	now := k.now()
	switch {
	case s.Err == nil:
		k.down = time.Time{}
	case k.down.IsZero():
		k.down = now
	}
	_, refused := errors.AsType[*registry.RefusedError](s.Err)
	bad := s.Err != nil && (refused || !s.Usable || now.Sub(k.down) >= downAfter)
	if bad == k.bad {
		return
	}
	k.bad = bad
	if bad {
		k.status(componentstatus.NewRecoverableErrorEvent(fmt.Errorf("keys::registry: %w", s.Err)))
		return
	}
	k.status(componentstatus.NewEvent(componentstatus.StatusOK))
}

// readPins reads the public keys that answers are held against.
func readPins(path string, logger *zap.Logger) (*answer.Verifier, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New(path + " is not a regular file")
	}
	content, err := io.ReadAll(io.LimitReader(f, maxPinFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(content) > maxPinFile {
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxPinFile)
	}
	if info.Mode().Perm()&0o002 != 0 {
		logger.Warn("everybody on this machine may write the pinned keys, and so pass for the registry", zap.String("file", path))
	}
	v, err := answer.NewVerifier(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return v, nil
}

var (
	_ keySource         = (*registryKeys)(nil)
	_ liveKeys          = (*registryKeys)(nil)
	_ verdict.Rechecker = (*registryKeys)(nil)
)
