package nonceextension

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/extensioncapabilities"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/extension/nonceextension/internal/metadata"
	"github.com/telemark-otel/telemark/internal/nonce"
	"github.com/telemark-otel/telemark/internal/replay"
)

// Extension is what verifying processors use. Its methods may be called
// between Start and Shutdown.
type Extension struct {
	cfg       *Config
	set       extension.Settings
	telemetry *metadata.TelemetryBuilder

	// From Start to Shutdown, written by them only.
	client    storage.Client // nil without storage
	authority *nonce.Authority
	windows   *replay.Local
	health    *health
	sweeper   *sweeper
	relay     *relay
	servers   []*server
}

var (
	_ extension.Extension             = (*Extension)(nil)
	_ extensioncapabilities.Dependent = (*Extension)(nil)
)

func newExtension(set extension.Settings, cfg *Config) (*Extension, error) {
	telemetry, err := metadata.NewTelemetryBuilder(set.TelemetrySettings)
	if err != nil {
		return nil, err
	}
	return &Extension{cfg: cfg, set: set, telemetry: telemetry}, nil
}

// Nonces checks the nonces that this server issues; nil on a relay.
func (e *Extension) Nonces() *nonce.Authority { return e.authority }

// Windows keeps what was accepted; nil on a relay.
func (e *Extension) Windows() replay.Store {
	if e.windows == nil {
		return nil
	}
	return e.windows
}

// Limits returns how old a nonce may be and how far clocks may differ.
func (e *Extension) Limits() (maxDelay, skew time.Duration) { return e.cfg.MaxDelay, e.cfg.Skew }

// Dependencies names the storage extension, which has to be started before.
func (e *Extension) Dependencies() []component.ID {
	if e.cfg.Storage == nil {
		return nil
	}
	return []component.ID{*e.cfg.Storage}
}

// Start opens the windows and the listeners.
func (e *Extension) Start(ctx context.Context, host component.Host) error {
	if err := e.start(ctx, host); err != nil {
		return errors.Join(err, e.Shutdown(ctx))
	}
	return nil
}

func (e *Extension) start(ctx context.Context, host component.Host) error {
	e.health = newHealth(host)
	if e.cfg.Upstream.HasValue() {
		return e.startRelay(ctx, host)
	}
	if err := e.open(ctx, host); err != nil {
		return err
	}
	if err := e.listen(ctx, host, "endpoint", &e.cfg.ServerConfig, (&issuer{e}).handler()); err != nil {
		return err
	}
	if err := e.listen(ctx, host, "admin::endpoint", &e.cfg.Admin, (&admin{e}).handler()); err != nil {
		return err
	}
	e.sweeper = startSweeper(e)
	return nil
}

func (e *Extension) startRelay(ctx context.Context, host component.Host) error {
	relay, err := newRelay(ctx, e, host)
	if err != nil {
		return err
	}
	e.relay = relay
	if err := e.listen(ctx, host, "endpoint", &e.cfg.ServerConfig, relay.handler()); err != nil {
		return err
	}
	if e.cfg.Admin.NetAddr.Endpoint == "" {
		return nil
	}
	return e.listen(ctx, host, "admin::endpoint", &e.cfg.Admin, relay.adminHandler())
}

// open gets storage, secret and windows.
func (e *Extension) open(ctx context.Context, host component.Host) error {
	var persister replay.Persister
	if e.cfg.Storage != nil {
		client, err := storageClient(ctx, host, *e.cfg.Storage, e.set.ID)
		if err != nil {
			return err
		}
		e.client = client
		persister = &persisted{client: client, telemetry: e.telemetry, health: e.health}
	} else {
		e.set.Logger.Warn("No `storage` is configured: windows live as long as this process, and a restart makes what was signed before it unacceptable.")
	}
	secret, err := e.secret(ctx)
	if err != nil {
		return err
	}
	options := replay.Options{Limits: e.cfg.limits(), Persister: persister, Random: random}
	if every := e.cfg.WriteInterval; every > 0 {
		options.Pace = (&pace{every: every}).wait
	}
	windows, opened, err := replay.Open(ctx, time.Now(), options)
	if err != nil {
		return fmt.Errorf("open the replay windows: %w", err)
	}
	e.windows = windows
	e.announce(ctx, opened)
	e.authority, err = nonce.NewAuthority(secret, windows.StoreEpoch(), e.cfg.Audience)
	return err
}

func (e *Extension) announce(ctx context.Context, o replay.Opened) {
	epoch := e.windows.StoreEpoch()
	fields := []zap.Field{
		zap.String("store_epoch", fmt.Sprintf("%x", epoch)),
		zap.Int("keys", o.Keys),
		zap.Int("streams", o.Streams),
	}
	switch {
	case o.Lost != nil:
		e.telemetry.NonceStoreLost.Add(ctx, 1)
		e.set.Logger.Error("The replay windows are damaged and were replaced. Everything signed under nonces issued so far is refused as nonce_store_lost.",
			append(fields, zap.Error(o.Lost))...)
	case o.Fresh:
		e.set.Logger.Info("New replay windows.", fields...)
	default:
		e.set.Logger.Info("Replay windows loaded.", fields...)
	}
}

// Shutdown stops listening and closes the windows. It may be called twice, and
// without Start.
func (e *Extension) Shutdown(ctx context.Context) error {
	var errs []error
	if e.sweeper != nil {
		e.sweeper.stop()
		e.sweeper = nil
	}
	for _, s := range e.servers {
		errs = append(errs, s.stop(ctx))
	}
	e.servers = nil
	if e.relay != nil {
		e.relay.upstream.stop()
		e.relay = nil
	}
	if e.windows != nil {
		errs = append(errs, e.windows.Close(ctx))
	}
	if e.client != nil {
		errs = append(errs, e.client.Close(ctx))
		e.client = nil
	}
	e.telemetry.Shutdown()
	return errors.Join(errs...)
}

func random(b []byte) error {
	_, err := rand.Read(b)
	return err
}
