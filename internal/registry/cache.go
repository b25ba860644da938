package registry

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/registry/answer"
)

// The file holds signed answers as they came, and nothing else:
//
//	"telemark-registry-cache-v1\n" | frame*
//	frame = kind 1 byte ('s' snapshot, 'e' event, 'h' heartbeat) | u32 length, big-endian | answer
//
// First a chain: snapshots since 0 and on, then events and snapshots that each
// take up where the one before ended, so that none can be left out. Last the
// proof: the newest heartbeat or final snapshot, which says as of when that is
// all. Nothing in it is believed that the registry did not sign; a file that is
// not exactly this is believed in nothing.
const cacheMagic = "telemark-registry-cache-v1\n"

const (
	frameSnapshot  = 's'
	frameEvent     = 'e'
	frameHeartbeat = 'h'

	frameHeader = 5
	maxCache    = 1 << 30 // bytes
)

// Pace of writing: what takes trust away is written at once, else a change after
// a second and a proof alone after half a minute, but a large file not more
// often than makes a MiB a second.
const (
	writeChange = time.Second
	writeProof  = 30 * time.Second
	writeRate   = 1 << 20
)

// The chain is asked for anew when it has grown this much beyond its snapshot.
const (
	maxChainFrames = 4096
	maxChainGrowth = 4 << 20
)

type frame struct {
	kind    byte
	encoded []byte
}

// cache is what the file will hold; the client's lock guards it.
type cache struct {
	chain      []frame
	through    uint64 // revision that the chain leads to
	size       int    // of the chain, bytes
	base       int    // of the snapshot that it began with
	proof      *frame
	wantsWhole bool // a snapshot since 0 shall replace the chain
	dirty      bool // the chain is not written
	fresher    bool // the proof is not written
}

func (c *cache) empty() bool { return len(c.chain) == 0 }

func (c *cache) add(f frame, through uint64) {
	c.chain = append(c.chain, f)
	c.through = through
	c.size += len(f.encoded)
	c.dirty = true
}

// keepAnswer adds to the chain what leads it on; where something is missing in
// between, a snapshot is asked for that closes the gap. The lock is held.
func (c *Client) keepAnswer(f frame, from, through uint64, takesTrust bool) {
	k := &c.cache
	switch {
	case c.o.Cache == "" || through <= k.through && !k.empty():
		return
	case from > k.through || k.empty() && f.kind != frameSnapshot:
		c.want()
		return
	}
	k.add(f, through)
	if k.base > 0 && (len(k.chain) > maxChainFrames || k.size > 2*k.base+maxChainGrowth) {
		k.wantsWhole = true
	}
	if takesTrust {
		select {
		case c.save <- true:
		default:
		}
	}
}

// keepProof replaces the proof, when it is of what the chain holds. The lock is
// held.
func (c *Client) keepProof(f frame, revision uint64) {
	k := &c.cache
	if c.o.Cache == "" || k.empty() || revision > k.through {
		return
	}
	if k.base == 0 {
		k.base = k.size // the first snapshot is complete
	}
	k.proof, k.fresher = &f, true
}

// replaceAnswers puts a snapshot since 0 in place of the chain. The lock is held.
func (c *Client) replaceAnswers(pages [][]byte, through uint64, proof frame) {
	k := &c.cache
	*k = cache{proof: &proof}
	for _, p := range pages {
		k.add(frame{frameSnapshot, p}, through)
	}
	k.base = k.size
	if through < c.mirror.revision {
		c.want() // events came in between
	}
}

// keep writes the file until the client is closed.
func (c *Client) keep(ctx context.Context) {
	if c.o.Cache == "" {
		return
	}
	written, failed := c.now(), ""
	for {
		t := time.NewTimer(writeChange)
		urgent := false
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case urgent = <-c.save:
			t.Stop()
		case <-t.C:
		}
		c.mu.Lock()
		k := &c.cache
		spent := c.now().Sub(written)
		due := k.dirty && spent >= time.Duration(k.size/writeRate)*time.Second ||
			k.fresher && spent >= max(writeProof, time.Duration(k.size/writeRate)*time.Second)
		c.mu.Unlock()
		if !urgent && !due {
			continue
		}
		written = c.now()
		err := c.write()
		if err != nil && err.Error() != failed {
			c.o.Logger.Error("the registry's answers cannot be written; after a restart they have to be asked for again", zap.Error(err))
		}
		failed = fmt.Sprint(err)
	}
}

// write replaces the file as a whole, so that at every moment there is an old or
// a new one.
func (c *Client) write() error {
	if c.o.Cache == "" {
		return nil
	}
	c.mu.Lock()
	k := &c.cache
	if !k.dirty && !k.fresher || k.empty() {
		c.mu.Unlock()
		return nil
	}
	frames := append([]frame{}, k.chain...)
	if k.proof != nil {
		frames = append(frames, *k.proof)
	}
	k.dirty, k.fresher = false, false
	c.mu.Unlock()
	err := writeCache(c.o.Cache, frames)
	if err != nil {
		c.mu.Lock()
		k.dirty = true
		c.mu.Unlock()
	}
	return err
}

func writeCache(path string, frames []frame) (err error) {
	next := path + ".next"
	_ = os.Remove(next) // of a process that died while it wrote
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write the registry's cache: %w", err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(next)
			err = fmt.Errorf("write the registry's cache: %w", err)
		}
	}()
	var b bytes.Buffer
	b.WriteString(cacheMagic)
	for _, fr := range frames {
		b.WriteByte(fr.kind)
		b.Write(binary.BigEndian.AppendUint32(nil, uint32(len(fr.encoded))))
		b.Write(fr.encoded)
		if b.Len() > 1<<20 {
			if _, err := b.WriteTo(f); err != nil {
				return err
			}
		}
	}
	if _, err := b.WriteTo(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(next, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes the new name durable.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close() //nolint:errcheck // only synced
	return d.Sync()
}

// readCache returns the frames of the file, none when there is no file.
func readCache(path string) ([]frame, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	content, err := io.ReadAll(io.LimitReader(f, maxCache+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxCache {
		return nil, fmt.Errorf("it has more than %d bytes", maxCache)
	}
	rest, ok := bytes.CutPrefix(content, []byte(cacheMagic))
	if !ok {
		return nil, errors.New("it does not begin as a cache does")
	}
	var frames []frame
	for len(rest) > 0 {
		if len(rest) < frameHeader {
			return nil, errors.New("it ends within a frame")
		}
		kind, size := rest[0], binary.BigEndian.Uint32(rest[1:frameHeader])
		rest = rest[frameHeader:]
		if size > answer.MaxSize || uint64(size) > uint64(len(rest)) {
			return nil, errors.New("it ends within a frame")
		}
		frames = append(frames, frame{kind, rest[:size:size]})
		rest = rest[size:]
	}
	return frames, nil
}
