// Package private keeps files that belong to one process of one user:
// directories of mode 0700, owned by a lock, and files of mode 0600 that are
// replaced whole or not at all.
package private

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// Dir makes dir with mode 0700, or takes the rights of others away from
// one that exists.
func Dir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	fi, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !fi.IsDir() {
		return fmt.Errorf("%s is not a directory", dir)
	}
	if fi.Mode().Perm()&0o077 == 0 {
		return nil
	}
	if fi.Mode()&os.ModeSticky != 0 {
		return fmt.Errorf("%s is meant for many users; name a directory in it", dir)
	}
	if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // a directory needs its x
		return fmt.Errorf("%s is open to other users and cannot be closed to them (chmod 700): %w", dir, err)
	}
	return nil
}

// WriteFile replaces the file of this name, durably when it returns: a crash
// leaves the old content or the new one.
func WriteFile(path string, content []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".tmp-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(content); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return d.Sync()
}

// ErrExposed says that other users can read or write a file that holds a secret.
var ErrExposed = errors.New("file is open to other users")

// ReadSecret reads a file of at most limit bytes, and refuses one that other
// users can read or write.
func ReadSecret(path string, limit int64) ([]byte, error) { return read(path, limit, 0o077) }

// ReadFile reads a file of at most limit bytes that need not be secret.
func ReadFile(path string, limit int64) ([]byte, error) { return read(path, limit, 0) }

// read refuses files with one of the rights.
func read(path string, limit int64, rights os.FileMode) ([]byte, error) {
	// O_NONBLOCK, since opening a named pipe waits for its other end.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if fi.Mode().Perm()&rights != 0 {
		return nil, fmt.Errorf("%w: %s (chmod 600, and think of who may have read it)", ErrExposed, path)
	}
	if fi.Size() > limit {
		return nil, fmt.Errorf("%s has %d bytes, at most %d are expected", path, fi.Size(), limit)
	}
	return io.ReadAll(io.LimitReader(f, limit))
}
