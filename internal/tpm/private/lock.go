//go:build unix

package private

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrInUse says that another process, or another part of this one, owns the directory.
var ErrInUse = errors.New("directory is in use")

// Lock is the ownership of a directory.
type Lock struct{ f *os.File }

// lockPatience is how long a lock is waited for. A child whose parent was
// killed holds it for the moment that it takes to notice.
const lockPatience = 2 * time.Second

// LockDir takes the ownership of dir, which is made with mode 0700 when
// absent, by locking the file name in it.
func LockDir(ctx context.Context, dir, name string) (*Lock, error) {
	if err := Dir(dir); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, name)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for begun := time.Now(); ; {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			_ = f.Close()
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		if time.Since(begun) > lockPatience {
			defer func() { _ = f.Close() }()
			return nil, fmt.Errorf("%w: %s is owned by %s; give each collector a directory of its own", ErrInUse, dir, owner(f))
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
	// Only for the message above, so a failure does no harm.
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return &Lock{f}, nil
}

func owner(f *os.File) string {
	var b [20]byte
	n, _ := f.ReadAt(b[:], 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	switch {
	case err != nil:
		return "another process"
	case pid == os.Getpid():
		return "this process already"
	default:
		return fmt.Sprintf("process %d", pid)
	}
}

// File is what holds the lock. A child process that inherits it shares the
// ownership, which then lasts until both are gone.
func (l *Lock) File() *os.File { return l.f }

// Unlock gives the ownership up. It may be called twice.
func (l *Lock) Unlock() error {
	if err := l.f.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
