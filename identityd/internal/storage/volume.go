package storage

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// Volume is a mounted volume. Safe for concurrent use.
type Volume struct {
	ID ID

	disk  *Disk
	child *child

	// Under disk.mu.
	binds   int // mount points private/persist/0 … in use
	leaving bool
	secret  [KeySize]byte // of Derive; random once unmounted
}

// Mount mounts the volume, which must be named want unless that is zero; callers
// who know the name give it. Key and conf are verified before gocryptfs starts.
func (d *Disk) Mount(ctx context.Context, want ID, source Source) (*Volume, error) {
	ctx, cancel := context.WithTimeout(ctx, d.options.MountTimeout)
	defer cancel()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, refuse(NotMounted, "the storage is closed")
	}
	if d.volume != nil {
		return nil, refuse(VolumeMounted, "the volume %s is mounted", d.volume.ID)
	}
	h, conf, cipher, err := d.header()
	if err != nil {
		return nil, err
	}
	defer cipher.Close() //nolint:errcheck // a directory
	if want != (ID{}) && h.ID != want {
		return nil, refuse(VolumeOther, "the volume is %s, not %s", h.ID, want)
	}
	if h.Source != source.Kind() {
		return nil, refuse(SourceOther, "the key of the volume is from %s, not %s", h.Source, source.Kind())
	}
	key, err := source.Release(ctx, h.ID, h.Sealed)
	if err != nil {
		return nil, sourceFailed(err, source)
	}
	defer key.Wipe()
	if err := h.verify(key, conf); err != nil {
		return nil, err
	}
	v := &Volume{ID: h.ID, disk: d}
	secret, err := key.derive(v.ID, useTag)
	if err != nil {
		return nil, err
	}
	v.secret = [KeySize]byte(secret)
	clear(secret)
	if err := v.mount(ctx, key, conf, cipher); err != nil {
		return nil, err
	}
	d.volume = v
	go v.watch()
	d.log.Info("storage is mounted", zap.Stringer("volume", v.ID), zap.String("at", v.Path()))
	return v, nil
}

func (v *Volume) mount(ctx context.Context, key *Key, conf []byte, cipher *os.File) (err error) {
	d := v.disk
	if err := bind(int(cipher.Fd()), d.at(nameCipher), unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			if v.child != nil {
				v.kill()
			}
			_ = detach(d.at(nameVolume))
			_ = detach(d.at(nameCipher))
		}
	}()
	file, err := memoryFile(conf)
	if err != nil {
		return because(MountFailed, err, "copy gocryptfs.conf to memory")
	}
	defer file.Close() //nolint:errcheck // in memory
	password, err := key.password(v.ID)
	if err != nil {
		return err
	}
	defer clear(password)
	// The container's users are not root; private keeps the VM's others out.
	// Not -q: it would not say when it is ready.
	args := []string{"-fg", "-nosyslog", "-allow_other", "-nosuid", "-nodev", "-fsname=telemark", "-config=/dev/fd/3"}
	if !d.options.Exec {
		args = append(args, "-noexec")
	}
	if v.child, err = d.programs.start(password, file, append(args, "--", d.at(nameCipher), d.at(nameVolume))...); err != nil {
		return because(MountFailed, err, "start gocryptfs")
	}
	if err := v.appear(ctx); err != nil {
		return err
	}
	if err := v.ready(ctx); err != nil {
		return err
	}
	return v.answer(ctx)
}

// ready waits until gocryptfs says that it is. The mount is there a moment before,
// but then gocryptfs opens a file in it itself. Should somebody make a file at that
// moment, both wait for each other without end: gocryptfs serves the making under
// its caller's groups, libc's setgroups waits for all threads, and the thread that
// opens waits for the directory, which the making holds.
func (v *Volume) ready(ctx context.Context) error {
	select {
	case <-v.child.ready.seen:
		return nil
	case <-v.child.done:
		return because(MountFailed, v.child.err, "gocryptfs said %.300q", v.child.said)
	case <-ctx.Done():
		return because(MountTimeout, ctx.Err(), "gocryptfs said %.300q", v.child.said)
	}
}

// appear waits until the volume is in the list of mounts, with the options that
// were asked for.
func (v *Volume) appear(ctx context.Context) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		mounts, err := mountsUnder(v.Path())
		if err != nil {
			return err
		}
		if len(mounts) > 0 {
			return v.acceptable(mounts[len(mounts)-1])
		}
		select {
		case <-v.child.done:
			return because(MountFailed, v.child.err, "gocryptfs said %.300q", v.child.said)
		case <-ctx.Done():
			return because(MountTimeout, ctx.Err(), "gocryptfs said %.300q", v.child.said)
		case <-time.After(wait):
		}
	}
}

func (v *Volume) acceptable(m mount) error {
	need := []string{"nosuid", "nodev"}
	if !v.disk.options.Exec {
		need = append(need, "noexec")
	}
	for _, option := range need {
		if !slices.Contains(m.options, option) {
			return refuse(MountFailed, "the volume is mounted without %s", option)
		}
	}
	if m.fs != "fuse.gocryptfs" {
		return refuse(MountFailed, "the mount is a %.32q", m.fs)
	}
	return nil
}

// answer waits until gocryptfs answers.
func (v *Volume) answer(ctx context.Context) error {
	return v.patiently(ctx, func() error {
		_, err := os.ReadDir(v.Path())
		return err
	})
}

// patiently does something in the volume. A call to a FUSE mount cannot be
// broken off; ending gocryptfs ends it, and so does a hanging one when ctx ends.
func (v *Volume) patiently(ctx context.Context, do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	var err error
	select {
	case err = <-done:
		if err == nil {
			return nil
		}
	case <-ctx.Done():
		v.kill()
		<-done //nolint:errcheck // whatever it was, it came too late
		return because(MountTimeout, ctx.Err(), "gocryptfs did not answer and was ended; it said %.300q", v.child.said)
	}
	if ReasonOf(err) != "" {
		return err
	}
	return because(DiskFailed, err, "in the volume; gocryptfs said %.300q", v.child.said)
}

// kill ends gocryptfs and what waits for it.
func (v *Volume) kill() {
	_ = v.child.process.Kill()
	if mounts, err := mountsUnder(v.Path()); err != nil || len(mounts) > 0 {
		abort(v.Path())
	}
	v.child.kill()
}

// watch says so when gocryptfs ends by itself. The dead mount stays where it is,
// so that nobody writes beneath it, until Unmount.
func (v *Volume) watch() {
	<-v.child.done
	v.disk.mu.Lock()
	defer v.disk.mu.Unlock()
	if !v.leaving {
		v.disk.log.Error("gocryptfs ended, the storage is gone", zap.Stringer("volume", v.ID),
			zap.NamedError("status", v.child.err), zap.String("said", fmt.Sprintf("%.300q", v.child.said)))
	}
}

const useTag = "telemark-storage-use-v1"

// Derive makes a key for one purpose, the same at each mount of this volume and
// known only to who has the volume's key:
//
//	secret = HKDF-SHA256(volume key, salt = volume id, info = "telemark-storage-use-v1")
//	key    = HKDF-SHA256(secret, salt = volume id, info = "telemark-storage-use-v1-" | purpose), 32 bytes
//
// What lies in the volume and has to be where it was put is authenticated with
// such a key: a host can move encrypted files about. Once the volume is unmounted
// what it returns is good for nothing.
func (v *Volume) Derive(purpose string) [KeySize]byte {
	v.disk.mu.Lock()
	defer v.disk.mu.Unlock()
	b, err := hkdf.Key(sha256.New, v.secret[:], v.ID[:], useTag+"-"+purpose, KeySize)
	if err != nil { // only for keys that are too long
		panic(err)
	}
	return [KeySize]byte(b)
}

// Path is where the volume is mounted.
func (v *Volume) Path() string { return v.disk.at(nameVolume) }

// Done is closed when the volume is gone: unmounted, or dead (Err).
func (v *Volume) Done() <-chan struct{} { return v.child.done }

// Err says why a volume is gone that nobody unmounted.
func (v *Volume) Err() error {
	select {
	case <-v.child.done:
	default:
		return nil
	}
	v.disk.mu.Lock()
	defer v.disk.mu.Unlock()
	if v.leaving {
		return nil
	}
	return because(MountDead, v.child.err, "gocryptfs said %.300q", v.child.said)
}

// Unmount unmounts the volume and what Bind mounted. Those who still use it have
// until BusyTimeout or the end of ctx; then it is detached and gocryptfs, and
// the key with it, ended, and the log says so. It may be called again.
func (v *Volume) Unmount(ctx context.Context) error {
	v.disk.mu.Lock()
	defer v.disk.mu.Unlock()
	return v.unmount(ctx)
}

func (v *Volume) unmount(ctx context.Context) error {
	d := v.disk
	if d.volume != v {
		return nil
	}
	v.leaving = true
	ctx, cancel := context.WithTimeout(ctx, d.options.BusyTimeout)
	defer cancel()
	errs := []error{v.unbind(ctx)}
	busy, err := unmount(ctx, v.Path(), v.kill)
	errs = append(errs, err)
	if busy {
		d.log.Warn("storage was in use and is detached: what was not written is lost to its users", zap.Stringer("volume", v.ID))
	}
	// It ends by itself once nobody has a file open.
	if busy || !v.child.wait(2*time.Second) {
		v.kill()
		d.log.Warn("gocryptfs was ended", zap.Stringer("volume", v.ID))
	}
	cipherCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_, err = unmount(cipherCtx, d.at(nameCipher), nil)
	errs = append(errs, err)
	if err := errors.Join(errs...); err != nil {
		return err
	}
	d.volume = nil
	rand.Read(v.secret[:])
	d.log.Info("storage is unmounted", zap.Stringer("volume", v.ID))
	return nil
}
