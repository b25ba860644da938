package tpmextension

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/telemark-otel/telemark/internal/tpm/private"
)

// epochFile stands beside the key and says how far its epochs have come,
// whoever counted them: storages and counters can be exchanged, and the next one
// must not begin where others have been.
//
//	{"version": 1, "kid": "000b…", "epoch": 7}
//
// The file of another key says nothing.
const (
	epochFile    = "epoch.json"
	epochVersion = 1
	maxEpochFile = 1 << 10
)

type epochRecord struct {
	Version int    `json:"version"`
	KID     string `json:"kid"`
	Epoch   uint64 `json:"epoch"`
}

// readFloor returns the highest epoch that this key is known to have begun, 0
// when nothing is known.
func readFloor(dir string, kid []byte) (uint64, error) {
	path := filepath.Join(dir, epochFile)
	content, err := private.ReadFile(path, maxEpochFile)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the last epoch: %w", err)
	}
	var r epochRecord
	if err := json.Unmarshal(content, &r); err != nil {
		return 0, fmt.Errorf("%w: %s: %w", errStateDamaged, path, err)
	}
	if r.Version != epochVersion {
		return 0, fmt.Errorf("%w: %s is of version %d, want %d", errStateDamaged, path, r.Version, epochVersion)
	}
	if r.KID != hex.EncodeToString(kid) {
		return 0, nil
	}
	return r.Epoch, nil
}

// writeFloor is durable when it returns.
func writeFloor(dir string, kid []byte, epoch uint64) error {
	content, err := json.Marshal(epochRecord{Version: epochVersion, KID: hex.EncodeToString(kid), Epoch: epoch})
	if err != nil {
		return fmt.Errorf("encode the epoch: %w", err)
	}
	if err := private.WriteFile(filepath.Join(dir, epochFile), append(content, '\n')); err != nil {
		return fmt.Errorf("write the epoch: %w", err)
	}
	return nil
}
