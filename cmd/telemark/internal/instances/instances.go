// Package instances is what an operator's or owner's machine remembers of
// instances of identityd: the keys of their volumes, which exist nowhere else
// outside a VM, the highest state counter that was seen, and which VM image it was
// at first. One file for each identity, JSON, mode 0600, named after the instance
// key that the identity began with:
//
//	DIR/3b9a…c1.json
//
// Every change is durable before it is told of: a key that was sent is a key that
// is kept.
package instances

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/identity/client"
	"github.com/telemark-otel/telemark/internal/strictjson"
	"github.com/telemark-otel/telemark/internal/tpm/private"
)

const (
	version    = 1
	maxFile    = 256 << 10
	maxVolumes = 64
	suffix     = ".json"
	lockFile   = ".lock"
)

// Record is what is known of one identity.
type Record struct {
	Version  int     `json:"version"`
	Origin   api.Hex `json:"origin_pubkey"`
	Instance api.Hex `json:"instance_pubkey,omitempty"` // of the last boot that was seen
	URL      string  `json:"url,omitempty"`             // where it was seen last

	Counter      uint64               `json:"counter"` // the highest that was seen
	Measurements *client.Measurements `json:"measurements,omitempty"`
	// Volumes that it has or may have, the newest last: an answer that was lost
	// leaves one that is not used.
	Volumes []Volume `json:"volumes,omitempty"`

	FirstSeen time.Time `json:"first_seen"`
	LastSeen  time.Time `json:"last_seen"`
}

// Volume is an encrypted volume and the key that opens it.
type Volume struct {
	ID   api.Hex   `json:"id"`
	Key  api.Hex   `json:"key"`
	Made time.Time `json:"made"`
	// Owner is the public key of who sealed it.
	Owner api.Hex `json:"owner,omitempty"`
}

// String keeps keys out of logs.
func (v Volume) String() string { return "volume " + v.ID.String() }

// GoString keeps keys out of logs.
func (v Volume) GoString() string { return v.String() }

// Known returns what a client holds an instance against.
func (r *Record) Known() client.Known {
	return client.Known{Counter: r.Counter, Measurements: r.Measurements}
}

// Volume finds a volume, nil for none.
func (r *Record) Volume(id [16]byte) *Volume {
	for i := range r.Volumes {
		if bytes.Equal(r.Volumes[i].ID, id[:]) {
			return &r.Volumes[i]
		}
	}
	return nil
}

// Dir is a directory of records. Several processes may use it.
type Dir struct {
	Path string
	Now  func() time.Time
}

func (d *Dir) file(origin []byte) string {
	return filepath.Join(d.Path, api.Hex(origin).String()+suffix)
}

// Load returns the record of an identity, nil for one that is new.
func (d *Dir) Load(origin ed25519.PublicKey) (*Record, error) {
	content, err := private.ReadSecret(d.file(origin), maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("what is remembered of the instance: %w", err)
	}
	defer clear(content)
	var r Record
	if err := strictjson.Unmarshal(content, &r); err != nil {
		return nil, fmt.Errorf("what is remembered of the instance, in %s, cannot be read; it may hold the only key of a volume, so repair it or put it aside: %w", d.file(origin), err)
	}
	if r.Version != version || !bytes.Equal(r.Origin, origin) {
		return nil, fmt.Errorf("%s is of version %d and of the identity %.16s…: not what its name says, or of a newer program", d.file(origin), r.Version, r.Origin)
	}
	return &r, nil
}

// List returns every record, in the order of the files' names.
func (d *Dir) List() ([]*Record, error) {
	entries, err := os.ReadDir(d.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("what is remembered of instances: %w", err)
	}
	var out []*Record
	for _, e := range entries {
		origin, ok := api.ParseHex(strings.TrimSuffix(e.Name(), suffix), 2*ed25519.PublicKeySize)
		if !ok || len(origin) != ed25519.PublicKeySize || !strings.HasSuffix(e.Name(), suffix) {
			continue
		}
		r, err := d.Load(origin)
		if err != nil {
			return nil, err
		}
		if r != nil {
			out = append(out, r)
		}
	}
	return out, nil
}

// OfVolume returns the record that has a volume, nil for none.
func (d *Dir) OfVolume(id [16]byte) (*Record, error) {
	all, err := d.List()
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		if r.Volume(id) != nil {
			return r, nil
		}
	}
	return nil, nil
}

// Change changes a record, which is made when there is none, durably.
func (d *Dir) Change(ctx context.Context, origin ed25519.PublicKey, change func(*Record) error) error {
	if len(origin) != ed25519.PublicKeySize {
		return fmt.Errorf("an identity began with a key of %d bytes", len(origin))
	}
	lock, err := private.LockDir(ctx, d.Path, lockFile)
	if errors.Is(err, private.ErrInUse) {
		return fmt.Errorf("%s: another telemark writes to it; try again", d.Path)
	}
	if err != nil {
		return err
	}
	defer func() { _ = lock.Unlock() }()
	r, err := d.Load(origin)
	if err != nil {
		return err
	}
	now := d.Now().UTC().Truncate(time.Second)
	if r == nil {
		r = &Record{Version: version, Origin: api.Hex(origin), FirstSeen: now}
	}
	if err := change(r); err != nil {
		return err
	}
	r.LastSeen = now
	content, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	defer clear(content)
	if len(content) > maxFile {
		return fmt.Errorf("more than %d bytes are to be remembered of %s", maxFile, r.Origin)
	}
	return private.WriteFile(d.file(origin), append(content, '\n'))
}

// KeepVolume keeps a volume's key, or returns the one that it has already.
func (d *Dir) KeepVolume(ctx context.Context, origin ed25519.PublicKey, v Volume) (key []byte, err error) {
	err = d.Change(ctx, origin, func(r *Record) error {
		if had := r.Volume([16]byte(v.ID)); had != nil {
			key = had.Key
			return nil
		}
		if len(r.Volumes) >= maxVolumes {
			return fmt.Errorf("%s remembers %d volumes already; take out by hand those that do not exist", d.file(origin), len(r.Volumes))
		}
		v.Made = d.Now().UTC().Truncate(time.Second)
		r.Volumes = append(r.Volumes, v)
		key = v.Key
		return nil
	})
	return key, err
}

// Recall implements client.Memory.
func (d *Dir) Recall(origin ed25519.PublicKey) (client.Known, error) {
	r, err := d.Load(origin)
	if err != nil || r == nil {
		return client.Known{}, err
	}
	return r.Known(), nil
}

// Remember implements client.Memory.
func (d *Dir) Remember(origin ed25519.PublicKey, seen *client.Seen) error {
	return d.Change(context.Background(), origin, func(r *Record) error {
		r.URL, r.Instance = seen.URL, api.Hex(seen.Instance)
		r.Counter = max(r.Counter, seen.Counter)
		if seen.Measurements != nil {
			r.Measurements = seen.Measurements
		}
		return nil
	})
}
