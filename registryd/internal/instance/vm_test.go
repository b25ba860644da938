package instance

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/pgtest"
	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/registry/audit"
	"github.com/telemark-otel/telemark/registryd/internal/store"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

// onBoth runs a test on both databases.
func onBoth(t *testing.T, test func(t *testing.T, r *rig)) {
	for kind, dsn := range map[string]string{"sqlite": filepath.Join(t.TempDir(), "registry.db"), "postgres": pgtest.DSN(t)} {
		t.Run(kind, func(t *testing.T) { test(t, newRigOn(t, dsn, nil)) })
	}
}

// vm is an instance with operator 2 and owner 3, as identityd would speak.
type vm struct {
	origin, instance ed25519.PrivateKey
	counter          uint64
	link             *statement.Link
	boot             string
	exposed          bool
	register         statement.Register
	closed           time.Time
}

func newVM(seed byte, counter uint64) *vm {
	return &vm{
		origin: key(seed), instance: key(seed), counter: counter, boot: fmt.Sprintf("boot-%d", seed),
		closed: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC),
	}
}

// reboot is the VM after it was started anew from a disk with this counter.
func (v *vm) reboot(seed byte, found uint64) *vm {
	next := *v
	next.instance, next.boot, next.counter = key(seed), fmt.Sprintf("boot-%d", seed), found+1
	next.link = &statement.Link{
		At: v.closed, Counter: found, Signature: ed25519.Sign(v.origin, statement.LinkMessage(public(next.instance), found)),
	}
	return &next
}

func (v *vm) at(counter uint64) *vm {
	next := *v
	next.counter = counter
	return &next
}

const imageDigest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func (v *vm) statement() *statement.Statement {
	s := &statement.Statement{
		Version: 1, Instance: public(v.instance), Origin: public(v.origin), Link: v.link, Boot: v.boot,
		State: statement.OwnerRegistered, Counter: v.counter, Operator: public(key(2)), Owner: public(key(3)),
		Log: statement.Log{Register: v.register},
	}
	if v.register == statement.RTMR3 {
		s.Log.Base = make([]byte, 48)
	}
	if v.exposed {
		s.State = statement.WorkloadExposed
		s.Workload = &statement.Workload{Image: "registry.example/app:1", Digest: imageDigest, Port: 80}
		s.SSHHostKey = public(key(77))
		s.SSH = statement.SSH{Opened: v.closed.Add(-time.Hour), ListenerClosed: v.closed, SessionsEnded: v.closed}
		image := statement.ImageData(s.Workload.Image, s.Workload.Digest)
		s.Log.Events = []statement.Event{{Name: statement.Image, Data: image}}
		if v.link == nil {
			s.Log.Events = append(s.Log.Events, statement.Event{Name: statement.SSHOpen, Data: hex.EncodeToString(s.SSHHostKey)})
		}
		s.Log.Events = append(s.Log.Events, statement.Event{Name: statement.SSHClosed, Data: image})
	}
	return s
}

// says is a registration with a statement; edits change the statement before the
// quote is made.
func (r *rig) says(v *vm, edits ...func(*statement.Statement)) *api.Registration {
	r.t.Helper()
	s := v.statement()
	for _, edit := range edits {
		edit(s)
	}
	raw, err := s.Encode()
	require.NoError(r.t, err)
	return r.speaks(v, raw, s)
}

func (r *rig) speaks(v *vm, raw []byte, s *statement.Statement) *api.Registration {
	r.t.Helper()
	ppid := r.lab.Platform().PPID
	n, err := r.Nonce(r.t.Context())
	require.NoError(r.t, err)
	reg := &api.Registration{
		InstancePubkey: public(v.instance), PPID: ppid[:], Operator: partyOf(v.instance, key(2)), Owner: partyOf(v.instance, key(3)),
		Nonce: n.Nonce, Statement: raw,
	}
	r.quote(reg, 2, func(q *tdxlab.Quote) {
		if s != nil && s.Log.Register == statement.RTMR3 {
			q.RTMR[3] = statement.Replay([48]byte(s.Log.Base), s.Log.Events)
		}
	})
	possess(reg, v.instance)
	return reg
}

func (r *rig) told(reg *api.Registration) (*api.Instance, error) {
	return r.Register(r.t.Context(), reg, 2, "192.0.2.1")
}

func (r *rig) mustTell(v *vm, edits ...func(*statement.Statement)) *api.Instance {
	r.t.Helper()
	i, err := r.told(r.says(v, edits...))
	require.NoError(r.t, err)
	return i
}

// seen is what the registry signs about an identity.
func (r *rig) seen(v *vm) *answer.Identity {
	r.t.Helper()
	nonce := bytes.Repeat([]byte{5}, 32)
	signed, err := r.SignedIdentity(r.t.Context(), hex.EncodeToString(public(v.origin)), nonce)
	require.NoError(r.t, err)
	signer, err := answer.NewSigner(key(250))
	require.NoError(r.t, err)
	verifier, err := answer.NewVerifier(signer.Public())
	require.NoError(r.t, err)
	var i answer.Identity
	require.NoError(r.t, verifier.Open(answer.KindIdentity, signed, &i))
	require.NoError(r.t, i.Answers(public(v.origin), nonce, r.at, r.at, 0))
	return &i
}

func (r *rig) actions() map[string]int {
	r.t.Helper()
	counted := map[string]int{}
	require.NoError(r.t, r.o.Store.View(r.t.Context(), func(tx *store.Tx) error {
		entries, err := tx.AuditEntries(0, 1000)
		for i := range entries {
			counted[entries[i].Action]++
		}
		return err
	}))
	return counted
}

func (r *rig) last(action string) *audit.Entry {
	r.t.Helper()
	var found *audit.Entry
	require.NoError(r.t, r.o.Store.View(r.t.Context(), func(tx *store.Tx) error {
		entries, err := tx.AuditEntries(0, 1000)
		for i := range entries {
			if entries[i].Action == action {
				found = &entries[i]
			}
		}
		return err
	}))
	require.NotNil(r.t, found, action)
	return found
}
