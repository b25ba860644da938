package state

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/strictjson"
)

// The files.
const (
	stateFile = "identityd.state" // in the state directory
	runFile   = "identityd.run"   // in the run directory
)

// run is what lives in memory only: the run directory's file, JSON, nothing
// after it. It is secret and is never printed.
type run struct {
	Version int     `json:"version"` // 1
	Boot    string  `json:"boot"`
	Seed    api.Hex `json:"seed"` // of the instance's Ed25519 key in this boot
	// OriginSeed is of the key that the identity began with; empty while unlinked.
	OriginSeed api.Hex `json:"origin_seed,omitempty"`
	// MACKey authenticates the state file; empty while unlinked, when it lies in
	// the encrypted volume.
	MACKey    api.Hex `json:"mac_key,omitempty"`
	TokenHash api.Hex `json:"token_hash,omitempty"`

	// The anchor: counter and SHA-256 of the state file last written.
	Counter uint64  `json:"counter,omitempty"`
	Digest  api.Hex `json:"digest,omitempty"`

	// After a reboot: who has not yet said which counter they saw last.
	Registry bool `json:"registry_pending,omitempty"`
	Tool     bool `json:"owner_pending,omitempty"`

	RolledBack bool   `json:"rolled_back,omitempty"` // for the rest of this boot
	Told       uint64 `json:"told,omitempty"`        // the counter that the registry heard of in this boot
}

// loadRun returns nil when there is none of this boot.
func loadRun(d Dir, boot string) (*run, error) {
	content, err := d.ReadFile(runFile, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, reason.Because(reason.RunDirDamaged, fmt.Errorf("read the run file: %w", err))
	}
	var r run
	if err := strictjson.Unmarshal(content, &r); err != nil {
		// Its words may be secrets: only that it failed is told.
		return nil, reason.Refuse(reason.RunDirDamaged, "the run file is malformed")
	}
	if r.Boot != boot {
		return nil, nil // the directory outlived the VM, which it should not
	}
	linked := len(r.MACKey) == keySize && len(r.OriginSeed) == ed25519.SeedSize
	unlinked := len(r.MACKey) == 0 && len(r.OriginSeed) == 0 && r.Counter == 0
	if r.Version != 1 || len(r.Seed) != ed25519.SeedSize || !linked && !unlinked ||
		len(r.TokenHash) != 0 && len(r.TokenHash) != sha256.Size || (r.Counter == 0) != (len(r.Digest) == 0) {
		return nil, reason.Refuse(reason.RunDirDamaged, "the run file is malformed")
	}
	return &r, nil
}

func (r *run) save(d Dir) error {
	content, err := json.Marshal(r)
	if err != nil {
		return reason.Refuse(reason.StateUnavailable, "encode the run file")
	}
	if err := replace(d, runFile, content); err != nil {
		return reason.Because(reason.StateUnavailable, err)
	}
	return nil
}

func (r *run) linked() bool { return len(r.MACKey) != 0 }
