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
	"syscall"

	"github.com/pkg/sftp"
	"golang.org/x/sys/unix"
)

const (
	maxOpen    = 64    // files and listings of one session at once
	maxEntries = 65536 // of a directory that is listed
)

// files serves SFTP over the session.
func (s *session) files() {
	t, err := openTree(s.c.server.config.Directories)
	if err != nil {
		s.say("identityd: %v\r\n", err)
		s.exit(codeFailed)
		return
	}
	defer t.close()
	server := sftp.NewRequestServer(touchingChannel{s.channel, s.c},
		sftp.Handlers{FileGet: t, FilePut: t, FileCmd: t, FileList: t}, sftp.WithStartDirectory(t.start()))
	err = server.Serve()
	_ = server.Close()
	code := 0
	if err != nil && !errors.Is(err, io.EOF) {
		code = 1
	}
	s.exit(code)
}

// touchingChannel notes that there was data, and stays open when the SFTP
// server closes it: the exit code is still to be sent.
type touchingChannel struct {
	io.ReadWriter
	c *connection
}

func (touchingChannel) Close() error { return nil }

func (t touchingChannel) Read(b []byte) (int, error) {
	n, err := t.ReadWriter.Read(b)
	if n > 0 {
		t.c.touch()
	}
	return n, err
}

// tree is what SFTP reaches. The directories are held open: paths are resolved
// below them by os.Root, out of which no link and no dots lead, whatever the
// workload does there at the same time.
type tree struct {
	dirs []dir // longest path first

	mu   sync.Mutex
	open int
}

type dir struct {
	inside string
	root   *os.Root
}

func openTree(dirs []Directory) (*tree, error) {
	t := &tree{}
	for _, d := range dirs {
		root, err := os.OpenRoot(d.Host)
		if err != nil {
			t.close()
			return nil, errors.New("open persisted directory " + d.Inside)
		}
		t.dirs = append(t.dirs, dir{path.Clean(d.Inside), root})
	}
	slices.SortFunc(t.dirs, func(a, b dir) int { return len(b.inside) - len(a.inside) })
	return t, nil
}

func (t *tree) close() {
	for _, d := range t.dirs {
		_ = d.root.Close()
	}
}

// start is where relative paths begin: in the persisted directory, where there
// is only one.
func (t *tree) start() string {
	if len(t.dirs) == 1 {
		return t.dirs[0].inside
	}
	return "/"
}

// find returns the directory that a path lies in, and its name there.
func (t *tree) find(name string) (*os.Root, string, bool) {
	for _, d := range t.dirs {
		if name == d.inside {
			return d.root, ".", true
		}
		if rest, ok := strings.CutPrefix(name, d.inside+"/"); ok {
			return d.root, rest, true
		}
	}
	return nil, "", false
}

// within returns where a file may be made, changed or removed: below a
// persisted directory, not it itself.
func (t *tree) within(name string) (*os.Root, string, error) {
	root, rest, ok := t.find(name)
	if !ok || rest == "." {
		return nil, "", sftp.ErrSSHFxPermissionDenied
	}
	return root, rest, nil
}

// Fileread implements sftp.FileReader.
func (t *tree) Fileread(r *sftp.Request) (io.ReaderAt, error) { return t.file(r, os.O_RDONLY) }

// Filewrite implements sftp.FileWriter.
func (t *tree) Filewrite(r *sftp.Request) (io.WriterAt, error) { return t.file(r, os.O_WRONLY) }

// OpenFile implements sftp.OpenFileWriter.
func (t *tree) OpenFile(r *sftp.Request) (sftp.WriterAtReaderAt, error) { return t.file(r, os.O_RDWR) }

// file opens a regular file. One that is new belongs to whom the directory
// belongs to, since root of the host is nobody in the container.
func (t *tree) file(r *sftp.Request, flags int) (*openFile, error) {
	root, name, err := t.within(r.Filepath)
	if err != nil {
		return nil, err
	}
	if !t.take() {
		return nil, sftp.ErrSSHFxFailure
	}
	f, err := open(root, name, flags|unix.O_NONBLOCK, r)
	if err != nil {
		t.give()
		return nil, plain(err)
	}
	return &openFile{File: f, tree: t}, nil
}

func open(root *os.Root, name string, flags int, r *sftp.Request) (*os.File, error) {
	want := r.Pflags()
	if flags&(os.O_WRONLY|os.O_RDWR) != 0 && want.Creat {
		f, err := root.OpenFile(name, flags|os.O_CREATE|os.O_EXCL, mode(r, 0o644))
		if err == nil {
			return f, adopt(root, name, f)
		}
		if want.Excl || !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	f, err := root.OpenFile(name, flags, 0)
	if err != nil {
		return nil, err
	}
	// O_NONBLOCK above is for pipes, on which opening would wait.
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fs.ErrPermission
	}
	if err == nil && want.Trunc && flags&(os.O_WRONLY|os.O_RDWR) != 0 {
		err = f.Truncate(0)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// adopt gives what was made to the owner of the directory it is in.
func adopt(root *os.Root, name string, f *os.File) error {
	parent, err := root.Stat(path.Dir(name))
	if err == nil {
		st, ok := parent.Sys().(*syscall.Stat_t)
		if !ok {
			err = fs.ErrInvalid
		} else {
			err = f.Chown(int(st.Uid), int(st.Gid))
		}
	}
	if err != nil {
		_ = f.Close()
	}
	return err
}

// mode is what a client asks for, without setuid, setgid and sticky bits.
func mode(r *sftp.Request, usual fs.FileMode) fs.FileMode {
	if r.AttrFlags().Permissions {
		return r.Attributes().FileMode().Perm()
	}
	return usual
}

func (t *tree) take() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open >= maxOpen {
		return false
	}
	t.open++
	return true
}

func (t *tree) give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open--
}

// openFile counts itself out when it is closed.
type openFile struct {
	*os.File
	tree *tree
	once sync.Once
}

func (f *openFile) Close() error {
	f.once.Do(f.tree.give)
	return f.File.Close()
}

// Filecmd implements sftp.FileCmder: what is not named is not allowed.
func (t *tree) Filecmd(r *sftp.Request) error {
	root, name, err := t.within(r.Filepath)
	if err != nil {
		return err
	}
	switch r.Method {
	case "Setstat":
		return plain(setstat(root, name, r))
	case "Rename", "PosixRename":
		toRoot, to, err := t.within(r.Target)
		if err != nil {
			return err
		}
		if toRoot != root {
			return sftp.ErrSSHFxPermissionDenied
		}
		if _, err := root.Lstat(to); err == nil && r.Method == "Rename" {
			return sftp.ErrSSHFxFailure // version 3 of the protocol does not replace
		}
		return plain(root.Rename(name, to))
	case "Rmdir", "Remove":
		st, err := root.Lstat(name)
		if err != nil {
			return plain(err)
		}
		if st.IsDir() != (r.Method == "Rmdir") {
			return sftp.ErrSSHFxFailure
		}
		return plain(root.Remove(name))
	case "Mkdir":
		return plain(mkdir(root, name, r))
	default: // Link, Symlink
		return sftp.ErrSSHFxOpUnsupported
	}
}

// PosixRename implements sftp.PosixRenameFileCmder.
func (t *tree) PosixRename(r *sftp.Request) error { return t.Filecmd(r) }

func mkdir(root *os.Root, name string, r *sftp.Request) error {
	if err := root.Mkdir(name, mode(r, 0o755)); err != nil {
		return err
	}
	// The workload may have put something else there meanwhile, on which opening
	// would wait.
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	if err := adopt(root, name, f); err != nil {
		return err
	}
	return f.Close()
}

// setstat works on an open file, so that all of it goes to the same one.
func setstat(root *os.Root, name string, r *sftp.Request) error {
	flags, attrs := r.AttrFlags(), r.Attributes()
	if flags.UidGid {
		return fs.ErrPermission
	}
	access := os.O_RDONLY
	if flags.Size {
		access = os.O_WRONLY
	}
	f, err := root.OpenFile(name, access|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() && !st.IsDir() {
		return fs.ErrPermission
	}
	if flags.Size {
		err = f.Truncate(int64(min(attrs.Size, 1<<62)))
	}
	if err == nil && flags.Permissions {
		err = f.Chmod(attrs.FileMode().Perm())
	}
	if err == nil && flags.Acmodtime {
		err = unix.Futimes(int(f.Fd()), []unix.Timeval{{Sec: int64(attrs.Atime)}, {Sec: int64(attrs.Mtime)}})
	}
	return err
}

// plain gives the client a status and no path of the host.
func plain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return sftp.ErrSSHFxNoSuchFile
	case errors.Is(err, fs.ErrPermission):
		return sftp.ErrSSHFxPermissionDenied
	default:
		return sftp.ErrSSHFxFailure
	}
}
