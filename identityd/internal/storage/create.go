package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Create makes an empty volume named id, whose key source gives. It is there as
// a whole or not at all, also after a crash.
func (d *Disk) Create(ctx context.Context, id ID, source Source) error {
	ctx, cancel := context.WithTimeout(ctx, d.options.MountTimeout)
	defer cancel()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return refuse(NotMounted, "the storage is closed")
	}
	var there unix.Stat_t
	err := unix.Fstatat(int(d.root.Fd()), nameVolume, &there, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil {
		return refuse(VolumeExists, "there is a volume at %s", d.root.Name())
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return because(DiskFailed, err, "look for a volume")
	}
	key, sealed, err := source.Create(ctx, id)
	if err != nil {
		return sourceFailed(err, source)
	}
	defer key.Wipe()
	if len(sealed) > maxSealed {
		return refuse(SourceFailed, "a sealed key of %d bytes", len(sealed))
	}
	if err := d.build(ctx, &Header{ID: id, Source: source.Kind(), Sealed: sealed}, key); err != nil {
		return errors.Join(disk(err, "make a volume"), removeAll(d.root, nameNew))
	}
	return nil
}

func sourceFailed(err error, source Source) error {
	if ReasonOf(err) != "" {
		return err
	}
	return because(SourceFailed, err, "key source %s", source.Kind())
}

func (d *Disk) build(ctx context.Context, h *Header, key *Key) error {
	if err := removeAll(d.root, nameNew); err != nil {
		return err
	}
	dir, err := makeDir(d.root, nameNew, 0o700)
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // a directory
	cipher, err := makeDir(dir, nameCipher, 0o700)
	if err != nil {
		return err
	}
	defer cipher.Close() //nolint:errcheck // a directory
	if err := d.init(ctx, h.ID, key); err != nil {
		return err
	}
	conf, err := readFile(cipher, nameConf, maxConf)
	if err != nil {
		return err
	}
	if err := checkConf(conf); err != nil {
		return err
	}
	if err := h.authenticate(key, conf); err != nil {
		return err
	}
	header, err := h.bytes()
	if err != nil {
		return err
	}
	if err := writeFile(dir, nameHeader, header); err != nil {
		return err
	}
	// All of it before its name, and then the name.
	root := int(d.root.Fd())
	if err := unix.Syncfs(root); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	if err := unix.Renameat2(root, nameNew, root, nameVolume, unix.RENAME_NOREPLACE); err != nil {
		return fmt.Errorf("rename: %w", err)
	}
	return d.root.Sync()
}

func (d *Disk) init(ctx context.Context, id ID, key *Key) error {
	password, err := key.password(id)
	if err != nil {
		return err
	}
	defer clear(password)
	said, err := d.programs.run(ctx, password, "-init", "-q", fmt.Sprintf("-scryptn=%d", scryptN), "--",
		filepath.Join(d.root.Name(), nameNew, nameCipher))
	if err != nil {
		return because(InitFailed, err, "gocryptfs -init said %.300q", said)
	}
	return nil
}
