// Package registrar tells the registry who this instance is, and asks it what it
// saw last: the client's side of docs/spec/tdx-registration.md and, for the
// witness, of docs/spec/answers.md. A registry that is down is tried again with
// backoff; nothing is forgotten, since what is owed stands in the state.
//
//	POST /v1/nonces → statement → report data → quote → POST /v1/instances → GET /v1/identities/{origin}
//
// The last call is there when the registry's key is pinned: whoever stands
// between may answer in its name that all is well, and only what it signs shows
// that it heard.
//
// What it leaves out: policy (the registry decides), the making of quotes, and
// registries of other instances.
package registrar

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/registry/answer"
)

// Times.
const (
	pollEvery   = time.Second      // how often Run looks whether something is owed
	firstRetry  = time.Second      // after the first failure; doubles with each
	lastRetry   = 5 * time.Minute  // no longer than this
	refusedWait = time.Hour        // after a refusal that only people can lift
	attemptTime = 60 * time.Second // for all of one attempt
	callTime    = 10 * time.Second // for one call of the registry
	clockSkew   = 5 * time.Minute  // between this VM's clock, which the host sets, and the registry's
	firstLease  = 24 * time.Hour   // of a registry that does not say
)

// Options of New.
type Options struct {
	URL string // of the registry
	// Pin is the registry's public signing key, PEM. Without it what the registry
	// saw cannot be believed, so that the owner's tool has to be the witness.
	Pin []byte
	// Client is NewClient(nil) when it is nil. Redirects are not followed.
	Client  *http.Client
	Machine *state.Machine
	// Statement returns what the instance says of itself now.
	Statement func() (*statement.Statement, error)
	Quote     func(ctx context.Context, reportData [64]byte) ([]byte, error)
	PPID      func(ctx context.Context) ([]byte, error)
	TLSKey    []byte // SHA-256 of the SubjectPublicKeyInfo, or empty
	// FirstGeneration allows POST /register, without statement and nonce, with a
	// registry that has no /v1/. Whoever stands between can then pretend that it
	// has none. Such a registry is no witness and signs nothing, so that it cannot
	// be had together with Pin.
	FirstGeneration bool
	Now             func() time.Time // time.Now when nil
	Logger          *zap.Logger
}

// Registrar is safe for concurrent use.
type Registrar struct {
	o        Options
	base     string
	client   *http.Client
	verifier *answer.Verifier // nil without a pin
	turn     chan struct{}    // holds one value while nobody talks to the registry

	// Belongs to whoever has the turn.
	store    string // of the registry, and the highest revision that it signed
	revision uint64

	mu       sync.Mutex
	lastOK   time.Time
	renewAt  time.Time // zero: the lease is not known
	expires  time.Time
	failed   *reason.Error // of the last attempt, nil after a success
	failures int           // in a row
	failedAt uint64        // the state's counter then
	nextTry  time.Time
}

// New returns a Registrar that does nothing before Run, Tell or Witness.
func New(o Options) (*Registrar, error) {
	u, err := url.Parse(o.URL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("the registry is named by an http or https URL without user and query, like https://registry.example:3000; %.128q is none", o.URL)
	}
	if o.Machine == nil || o.Statement == nil || o.Quote == nil || o.PPID == nil {
		return nil, errors.New("registrar: machine, statement, quote and PPID are needed")
	}
	if o.FirstGeneration && len(o.Pin) > 0 {
		return nil, errors.New("registrar: a registry whose key is pinned has /v1/; going without it would let anybody on the way keep its witness out")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	r := &Registrar{o: o, base: strings.TrimSuffix(u.String(), "/"), turn: make(chan struct{}, 1)}
	r.turn <- struct{}{}
	if len(o.Pin) > 0 {
		if r.verifier, err = answer.NewVerifier(o.Pin); err != nil {
			return nil, fmt.Errorf("the registry's pinned key: %w", err)
		}
	}
	if o.Client == nil {
		if o.Client, err = NewClient(nil); err != nil {
			return nil, err
		}
	}
	own := *o.Client
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	r.client = &own
	return r, nil
}

// Tell tells the registry what is owed now, if anything is, and asks it first
// what it saw where that is still open. An error is a *reason.Error; Run goes on
// trying. Nothing is sent of a state that is locked or was set back.
func (r *Registrar) Tell(ctx context.Context) error { return r.attempt(ctx, false) }

// Witness asks the registry, under a fresh nonce, which counter it saw last of
// this identity, and gives the answer to the machine. An error is a
// *reason.Error.
func (r *Registrar) Witness(ctx context.Context) error {
	return r.inTurn(ctx, func(ctx context.Context) error {
		_, err := r.witness(ctx)
		return err
	})
}

// inTurn runs fn when nobody else talks to the registry.
func (r *Registrar) inTurn(ctx context.Context, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	select {
	case <-r.turn:
	case <-ctx.Done():
		return reason.Because(reason.RegistryUnreachable, fmt.Errorf("waiting for another attempt: %w", ctx.Err()))
	}
	defer func() { r.turn <- struct{}{} }()
	return fn(ctx)
}

// Status is for /v1/state, /health and metrics.
type Status struct {
	URL       string    `json:"url"`
	Told      bool      `json:"told"` // nothing is owed
	LastOK    time.Time `json:"last_success,omitzero"`
	Expires   time.Time `json:"lease_expires_at,omitzero"`
	LastError string    `json:"last_error,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	NextTry   time.Time `json:"next_try,omitzero"`
}

// Status returns how it stands.
func (r *Registrar) Status() Status {
	v := r.o.Machine.View()
	r.mu.Lock()
	defer r.mu.Unlock()
	s := Status{URL: r.base, Told: !v.RegistryOwed && !v.RegistryPending, LastOK: r.lastOK, Expires: r.expires}
	if r.failed != nil {
		s.Reason, s.LastError, s.NextTry = string(r.failed.Reason), r.failed.Detail, r.nextTry
		if s.LastError == "" {
			s.LastError = r.failed.Reason.Help()
		}
	}
	return s
}
