package tpmverifyprocessor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component/componentstatus"
	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/keyfile"
	"github.com/telemark-otel/telemark/internal/policy"
	"github.com/telemark-otel/telemark/internal/verdict"
)

// fileKeys is the key source over a key file. It looks at the file now and
// then, which also works where a file is replaced through a symbolic link and
// where no notification arrives. A file that cannot be read leaves the keys as
// they were: an editor's half-written file must not refuse the whole fleet.
type fileKeys struct {
	cfg      KeysConfig
	defaults *policy.Policy
	logger   *zap.Logger
	meters   *meters

	set atomic.Pointer[keyfile.Set]

	stop    context.CancelFunc
	stopped sync.WaitGroup

	// Owned by Start, then by the watching goroutine.
	seen   os.FileInfo // of the content that was read last
	broken string      // the error that was reported last, "" when all is well
}

func newFileKeys(cfg KeysConfig, defaults *policy.Policy, logger *zap.Logger, m *meters) *fileKeys {
	return &fileKeys{cfg: cfg, defaults: defaults, logger: logger, meters: m}
}

// Lookup implements verdict.KeySource.
func (k *fileKeys) Lookup(kid []byte) (*verdict.Key, error) { return k.set.Load().Lookup(kid) }

// Names implements keySource.
func (k *fileKeys) Names(attribute, value string) bool { return k.set.Load().Names(attribute, value) }

// Binds implements keySource.
func (k *fileKeys) Binds(attribute string) bool { return k.set.Load().Binds(attribute) }

// Start reads the file; without it there is nothing to begin with.
func (k *fileKeys) Start(ctx context.Context, status func(*componentstatus.Event)) error {
	if err := k.read(ctx); err != nil {
		return fmt.Errorf("tpmverify: keys::file: %w", err)
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	k.stop = stop
	k.stopped.Go(func() {
		for sleep(run, k.cfg.RefreshInterval) {
			k.look(run, status)
		}
	})
	return nil
}

// Shutdown ends the watch.
func (k *fileKeys) Shutdown(context.Context) error {
	if k.stop != nil {
		k.stop()
		k.stopped.Wait()
	}
	return nil
}

// look reads the file when it is another one than last time, or was broken.
func (k *fileKeys) look(ctx context.Context, status func(*componentstatus.Event)) {
	info, err := os.Stat(k.cfg.File)
	if err == nil && k.broken == "" && sameFile(info, k.seen) {
		return
	}
	if err == nil {
		err = k.read(ctx)
	}
	switch {
	case err != nil && err.Error() != k.broken:
		k.broken = err.Error()
		k.meters.add(ctx, k.meters.TpmverifyKeyReloadFailures, 1)
		k.logger.Error("the key file cannot be read, the keys from before stay in force", zap.Error(err))
		status(componentstatus.NewRecoverableErrorEvent(fmt.Errorf("keys::file: %w", err)))
	case err == nil && k.broken != "":
		k.broken = ""
		status(componentstatus.NewEvent(componentstatus.StatusOK))
	}
}

func sameFile(a, b os.FileInfo) bool {
	return b != nil && os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// maxGone bounds the names in a warning.
const maxGone = 10

// warnOfGone names the machines that are not trusted any more: taking out a key is
// one way to revoke it, and an easy mistake. before is nil at the start.
func (k *fileKeys) warnOfGone(before, now *keyfile.Set) {
	if now.Len() == 0 {
		k.logger.Warn("the key file holds no key: all that is signed is refused for good, as unknown_key", zap.String("file", k.cfg.File))
	}
	if before == nil {
		return
	}
	gone := slices.DeleteFunc(before.Keys(), func(key *verdict.Key) bool {
		still, _ := now.Lookup([]byte(key.KID)) // a file never fails to answer
		return still != nil
	})
	if len(gone) == 0 {
		return
	}
	var names []string
	for _, key := range gone[:min(len(gone), maxGone)] {
		names = append(names, key.Name)
	}
	k.logger.Warn("keys are gone from the key file: what they sign is refused for good from now on, as unknown_key",
		zap.String("file", k.cfg.File), zap.Int("gone", len(gone)), zap.Strings("names", names))
}

// read takes the file's properties before its content: a change in between is
// then found at the next look.
func (k *fileKeys) read(ctx context.Context) error {
	f, err := os.Open(k.cfg.File)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w; `telemark key show --output json` prints what belongs into it", err)
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New(k.cfg.File + " is not a regular file")
	}
	content, err := io.ReadAll(io.LimitReader(f, keyfile.MaxSize+1))
	if err != nil {
		return fmt.Errorf("read %s: %w", k.cfg.File, err)
	}
	set, err := keyfile.Parse(k.cfg.File, content, k.defaults)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o002 != 0 {
		k.logger.Warn("everybody on this machine may write the key file, and so trust keys", zap.String("file", k.cfg.File))
	}
	k.warnOfGone(k.set.Swap(set), set)
	k.seen = info
	k.meters.TpmverifyKeys.Record(ctx, int64(set.Len()), k.meters.signal)
	k.logger.Info("keys read", zap.String("file", k.cfg.File), zap.Int("keys", set.Len()), zap.Time("modified", info.ModTime().Truncate(time.Second)))
	return nil
}
