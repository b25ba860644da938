package enrol

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/registry/audit"
	"github.com/telemark-otel/telemark/internal/tpmattest"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

// actor of what machines do by themselves; with a join token it is "join:ID".
// ("token:NAME" is who has a bearer token.)
const (
	actor      = "enrolment"
	joinPrefix = "join:"
)

var actions = map[string]string{
	eventEnrolled: "machine.enrol",
	eventRenewed:  "machine.renew",
	eventPending:  "machine.pending",
}

const actionRefused = "machine.refuse"

const maxPeer = 128

// detail is what the audit log says of an enrolment.
type detail struct {
	KID         string           `json:"kid"`
	Name        string           `json:"name,omitempty"`
	Peer        string           `json:"peer"`
	Evidence    api.Evidence     `json:"evidence,omitempty"`
	Membership  api.Membership   `json:"membership,omitempty"`
	Expires     *time.Time       `json:"expires_at,omitempty"`
	Superseded  []string         `json:"superseded,omitempty"`
	Freed       string           `json:"freed_name_of,omitempty"`
	FreedKey    string           `json:"freed_key_of,omitempty"`
	TPM         *tpmattest.Model `json:"tpm,omitempty"`
	Certificate api.Reason       `json:"ek_certificate_refused,omitempty"`
	Refused     api.Reason       `json:"refused,omitempty"`
}

func (c *claim) entry(actor, action string, d detail) (audit.Entry, error) {
	d.KID, d.Peer = c.kid, c.peer[:min(len(c.peer), maxPeer)]
	encoded, err := json.Marshal(&d)
	if err != nil {
		return audit.Entry{}, fmt.Errorf("encode the detail of an audit entry: %w", err)
	}
	return audit.Entry{At: c.at, Actor: actor, Action: action, Subject: c.ek.Hash, Detail: encoded}, nil
}

// audit writes who came in, and how.
func (d *decision) audit(what string, k *store.Key, retired []string) error {
	out := detail{
		Name: d.machine.Name, Evidence: d.machine.Evidence, Membership: d.machine.Membership,
		Superseded: retired, TPM: d.claim.model, FreedKey: d.squatter,
	}
	if d.state == api.StateEnrolled {
		out.Expires = &k.ExpiresAt
	}
	if d.claim.certificate != nil {
		out.Certificate = d.claim.certificate.Reason
	}
	if d.freed != nil {
		out.Freed = d.freed.EKHash
	}
	who := actor
	if d.token != nil {
		who = joinPrefix + d.token.ID
	}
	e, err := d.claim.entry(who, actions[what], out)
	if err != nil {
		return err
	}
	return d.tx.Audit(e)
}

// refusals bounds how much the refused can write: one entry an hour for one
// reason and machine, and few of all of them. Strangers, who cost nothing to
// make, have a budget of their own, so that they do not hide the others.
type refusals struct {
	limit, strangers *rate.Limiter

	mu   sync.Mutex
	seen *lru.Cache[string, time.Time]
}

const (
	refusalsKept   = 4096
	refusalAgain   = time.Hour
	refusalsRate   = 1        // per second
	strangersRate  = 1.0 / 60 // per second
	refusalsAtOnce = 30
)

func newRefusals() *refusals {
	seen, _ := lru.New[string, time.Time](refusalsKept) // fails for no size only
	return &refusals{
		limit: rate.NewLimiter(refusalsRate, refusalsAtOnce), strangers: rate.NewLimiter(strangersRate, refusalsAtOnce), seen: seen,
	}
}

func (r *refusals) allow(reason api.Reason, machine string, stranger bool, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	limit := r.limit
	if stranger {
		limit = r.strangers
	}
	id := string(reason) + " " + machine
	if last, ok := r.seen.Get(id); ok && now.Before(last.Add(refusalAgain)) {
		return false
	}
	if !limit.AllowN(now, 1) {
		return false
	}
	r.seen.Add(id, now)
	return true
}

// noteRefusal writes into the audit log that a machine was refused which has
// proven its keys: what was revoked tries to come back, a name or a token is
// tried that is not the machine's. Its session ends with that.
func (s *Service) noteRefusal(ctx context.Context, c *claim, refused error) {
	reason := api.ReasonOf(refused)
	var stranger bool
	switch reason {
	case api.MachineRevoked, api.KeyRevoked, api.TokenExpired, api.TokenUsedUp: // known, or has a token
	case api.KeyTaken, api.NameTaken, api.NameMismatch, api.TokenProofInvalid:
		stranger = !c.chain
	default:
		return
	}
	if !s.refusals.allow(reason, c.ek.Hash, stranger, c.at) {
		return
	}
	err := s.o.Store.Update(ctx, func(tx *store.Tx) error {
		if err := tx.ConsumeSession(c.session.id, c.session.expires); err != nil {
			return err
		}
		e, err := c.entry(actor, actionRefused, detail{Name: c.request.Name, Refused: reason})
		if err != nil {
			return err
		}
		return tx.Audit(e)
	})
	if err != nil {
		s.o.Logger.Warn("a refused enrolment could not be written to the audit log", zap.String("machine", c.ek.Hash), zap.String("reason", string(reason)), zap.Error(err))
	}
}
