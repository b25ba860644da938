package nonceextension

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/extension/xextension/storage"

	"github.com/telemark-otel/telemark/extension/nonceextension/internal/metadata"
	"github.com/telemark-otel/telemark/internal/nonce"
	"github.com/telemark-otel/telemark/internal/replay"
)

// storageClient finds the storage extension and opens a client of ours.
func storageClient(ctx context.Context, host component.Host, id, own component.ID) (storage.Client, error) {
	ext, ok := host.GetExtensions()[id]
	if !ok {
		return nil, fmt.Errorf("`storage`: there is no extension %q; define it and list it under `service::extensions`", id)
	}
	st, ok := ext.(storage.Extension)
	if !ok {
		return nil, fmt.Errorf("`storage`: extension %q is no storage extension", id)
	}
	client, err := st.GetClient(ctx, component.KindExtension, own, "")
	if err != nil {
		return nil, fmt.Errorf("`storage`: client of %q: %w", id, err)
	}
	return client, nil
}

// persisted is the Persister of the windows over a storage client.
type persisted struct {
	client    storage.Client
	telemetry *metadata.TelemetryBuilder
	health    *health
}

func (p *persisted) Get(ctx context.Context, keys []string) ([][]byte, error) {
	ops := make([]*storage.Operation, len(keys))
	for i, k := range keys {
		ops[i] = storage.GetOperation(k)
	}
	if err := p.client.Batch(ctx, ops...); err != nil {
		return nil, err
	}
	values := make([][]byte, len(keys))
	for i, op := range ops {
		values[i] = op.Value
	}
	return values, nil
}

func (p *persisted) Batch(ctx context.Context, deletes []string, puts []replay.Record) error {
	ops := make([]*storage.Operation, 0, len(deletes)+len(puts))
	for _, k := range deletes {
		ops = append(ops, storage.DeleteOperation(k))
	}
	var size int64
	for _, r := range puts {
		ops = append(ops, storage.SetOperation(r.Key, r.Value))
		size += int64(len(r.Value))
	}
	start := time.Now()
	err := p.client.Batch(ctx, ops...)
	p.telemetry.NonceWindowCommitDuration.Record(ctx, time.Since(start).Seconds())
	p.telemetry.NonceWindowCommitSize.Record(ctx, size)
	p.health.wrote(err)
	if err != nil {
		p.telemetry.NonceWindowCommits.Add(ctx, 1, outcomeFailed)
		return err
	}
	p.telemetry.NonceWindowCommits.Add(ctx, 1, outcomeOK)
	return nil
}

// health knows whether storage can be written and tells the collector when
// that changes.
type health struct {
	host component.Host

	mu   sync.Mutex
	down bool
}

func newHealth(host component.Host) *health { return &health{host: host} }

func (h *health) wrote(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down == (err != nil) {
		return
	}
	h.down = err != nil
	if h.down {
		componentstatus.ReportStatus(h.host, componentstatus.NewRecoverableErrorEvent(fmt.Errorf("the replay windows cannot be written, nothing is accepted: %w", err)))
		return
	}
	componentstatus.ReportStatus(h.host, componentstatus.NewEvent(componentstatus.StatusOK))
}

func (h *health) failed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.down
}

const (
	secretKey     = "nonce/secret"
	secretLen     = 32
	secretFormat  = 1 // first byte of what is stored, the secret follows
	maxSecretFile = 4 << 10
)

// secret returns the MAC secret from the file, else from storage, else a new one.
func (e *Extension) secret(ctx context.Context) ([]byte, error) {
	if e.cfg.SecretFile != "" {
		return readSecret(e.cfg.SecretFile)
	}
	fresh := make([]byte, 1+secretLen)
	if err := random(fresh); err != nil {
		return nil, fmt.Errorf("randomness for a secret: %w", err)
	}
	fresh[0] = secretFormat
	if e.client == nil {
		return fresh[1:], nil
	}
	stored, err := e.client.Get(ctx, secretKey)
	if err != nil {
		return nil, fmt.Errorf("`storage`: read the nonce secret: %w", err)
	}
	if stored == nil {
		if err := e.client.Set(ctx, secretKey, fresh); err != nil {
			return nil, fmt.Errorf("`storage`: write a new nonce secret: %w", err)
		}
		return fresh[1:], nil
	}
	if len(stored) != 1+secretLen || stored[0] != secretFormat {
		return nil, errors.New("`storage`: the nonce secret kept there is damaged; use `secret_file` or a new storage directory")
	}
	return stored[1:], nil
}

// readSecret reads a file that nobody but its owner can.
func readSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("`secret_file`: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("`secret_file`: %w", err)
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("`secret_file`: %s is not a regular file", path)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("`secret_file`: %s has mode %04o; make it 0600, so that only its owner can read it", path, info.Mode().Perm())
	case info.Size() < nonce.MinSecretLen || info.Size() > maxSecretFile:
		return nil, fmt.Errorf("`secret_file`: %s has %d bytes, want %d to %d of random", path, info.Size(), nonce.MinSecretLen, maxSecretFile)
	}
	secret := make([]byte, info.Size())
	if _, err := f.ReadAt(secret, 0); err != nil {
		return nil, fmt.Errorf("`secret_file`: %w", err)
	}
	return secret, nil
}
