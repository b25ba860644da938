package state

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
)

// Root is a Dir of the file system. Close gives up its lock. It may be shared, as
// long as everybody has names of their own.
type Root struct {
	root *os.Root
	lock *os.File // nil without one
}

// OpenDir opens the state directory, which has to exist.
func OpenDir(path string) (*Root, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, reason.Because(reason.StateUnavailable, fmt.Errorf("open the state directory: %w", err))
	}
	return &Root{root: root}, nil
}

// DirOf is the directory behind root, which Close closes.
func DirOf(root *os.Root) *Root { return &Root{root: root} }

// OpenRunDir opens the run directory, makes it with mode 0700 if it is not
// there, and locks it against a second process. It refuses one that others may
// enter, one that is somebody else's and, unless onDisk, one that is not in
// memory.
func OpenRunDir(path string, onDisk bool) (_ *Root, err error) {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, reason.Because(reason.RunDirUnsafe, fmt.Errorf("make the run directory: %w", err))
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, reason.Because(reason.RunDirUnsafe, fmt.Errorf("open the run directory: %w", err))
	}
	d := &Root{root: root}
	defer func() {
		if err != nil {
			_ = d.Close()
		}
	}()
	if err := d.private(onDisk); err != nil {
		return nil, err
	}
	return d, d.lockOut()
}

// private looks at the directory that is open, not at what its path leads to now.
func (d *Root) private(onDisk bool) error {
	opened, err := d.root.Open(".")
	if err != nil {
		return reason.Because(reason.RunDirUnsafe, err)
	}
	defer func() { _ = opened.Close() }()
	info, err := opened.Stat()
	if err != nil {
		return reason.Because(reason.RunDirUnsafe, err)
	}
	if mode := info.Mode().Perm(); mode != 0o700 {
		return reason.Refuse(reason.RunDirUnsafe, "its mode is %#o, not 0700", mode)
	}
	if s, ok := info.Sys().(*syscall.Stat_t); !ok || int(s.Uid) != os.Geteuid() {
		return reason.Refuse(reason.RunDirUnsafe, "it belongs to another user")
	}
	if onDisk {
		return nil
	}
	inMemory, err := isInMemory(opened)
	if err != nil {
		return reason.Because(reason.RunDirUnsafe, err)
	}
	if !inMemory {
		return reason.Refuse(reason.RunDirUnsafe, "it is not on a tmpfs")
	}
	return nil
}

// InMemory refuses a directory that lies on a disk.
func InMemory(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return reason.Because(reason.RunDirUnsafe, err)
	}
	defer func() { _ = dir.Close() }()
	inMemory, err := isInMemory(dir)
	if err == nil && !inMemory {
		err = fmt.Errorf("%.256q is not on a tmpfs", path)
	}
	if err != nil {
		return reason.Because(reason.RunDirUnsafe, err)
	}
	return nil
}

func (d *Root) lockOut() error {
	f, err := d.root.OpenFile("lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return reason.Because(reason.RunDirUnsafe, fmt.Errorf("open the lock: %w", err))
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return reason.Because(reason.RunDirBusy, err)
	}
	d.lock = f
	return nil
}

// Close implements io.Closer.
func (d *Root) Close() error {
	err := d.root.Close()
	if d.lock != nil {
		err = errors.Join(err, d.lock.Close())
		d.lock = nil
	}
	return err
}

// ReadFile implements Dir.
func (d *Root) ReadFile(name string, limit int64) ([]byte, error) {
	// Whoever owns the disk may put a pipe there, which would be waited for.
	f, err := d.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w", name, errNotPlain)
	}
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(content)) > limit {
		return nil, fmt.Errorf("%s: %w", name, errTooLarge)
	}
	return content, nil
}

// Create implements Dir.
func (d *Root) Create(name string) (File, error) {
	return d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

// Rename implements Dir.
func (d *Root) Rename(from, to string) error { return d.root.Rename(from, to) }

// Remove implements Dir.
func (d *Root) Remove(name string) error { return d.root.Remove(name) }

// Sync implements Dir.
func (d *Root) Sync() error {
	f, err := d.root.Open(".")
	if err != nil {
		return err
	}
	err = f.Sync()
	return errors.Join(err, f.Close())
}
