package control

import (
	"context"
	"slices"
	"time"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/refusal"
	"github.com/telemark-otel/telemark/identityd/internal/sshd"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/identityd/internal/storage"
	"github.com/telemark-otel/telemark/identityd/internal/workload"
)

// What View says of the volume.
const (
	VolumeNone    = "none"    // there is none yet
	VolumeLocked  = "locked"  // the key is missing
	VolumeMounted = "mounted" //
	VolumeFailed  = "failed"  // it ended, or does not mount
)

// View is everything for GET /v1/state.
type View struct {
	State     state.View
	Container workload.Status
	Volume    string      // none, locked, mounted or failed
	VolumeID  []byte      // nil for none
	SSH       *sshd.Facts // nil when it was not opened since the service's start
	QuotedAt  time.Time   // of the last quote, zero for none
	Problems  []Problem   // what keeps it from running as it should
}

// Problem is told in /health too.
type Problem struct {
	Reason string `json:"reason"`
	Detail string `json:"detail"`
}

// View returns how it stands.
func (c *Control) View(ctx context.Context) View {
	c.mu.Lock()
	shown := c.shown
	c.mu.Unlock()
	v := View{State: c.o.Machine.View(), QuotedAt: c.o.Quotes.QuotedAt()}
	problem := func(e *reason.Error) {
		if e == nil || slices.ContainsFunc(v.Problems, func(p Problem) bool { return p.Reason == string(e.Reason) }) {
			return
		}
		detail := e.Detail
		if detail == "" {
			detail = e.Reason.Help() // what is behind it stands in the log
		}
		v.Problems = append(v.Problems, Problem{string(e.Reason), detail})
	}
	var err error
	if v.Container, err = c.o.Workload.Inspect(ctx); err != nil {
		problem(refusal.Of(err))
	}
	if shown.door != nil {
		facts := shown.door.Facts()
		v.SSH = &facts
	}
	v.Volume = c.volumeWord(&v, &shown)
	switch {
	case v.State.RolledBack:
		problem(reason.Refuse(reason.StateRollback, "the disk was set back"))
	case !v.State.Linked:
		problem(reason.Refuse(reason.StateUnlinked, "the VM was started anew, and the storage is locked"))
	case v.Volume == VolumeFailed && shown.trouble == nil:
		problem(reason.Refuse(reason.MountDead, "gocryptfs ended; the volume is mounted again"))
	}
	problem(shown.trouble)
	problem(refusal.Of(c.o.Events.Problem()))
	if c.o.Source == storage.LegacyKey {
		v.Problems = append(v.Problems, Problem{
			"storage_key_public", "the storage key is derived from the owner's public key and the PPID, which are both public: whoever reads the disk can decrypt it",
		})
	}
	return v
}

func (c *Control) volumeWord(v *View, shown *shown) string {
	id, there, err := c.volumeID()
	if there {
		v.VolumeID = id[:]
	}
	if shown.volume != nil {
		select {
		case <-shown.volume.Done():
			return VolumeFailed
		default:
			return VolumeMounted
		}
	}
	switch {
	case err != nil:
		return VolumeFailed
	case v.State.Owner == nil && !there:
		return VolumeNone
	case v.State.Linked && v.State.Owner != nil && shown.trouble != nil && shown.trouble.Reason != reason.SealedKeyMissing:
		return VolumeFailed
	default:
		return VolumeLocked
	}
}
