package state

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// Dir is one directory. Names have no slashes. It is used by one process. Several
// users of it have names of their own, and each works in one goroutine at a time.
type Dir interface {
	// ReadFile returns a plain file of at most limit bytes; fs.ErrNotExist when
	// there is none. It does not follow links out of the directory and does not
	// wait for a pipe.
	ReadFile(name string, limit int64) ([]byte, error)
	// Create makes a file that is not there yet, mode 0600.
	Create(name string) (File, error)
	// Rename replaces what stands under the new name.
	Rename(from, to string) error
	// Remove returns fs.ErrNotExist when there is nothing to remove.
	Remove(name string) error
	// Sync returns when every name that was created, replaced or removed is
	// durable.
	Sync() error
}

// File is a file being written.
type File interface {
	io.Writer
	// Sync returns when everything that was written is durable.
	Sync() error
	Close() error
}

// errNotPlain says that something which is not a plain file stands under a name.
var errNotPlain = errors.New("not a plain file")

// errTooLarge says that a file is larger than any that this package writes.
var errTooLarge = errors.New("file is too large")

// Replace is how this package writes, for others who keep files in such a
// directory.
func Replace(d Dir, name string, content []byte) error { return replace(d, name, content) }

// replace writes a file so that at every moment, and after a crash at any, either
// the old or the new content stands under the name.
func replace(d Dir, name string, content []byte) (err error) {
	temporary := name + ".new"
	if err := d.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove what a crash left of %s: %w", name, err)
	}
	f, err := d.Create(temporary)
	if err != nil {
		return fmt.Errorf("create %s: %w", temporary, err)
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", temporary, err)
	}
	if err := d.Rename(temporary, name); err != nil {
		return fmt.Errorf("replace %s: %w", name, err)
	}
	if err := d.Sync(); err != nil {
		return fmt.Errorf("make %s durable: %w", name, err)
	}
	return nil
}
