package sshd

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/sys/unix"
)

// Filelist implements sftp.FileLister.
func (t *tree) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	root, name, ok := t.find(r.Filepath)
	switch r.Method {
	case "List":
		if !ok {
			return t.listVirtual(r.Filepath)
		}
		// What is listed is held until the client closes it, as a file is.
		if !t.take() {
			return nil, sftp.ErrSSHFxFailure
		}
		entries, err := list(root, name)
		if err != nil {
			t.give()
			return nil, err
		}
		return &listing{lister: entries, tree: t}, nil
	case "Stat":
		if !ok {
			return t.statVirtual(r.Filepath)
		}
		return one(root.Stat(name))
	case "Readlink":
		if !ok {
			return nil, sftp.ErrSSHFxNoSuchFile
		}
		target, err := root.Readlink(name)
		return one(entry(target), err)
	default:
		return nil, sftp.ErrSSHFxOpUnsupported
	}
}

// Lstat implements sftp.LstatFileLister.
func (t *tree) Lstat(r *sftp.Request) (sftp.ListerAt, error) {
	root, name, ok := t.find(r.Filepath)
	if !ok {
		return t.statVirtual(r.Filepath)
	}
	return one(root.Lstat(name))
}

// listing counts itself out when it is closed.
type listing struct {
	lister
	tree *tree
	once sync.Once
}

// Close implements io.Closer.
func (l *listing) Close() error {
	l.once.Do(l.tree.give)
	return nil
}

func list(root *os.Root, name string) (lister, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, plain(err)
	}
	defer func() { _ = f.Close() }()
	entries, err := f.Readdir(maxEntries)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, plain(err)
	}
	return lister(entries), nil
}

// listVirtual shows the directories above the persisted ones.
func (t *tree) listVirtual(name string) (sftp.ListerAt, error) {
	if _, err := t.statVirtual(name); err != nil {
		return nil, err
	}
	var l lister
	for _, d := range t.dirs {
		rest, ok := strings.CutPrefix(d.inside, strings.TrimSuffix(name, "/")+"/")
		if !ok {
			continue
		}
		first, _, _ := strings.Cut(rest, "/")
		if !slices.ContainsFunc(l, func(i fs.FileInfo) bool { return i.Name() == first }) {
			l = append(l, entry(first))
		}
	}
	return l, nil
}

func (t *tree) statVirtual(name string) (sftp.ListerAt, error) {
	above := strings.TrimSuffix(name, "/") + "/"
	if name == "/" || slices.ContainsFunc(t.dirs, func(d dir) bool { return strings.HasPrefix(d.inside, above) }) {
		return lister{entry(path.Base(name))}, nil
	}
	return nil, sftp.ErrSSHFxNoSuchFile
}

func one(info fs.FileInfo, err error) (sftp.ListerAt, error) {
	if err != nil {
		return nil, plain(err)
	}
	return lister{info}, nil
}

type lister []fs.FileInfo

func (l lister) ListAt(into []fs.FileInfo, offset int64) (int, error) {
	if offset >= int64(len(l)) {
		return 0, io.EOF
	}
	n := copy(into, l[offset:])
	if n < len(into) {
		return n, io.EOF
	}
	return n, nil
}

// entry is a directory that is not there on the host, by its name.
type entry string

func (e entry) Name() string     { return string(e) }
func (entry) Size() int64        { return 0 }
func (entry) Mode() fs.FileMode  { return fs.ModeDir | 0o555 }
func (entry) ModTime() time.Time { return time.Time{} }
func (entry) IsDir() bool        { return true }
func (entry) Sys() any           { return nil }
