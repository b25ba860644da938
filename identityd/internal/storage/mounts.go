package storage

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// mount is a line of /proc/self/mountinfo (proc(5)):
//
//	36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
//	              root point options     tags…   type source super options
//
// where space, tab, newline and backslash in paths are written \ooo.
type mount struct {
	point   string
	options []string
	fs      string
}

var errMountinfo = errors.New("a line of mountinfo that cannot be read")

func parseMountinfo(b []byte) ([]mount, error) {
	var all []mount
	for line := range bytes.Lines(b) {
		// Only these separate: other white space stands in paths as it is.
		fields := strings.Split(strings.TrimSuffix(string(line), "\n"), " ")
		separator := slices.Index(fields, "-")
		if separator < 6 || separator+1 >= len(fields) || fields[separator+1] == "" {
			return nil, errMountinfo
		}
		point, ok := unescape(fields[4])
		if !ok {
			return nil, errMountinfo
		}
		all = append(all, mount{point: point, options: strings.Split(fields[5], ","), fs: fields[separator+1]})
	}
	return all, nil
}

func unescape(s string) (string, bool) {
	var out strings.Builder
	for {
		before, after, found := strings.Cut(s, `\`)
		out.WriteString(before)
		if !found {
			return out.String(), true
		}
		if len(after) < 3 {
			return "", false
		}
		c, err := strconv.ParseUint(after[:3], 8, 8)
		if err != nil {
			return "", false
		}
		out.WriteByte(byte(c))
		s = after[3:]
	}
}

// mountsUnder returns the mounts at dir and below it, in the order of mounting.
// Nothing under dir is touched: a dead or hanging FUSE mount answers no call.
func mountsUnder(dir string) ([]mount, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, because(DiskFailed, err, "list mounts")
	}
	all, err := parseMountinfo(b)
	if err != nil {
		return nil, because(DiskFailed, err, "list mounts")
	}
	return slices.DeleteFunc(all, func(m mount) bool {
		return m.point != dir && !strings.HasPrefix(m.point, dir+"/")
	}), nil
}

// detachAll takes everything at dir and below it out of the tree, whatever
// state it is in, and returns how many mounts there were. Taking the uppermost
// takes what hangs on it along, so that no path leads through a dead mount.
func detachAll(dir string) (int, error) {
	first, last := -1, error(nil)
	for range 256 {
		left, err := mountsUnder(dir)
		if err != nil {
			return 0, err
		}
		if first < 0 {
			first = len(left)
		}
		if len(left) == 0 {
			return first, nil
		}
		// Of those stacked on one point, the last is on top.
		top := left[0]
		for _, m := range left[1:] {
			if len(m.point) <= len(top.point) {
				top = m
			}
		}
		last = unix.Unmount(top.point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if last != nil && !errors.Is(last, unix.EINVAL) { // EINVAL: gone meanwhile
			return 0, because(RecoverFailed, last, "unmount %s", top.point)
		}
	}
	return 0, because(RecoverFailed, last, "mounts below %s do not go away", dir)
}

// unmount unmounts point, waiting until ctx ends while it is busy, and then
// detaches it, after calling before, if any. It reports whether it had to.
func unmount(ctx context.Context, point string, before func()) (lazily bool, err error) {
	if before == nil {
		before = func() {}
	}
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		err := unix.Unmount(point, unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil, errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return false, nil // EINVAL: not a mount point any more
		case !errors.Is(err, unix.EBUSY):
			// A dead one, perhaps; detaching asks nobody.
			before()
			return true, detach(point)
		}
		select {
		case <-ctx.Done():
			before()
			return true, detach(point)
		case <-time.After(wait):
		}
	}
}

// abort breaks off every call to a FUSE mount. Killing gocryptfs is not enough:
// one of its own threads may wait in its own mount, where the kernel lets
// nothing end it, and then the connection stays open.
func abort(point string) {
	// Not busy, it is unmounted by this; busy, it is dead. Both is well.
	_ = unix.Unmount(point, unix.MNT_FORCE|unix.UMOUNT_NOFOLLOW)
}

func detach(point string) error {
	err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) {
		return because(DiskFailed, err, "unmount %s", point)
	}
	return nil
}

// bind mounts the directory behind descriptor dir at point, which is on our own
// tmpfs. Nothing on the way is looked up by name, so nothing can be exchanged.
func bind(dir int, point string, attributes uint64) error {
	tree, err := unix.OpenTree(dir, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return because(DiskFailed, err, "clone the mount of %s", point)
	}
	defer unix.Close(tree) //nolint:errcheck // a descriptor of a path
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: attributes}); err != nil {
		return because(DiskFailed, err, "options of the mount %s", point)
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, point, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return because(DiskFailed, err, "mount %s", point)
	}
	return nil
}
