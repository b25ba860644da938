package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/identityd/internal/storage"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/strictjson"
)

// keptFile is where the volume's key survives a restart of the service: in the
// run directory, in memory.
const (
	keptFile = "identityd.volume"
	maxKept  = 4 << 10
)

// kept is its content, JSON with nothing after it. It is secret and is never
// printed. It is written before the volume is made or mounted, so that a service
// that was killed can mount it again.
type kept struct {
	Version int     `json:"version"` // 1
	Boot    string  `json:"boot"`
	Volume  api.Hex `json:"volume"`         // its ID
	Made    bool    `json:"made,omitempty"` // in this boot, by this instance
	Key     api.Hex `json:"key,omitempty"`  // where the owner sends it
	// Witness is the counter that the owner's tool saw last, in an unlocking.
	Witness *uint64 `json:"witness,omitempty"`
}

func (k *kept) wipe() {
	if k != nil {
		clear(k.Key)
		k.Key = nil
	}
}

// loadKept returns nil when there is none of this boot.
func (c *Control) loadKept() (*kept, error) {
	content, err := c.o.RunDir.ReadFile(keptFile, maxKept)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, reason.Because(reason.RunDirDamaged, fmt.Errorf("read what is known of the volume: %w", err))
	}
	defer clear(content)
	var k kept
	if strictjson.Unmarshal(content, &k) != nil || k.Version != 1 || len(k.Volume) != len(storage.ID{}) ||
		len(k.Key) != 0 && len(k.Key) != storage.KeySize {
		// Its words may be secrets: only that it failed is told.
		return nil, reason.Refuse(reason.RunDirDamaged, "what is known of the volume is malformed")
	}
	if v := c.o.Machine.View(); k.Boot != v.Boot {
		return nil, nil
	}
	return &k, nil
}

func (c *Control) keep(k *kept) error {
	content, err := json.Marshal(k)
	if err != nil {
		return reason.Refuse(reason.Internal, "encode what is known of the volume")
	}
	defer clear(content)
	if err := state.Replace(c.o.RunDir, keptFile, content); err != nil {
		return reason.Because(reason.StateUnavailable, err)
	}
	return nil
}

// forgetKey forgets the key and keeps the rest.
func (c *Control) forgetKey() error {
	k, err := c.loadKept()
	if err != nil || k == nil || len(k.Key) == 0 {
		return err
	}
	k.wipe()
	return c.keep(k)
}
