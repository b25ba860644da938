package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/identityd/internal/attest"
	"github.com/telemark-otel/telemark/identityd/internal/config"
	"github.com/telemark-otel/telemark/identityd/internal/control"
	"github.com/telemark-otel/telemark/identityd/internal/measure"
	"github.com/telemark-otel/telemark/identityd/internal/metrics"
	"github.com/telemark-otel/telemark/identityd/internal/proxy"
	"github.com/telemark-otel/telemark/identityd/internal/registrar"
	"github.com/telemark-otel/telemark/identityd/internal/server"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/identityd/internal/storage"
	"github.com/telemark-otel/telemark/identityd/internal/workload"
	"github.com/telemark-otel/telemark/internal/daemon"
	"github.com/telemark-otel/telemark/internal/tdx/guest"
)

// program is an identityd with all its parts.
type program struct {
	config  *config.Config
	logger  *zap.Logger
	doors   *doors
	metrics *metrics.Metrics

	runDir, stateDir *state.Root
	disk             *storage.Disk
	machine          *state.Machine
	attest           *attest.Service
	events           *measure.Log
	engine           *engine
	workload         *workload.Manager
	registrar        *registrar.Registrar // nil when nobody is told
	control          atomic.Pointer[control.Control]
	tls              *ecdsa.PrivateKey
	tlsHash          []byte // nil when nothing is served with it
	ssh              ed25519.PrivateKey
	certificate      *attest.Certificate
	proxy            *proxy.Proxy // nil without
	server           *server.Server

	background sync.WaitGroup
	closers    []func(context.Context) error // in the order of opening
}

// open puts the parts together. What the configuration and the machine lack is
// found before anything is begun; what did run runs again when it returns.
func open(ctx context.Context, c *config.Config, d *doors, logger *zap.Logger) (_ *program, err error) {
	p := &program{config: c, logger: logger, doors: d, metrics: metrics.New()}
	defer func() {
		if err != nil {
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
			defer cancel()
			err = errors.Join(err, p.close(end))
		}
	}()
	files, err := readFiles(c)
	if err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context) error{
		p.openDisk, p.openState, p.openEvidence, p.openKeys, p.openWorkload,
		func(context.Context) error { return p.openRegistrar(files) },
		func(ctx context.Context) error { return p.openControl(ctx, files) },
		p.openServer,
	} {
		if err := step(ctx); err != nil {
			return nil, daemon.Failed(err)
		}
	}
	for _, what := range p.warnings() {
		logger.Warn("Not protected.", zap.String("what", what))
	}
	return p, nil
}

// onClose has something closed when the program ends, in reverse order.
func (p *program) onClose(fn func(context.Context) error) { p.closers = append(p.closers, fn) }

// close ends what was opened, and goes on where something fails.
func (p *program) close(ctx context.Context) error {
	var errs []error
	for _, fn := range slices.Backward(p.closers) {
		errs = append(errs, fn(ctx))
	}
	p.closers = nil
	return errors.Join(errs...)
}

func (p *program) openDisk(ctx context.Context) error {
	var err error
	if p.runDir, err = state.OpenRunDir(p.config.RunDir, p.config.Dev); err != nil {
		return fmt.Errorf("--run-dir %s: %w", p.config.RunDir, err)
	}
	p.onClose(func(context.Context) error { return p.runDir.Close() })
	p.disk, err = storage.Open(ctx, storage.Options{Path: p.config.StoragePath, Exec: p.config.PersistExec, Logger: p.logger.Named("storage")})
	if err != nil {
		return err
	}
	p.onClose(p.disk.Close)
	return nil
}

// nameState is where the state lies under STORAGE_PATH.
const nameState = "state"

func (p *program) openState(context.Context) error {
	boot, err := bootID(p.config.BootID)
	if err != nil {
		return err
	}
	// STORAGE_PATH is the host's, who may have put a link there.
	root, err := os.OpenRoot(p.config.StoragePath)
	if err != nil {
		return fmt.Errorf("--storage-path: %w", err)
	}
	defer root.Close() //nolint:errcheck // only read
	if err := root.Mkdir(nameState, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("--storage-path: %w", err)
	}
	dir, err := root.OpenRoot(nameState)
	if err != nil {
		return fmt.Errorf("--storage-path: %w", err)
	}
	p.stateDir = state.DirOf(dir)
	p.onClose(func(context.Context) error { return p.stateDir.Close() })
	p.machine, err = state.Open(state.Options{Dir: p.stateDir, RunDir: p.runDir, BootID: boot})
	return err
}

const bootFile = "/proc/sys/kernel/random/boot_id"

// bootID is the kernel's, or the one that a test gave.
func bootID(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	b, err := os.ReadFile(bootFile)
	if err != nil {
		return "", fmt.Errorf("find out which boot this is: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func (p *program) openEvidence(ctx context.Context) error {
	machine, err := guest.Open(ctx, guest.Options{Mock: p.config.MockTDXURL})
	switch {
	case errors.Is(err, guest.ErrNoTDX):
		return fmt.Errorf("%w: start it in a TDX VM with Linux 6.7 or later; for development give MOCK_TDX_URL and --dev", err)
	case err != nil:
		return err
	}
	p.attest = attest.New(attest.Options{Guest: machine, Now: time.Now, Observe: p.metrics.Quote})
	boot, err := bootID(p.config.BootID)
	if err != nil {
		return err
	}
	p.events, err = measure.Open(ctx, measure.Options{Guest: machine, RunDir: p.runDir, BootID: boot, NoRegister: p.config.NoRTMR3})
	return err
}

func (p *program) openWorkload(ctx context.Context) error {
	var err error
	if p.engine, err = openEngine(ctx, p.config, p.logger.Named("podman")); err != nil {
		return err
	}
	p.onClose(func(context.Context) error { return p.engine.close() })
	p.workload, err = workload.Open(ctx, workload.Options{
		Socket: p.engine.socket, PullTimeout: p.config.PullTimeout,
		Limits: workload.Limits{Memory: p.config.Memory, Pids: p.config.Pids}, Exec: p.config.PersistExec,
	})
	if err != nil {
		return err
	}
	p.onClose(func(context.Context) error { p.workload.Close(); return nil })
	return nil
}

func (p *program) openRegistrar(f *files) error {
	if p.config.RegistryURL == config.Off {
		return nil
	}
	client, err := registrar.NewClient(f.registryCA)
	if err != nil {
		return fmt.Errorf("--registry-ca %s: %w", p.config.RegistryCA, err)
	}
	p.registrar, err = registrar.New(registrar.Options{
		URL: p.config.RegistryURL, Pin: f.registryKey, Client: client, Machine: p.machine,
		Statement: p.statement, Quote: p.attest.Quote, PPID: p.attest.PPID, TLSKey: p.tlsHash,
		FirstGeneration: p.config.RegistryFirstGeneration, Logger: p.logger.Named("registrar"),
	})
	if err != nil {
		return fmt.Errorf("--registry-url, --registry-key: %w", err)
	}
	return nil
}

func (p *program) openControl(ctx context.Context, f *files) error {
	o := control.Options{
		Machine: p.machine, RunDir: p.runDir, Disk: p.disk, Workload: p.workload, Events: p.events,
		Quotes: p.attest, Source: p.config.Storage(),
		SSHHostKey: p.ssh, TLSKey: p.tlsHash, HostPort: uint16(p.config.Publish), HostAddress: p.config.HostAddress(),
		ListenSSH: func(ctx context.Context) (net.Listener, error) {
			return (&net.ListenConfig{}).Listen(ctx, "tcp", p.config.SSHListen)
		},
		Logger: p.logger.Named("control"),
	}
	if p.registrar != nil {
		o.Registrar = p.registrar
	}
	var err error
	if o.Vault, err = openVault(p.config, f); err != nil {
		return fmt.Errorf("--storage-key vault: %w", err)
	}
	c, err := control.Open(ctx, o)
	if err != nil {
		return err
	}
	p.control.Store(c)
	p.onClose(c.Close)
	return nil
}
