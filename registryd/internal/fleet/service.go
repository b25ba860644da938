// Package fleet is what operators and verifiers do with enrolled machines:
// inventory, approval, replacement, revocation, join tokens, policies, and the
// signed answers about keys. Every change is one transaction with its audit
// entry and its event.
//
// It leaves out enrolment, where machines speak for themselves (enrol), and who
// may call what (server).
package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/registry/audit"
	"github.com/telemark-otel/telemark/registryd/internal/seal"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

// Defaults and bounds.
const (
	defaultAnswerTTL = 15 * time.Minute
	maxImport        = 10_000
	maxEventKeys     = 256
	maxNote          = 1024
)

// Options of New.
type Options struct {
	Store  *store.DB
	Signer *answer.Signer
	// SealKey is 32 bytes, the same on all replicas: it seals the keys of join
	// tokens.
	SealKey []byte
	// AnswerTTL is how long a signed answer may be relied on; default 15m.
	AnswerTTL time.Duration
	Now       func() time.Time
	Logger    *zap.Logger
}

// Service serves operators and verifiers. Its errors are *api.Error. It is safe
// for concurrent use.
type Service struct {
	o Options
}

// New returns a Service.
func New(o Options) (*Service, error) {
	if o.Store == nil || o.Signer == nil || len(o.SealKey) != seal.KeySize {
		return nil, errors.New("fleet: store, signer and a seal key of 32 bytes are needed")
	}
	if o.AnswerTTL == 0 {
		o.AnswerTTL = defaultAnswerTTL
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return &Service{o: o}, nil
}

func (s *Service) now() time.Time { return s.o.Now().UTC().Truncate(time.Millisecond) }

// change is a writing transaction together with what it is called in the audit
// log and in the stream of events.
type change struct {
	*store.Tx
	at    time.Time
	actor string
	kids  []string
}

func (s *Service) update(ctx context.Context, actor string, fn func(*change) error) error {
	return store.Refusal(s.o.Store.Update(ctx, func(tx *store.Tx) error {
		return fn(&change{Tx: tx, at: s.now(), actor: actor})
	}))
}

func (s *Service) view(ctx context.Context, fn func(*store.Tx) error) error {
	return store.Refusal(s.o.Store.View(ctx, fn))
}

// log appends to the audit log.
func (c *change) log(action, subject string, detail any) error {
	e := audit.Entry{At: c.at, Actor: c.actor, Action: action, Subject: subject}
	if detail != nil {
		encoded, err := json.Marshal(detail)
		if err != nil {
			return fmt.Errorf("encode the detail of an audit entry: %w", err)
		}
		e.Detail = encoded
	}
	return c.Audit(e)
}

// touch notes a key for the event.
func (c *change) touch(kids ...string) { c.kids = append(c.kids, kids...) }

// emit tells verifiers what happened.
func (c *change) emit(what string) error {
	e := store.Event{At: c.at, What: what, KIDs: c.kids}
	if len(e.KIDs) > maxEventKeys {
		e.KIDs, e.More = e.KIDs[:maxEventKeys], true
	}
	return c.Emit(e)
}

func isRefusal(err error) bool {
	_, ok := errors.AsType[*api.Error](err)
	return ok
}

// find returns the machine with this EK hash or name.
func find(tx *store.Tx, id string) (*store.Machine, error) {
	read := tx.MachineByName
	if api.CheckEKHash(id) == nil {
		read = tx.Machine
	}
	m, err := read(id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, api.Refuse(api.NotFound, "there is no machine %.160q", id)
	}
	return m, err
}

// freeName makes room for a machine that is let in: one that only waits for
// approval does not hold a name against it, any other one does.
func freeName(tx *store.Tx, name, forHash string) error {
	holder, err := tx.MachineByName(name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		return err
	case holder.EKHash == forHash:
		return nil
	case holder.Allowed || holder.Membership != api.ByNothing || holder.Revoked != "":
		return api.Refuse(api.NameTaken, "%q is machine %s", name, holder.EKHash)
	}
	holder.Name = ""
	return tx.PutMachine(holder)
}
