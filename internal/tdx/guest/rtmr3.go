package guest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"syscall"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/rtmr"
)

var errReadOnlyFS error = syscall.EROFS

// file is the measurement file of Linux 6.16: 48 bytes are read from it, and 48
// bytes that are written at offset 0 are extended.
type file string

func (p file) read() (_ [48]byte, err error) {
	f, err := os.Open(string(p))
	if err != nil {
		return [48]byte{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	// Of a size that the kernel says is 48; more would be something else.
	b, err := io.ReadAll(io.LimitReader(f, 49))
	if err != nil {
		return [48]byte{}, err
	}
	return register(b)
}

func (p file) extend(digest [48]byte) (err error) {
	f, err := os.OpenFile(string(p), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = f.WriteAt(digest[:], 0) // the kernel takes all 48 bytes or none
	return err
}

// rtmrs is the directory of configfs-tsm, with an entry per register:
//
//	index    decimal, written once
//	digest   48 bytes; what is written is extended
//	tcg_map  the PCRs that it stands for
type rtmrs struct{ tsm configfsi.Client }

const index3 = 3

func (r rtmrs) read() ([48]byte, error) {
	// Finds the entry, or makes it; the digest in its answer is not to be had.
	if _, err := rtmr.GetDigest(r.tsm, index3); err != nil {
		return [48]byte{}, err
	}
	dir := path.Join(configfsi.TsmPrefix, "rtmrs")
	entries, err := r.tsm.ReadDir(dir)
	if err != nil {
		return [48]byte{}, err
	}
	for _, e := range entries {
		b, err := r.tsm.ReadFile(path.Join(dir, e.Name(), "index"))
		if err != nil {
			continue // an entry that another program is making
		}
		if n, err := configfsi.Kstrtouint(b, 10, 64); err != nil || n != index3 {
			continue
		}
		digest, err := r.tsm.ReadFile(path.Join(dir, e.Name(), "digest"))
		if err != nil {
			return [48]byte{}, err
		}
		return register(digest)
	}
	return [48]byte{}, fmt.Errorf("no entry of register %d in %s", index3, dir)
}

func (r rtmrs) extend(digest [48]byte) error { return rtmr.ExtendDigest(r.tsm, index3, digest[:]) }
