//go:build unix

package private

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
// absent, by locking the file name in it. A directory that others can enter is
// closed to them when it is empty, or holds that file or one of known.
func LockDir(ctx context.Context, dir, name string, known ...string) (*Lock, error) {
	if err := checkForeign(dir, append(known, name)); err != nil {
		return nil, err
	}
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

// checkForeign refuses a directory of others: they can enter it, it holds
// something, and nothing of ours.
func checkForeign(dir string, ours []string) error {
	fi, err := os.Stat(dir)
	if err != nil || fi.Mode().Perm()&0o077 == 0 || fi.Mode()&os.ModeSticky != 0 {
		return nil // or Dir says what is wrong
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		return nil
	}
	for _, e := range entries {
		if slices.Contains(ours, e.Name()) {
			return nil
		}
	}
	return fmt.Errorf("%s is open to other users and holds other things; name a directory in it or, if it is for this alone, chmod 700 %s", dir, dir)
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
