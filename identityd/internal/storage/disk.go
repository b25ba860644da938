package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

const (
	scryptN = 10 // of a random key: guessing is hopeless as it is

	nameVolume  = "volume"
	nameNew     = "volume.new"
	nameCipher  = "cipher"
	nameHeader  = "header.json"
	nameConf    = "gocryptfs.conf"
	namePrivate = "private"

	privateSize = "size=1m,mode=0700" // mount points only
)

// Options of Open.
type Options struct {
	// Path is STORAGE_PATH, an existing directory.
	Path string
	// Exec lets programs that lie in the volume be executed. Off, since what was
	// planted there while SSH was open outlives its closing.
	Exec bool
	// MountTimeout bounds making and mounting a volume, and binding its directories, each; 0 is 30 s, since a disk
	// that others keep busy takes its time over a sync.
	MountTimeout time.Duration
	// BusyTimeout is how long an unmount waits for those that use the volume
	// before it is taken from them; 0 is 10 s.
	BusyTimeout time.Duration
	// Fuse is the device; empty is /dev/fuse.
	Fuse   string
	Logger *zap.Logger // nil logs nothing
}

// Disk is STORAGE_PATH, held against other identityds. Safe for concurrent use.
type Disk struct {
	options  Options
	log      *zap.Logger
	programs *programs
	root     *os.File // STORAGE_PATH, locked
	private  string   // path of STORAGE_PATH/private

	mu     sync.Mutex
	volume *Volume // mounted, or dead and not yet unmounted; nil otherwise
	closed bool
}

// Open checks what the machine has (Check), locks STORAGE_PATH, takes down what
// a crash left behind and prepares STORAGE_PATH/private.
func Open(ctx context.Context, o Options) (*Disk, error) {
	if o.MountTimeout == 0 {
		o.MountTimeout = 30 * time.Second
	}
	if o.BusyTimeout == 0 {
		o.BusyTimeout = 10 * time.Second
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	p, err := find(ctx, o.Fuse)
	if err != nil {
		return nil, err
	}
	absolute, err := filepath.Abs(o.Path)
	if err == nil {
		// The way to STORAGE_PATH is the operator's; only what is in it is not.
		absolute, err = filepath.EvalSymlinks(absolute)
	}
	if err != nil {
		return nil, because(PathInvalid, err, "STORAGE_PATH %.200q", o.Path)
	}
	root, err := os.OpenFile(absolute, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, because(PathInvalid, err, "STORAGE_PATH %.200q", o.Path)
	}
	d := &Disk{options: o, log: o.Logger, programs: p, root: root, private: filepath.Join(absolute, namePrivate)}
	if err := unix.Flock(int(root.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(because(StorageInUse, err, "another identityd holds %.200q", absolute), root.Close())
	}
	if err := d.recover(); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	if err := d.prepare(); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return d, nil
}

func (d *Disk) at(name string) string { return filepath.Join(d.private, name) }

// recover takes down what was mounted, before anything below private is looked
// at: a FUSE mount whose process is gone answers "transport endpoint is not
// connected", one whose process hangs does not answer at all.
func (d *Disk) recover() error {
	left, err := mountsUnder(d.at(nameVolume))
	if err != nil {
		return err
	}
	if len(left) > 0 {
		abort(d.at(nameVolume))
	}
	killed, err := killOrphans(d.at(nameCipher), d.at(nameVolume))
	if err != nil {
		return err
	}
	detached, err := detachAll(d.private)
	if err != nil {
		return err
	}
	if len(left)+killed+detached > 0 {
		d.log.Warn("storage was not unmounted, and is now", zap.Int("mounts", detached), zap.Int("processes", killed))
	}
	if err := removeAll(d.root, nameNew); err != nil {
		return because(RecoverFailed, err, "remove a volume that was not finished")
	}
	return nil
}

// prepare mounts the tmpfs that all mount points are in.
func (d *Disk) prepare() error {
	dir, err := makeDir(d.root, namePrivate, 0o700)
	if err != nil {
		return disk(err, "make %s", namePrivate)
	}
	defer dir.Close() //nolint:errcheck // a directory
	target := fmt.Sprintf("/proc/self/fd/%d", dir.Fd())
	if err := unix.Mount("telemark", target, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, privateSize); err != nil {
		return because(DiskFailed, err, "mount a tmpfs at %s", d.private)
	}
	for _, name := range []string{nameCipher, nameVolume, namePersist} {
		if err := os.Mkdir(d.at(name), 0o700); err != nil {
			return because(DiskFailed, err, "make a mount point")
		}
	}
	return nil
}

// disk gives an error without a reason one.
func disk(err error, format string, a ...any) error {
	if ReasonOf(err) != "" {
		return err
	}
	return because(DiskFailed, err, format, a...)
}

// Header returns what stands beside the volume, or VolumeMissing. Nothing has
// vouched for it: the host wrote it, for all we know.
func (d *Disk) Header() (*Header, error) {
	h, _, dir, err := d.header()
	if err != nil {
		return nil, err
	}
	return h, dir.Close()
}

// header returns the header, the conf and the cipher directory.
func (d *Disk) header() (*Header, []byte, *os.File, error) {
	volume, err := openDir(d.root, nameVolume)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil, refuse(VolumeMissing, "there is no volume at %s", d.root.Name())
	}
	if err != nil {
		return nil, nil, nil, disk(err, "open the volume")
	}
	defer volume.Close() //nolint:errcheck // a directory
	raw, err := readFile(volume, nameHeader, maxHeader)
	if err != nil {
		return nil, nil, nil, disk(err, "read the volume's header")
	}
	h, err := parseHeader(raw)
	if err != nil {
		return nil, nil, nil, err
	}
	cipher, err := openDir(volume, nameCipher)
	if err != nil {
		return nil, nil, nil, disk(err, "open the cipher directory")
	}
	conf, err := readFile(cipher, nameConf, maxConf)
	if err != nil {
		return nil, nil, nil, errors.Join(disk(err, "read gocryptfs.conf"), cipher.Close())
	}
	return h, conf, cipher, nil
}

// Close unmounts the volume (Volume.Unmount) and lets go of STORAGE_PATH. It may
// be called again.
func (d *Disk) Close(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	var err error
	if d.volume != nil {
		err = d.volume.unmount(ctx)
	}
	_, detached := detachAll(d.private)
	// What was written is on the disk before the next identityd may look.
	return errors.Join(err, detached, unix.Syncfs(int(d.root.Fd())), d.root.Close())
}
