package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/telemark-otel/telemark/internal/identity/persist"
)

const nameIdentity = "identity"

// Bind is a directory of the volume for one of the container's paths.
type Bind struct {
	Container string // as in persist_dirs
	Host      string // a mount point on a tmpfs, to be given to the container engine
}

// Bind makes the directories of a container that the volume keeps, where they
// are not there yet, and mounts each with the volume's options at a place of its
// own. It replaces what an earlier Bind mounted; directories that are no longer
// named are kept. The container that used those must have ended.
func (v *Volume) Bind(ctx context.Context, paths []string) ([]Bind, error) {
	if err := persist.Validate(paths); err != nil {
		return nil, because(PersistInvalid, err, "")
	}
	d := v.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := v.alive(); err != nil {
		return nil, err
	}
	busy, cancel := context.WithTimeout(ctx, d.options.BusyTimeout)
	defer cancel()
	if err := v.unbind(busy); err != nil {
		return nil, err
	}
	binding, cancel := context.WithTimeout(ctx, d.options.MountTimeout)
	defer cancel()
	var binds []Bind
	err := v.patiently(binding, func() (err error) {
		binds, err = v.bindAll(paths)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, v.unbind(busy))
	}
	return binds, nil
}

func (v *Volume) alive() error {
	if v.disk.volume != v || v.leaving {
		return refuse(NotMounted, "the volume %s is not mounted", v.ID)
	}
	select {
	case <-v.child.done:
		return because(MountDead, v.child.err, "gocryptfs said %.300q", v.child.said)
	default:
		return nil
	}
}

func (v *Volume) bindAll(paths []string) ([]Bind, error) {
	attributes := uint64(unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV)
	if !v.disk.options.Exec {
		attributes |= unix.MOUNT_ATTR_NOEXEC
	}
	kept, err := v.dir(namePersist)
	if err != nil {
		return nil, err
	}
	defer kept.Close() //nolint:errcheck // a directory
	binds := make([]Bind, 0, len(paths))
	for i, p := range paths {
		b := Bind{Container: p, Host: filepath.Join(v.disk.at(namePersist), strconv.Itoa(i))}
		if err := os.Mkdir(b.Host, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
		dir, err := makeDir(kept, persistName(p), 0o755)
		if err != nil {
			return nil, err
		}
		err = bind(int(dir.Fd()), b.Host, attributes)
		_ = dir.Close()
		if err != nil {
			return nil, err
		}
		v.binds = i + 1
		binds = append(binds, b)
	}
	return binds, nil
}

// dir opens a directory of identityd's own at the top of the volume.
func (v *Volume) dir(name string) (*os.File, error) {
	top, err := os.OpenFile(v.Path(), os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer top.Close() //nolint:errcheck // a directory
	return makeDir(top, name, 0o700)
}

// Identity opens the directory of the volume where identityd keeps what has to
// outlive the VM. No container sees it. The caller closes it before Unmount.
func (v *Volume) Identity(ctx context.Context) (*os.Root, error) {
	v.disk.mu.Lock()
	defer v.disk.mu.Unlock()
	if err := v.alive(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, v.disk.options.MountTimeout)
	defer cancel()
	var root *os.Root
	err := v.patiently(ctx, func() error {
		dir, err := v.dir(nameIdentity)
		if err != nil {
			return err
		}
		defer dir.Close() //nolint:errcheck // the root has its own descriptor
		root, err = os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
		return err
	})
	return root, err
}

// unbind unmounts what Bind mounted.
func (v *Volume) unbind(ctx context.Context) error {
	var errs []error
	for v.binds > 0 {
		point := filepath.Join(v.disk.at(namePersist), strconv.Itoa(v.binds-1))
		busy, err := unmount(ctx, point, nil)
		if err != nil {
			errs = append(errs, err)
		}
		if busy {
			v.disk.log.Warn("a persisted directory was in use and is detached", zap.Stringer("volume", v.ID), zap.String("at", point))
		}
		v.binds--
	}
	return errors.Join(errs...)
}
