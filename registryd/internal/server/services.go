package server

import (
	"context"

	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

// Enrolment takes machines in. It serves any number of goroutines; errors are
// *api.Error. *enrol.Service is one.
type Enrolment interface {
	Start(ctx context.Context, r *api.EnrolmentStart) (*api.Challenge, error)
	Complete(ctx context.Context, r *api.EnrolmentComplete, peer string) (*api.Enrolment, error)
}

// Instances registers TDX instances. It serves any number of goroutines; errors
// are *api.Error. *instance.Service is one.
type Instances interface {
	Nonce(ctx context.Context) (*api.InstanceNonce, error)
	Register(ctx context.Context, r *api.Registration, generation int, peer string) (*api.Instance, error)
	Instance(ctx context.Context, pubkey string) (*api.Instance, error)
	Instances(ctx context.Context, f store.InstanceFilter) (*api.Page[api.Instance], error)
	Revoke(ctx context.Context, actor, pubkey, why string) (*api.Instance, error)
	Identity(ctx context.Context, origin string) (*api.Identity, error)
	SignedIdentity(ctx context.Context, origin string, nonce []byte) ([]byte, error)
}

// Fleet is what operators and verifiers ask for. It serves any number of
// goroutines; errors are *api.Error. *fleet.Service is one.
type Fleet interface {
	Import(ctx context.Context, actor string, r *api.ImportRequest) (*api.ImportResult, error)
	Machine(ctx context.Context, id string) (*api.Machine, error)
	Machines(ctx context.Context, f store.MachineFilter) (*api.Page[api.Machine], error)
	Approve(ctx context.Context, actor, id string, r *api.ApproveRequest) (*api.Machine, error)
	Reject(ctx context.Context, actor, id string) error
	Replace(ctx context.Context, actor, id string, r *api.ReplaceRequest) (*api.Machine, error)
	RevokeMachine(ctx context.Context, actor, id, why string) (*api.Machine, error)
	RevokeKey(ctx context.Context, actor, kid, why string) (*api.Key, error)

	CreateToken(ctx context.Context, actor string, r *api.TokenRequest) (*api.TokenCreated, error)
	Tokens(ctx context.Context) ([]api.TokenInfo, error)
	DeleteToken(ctx context.Context, actor, id string) error

	Policies(ctx context.Context) ([]*api.Policy, error)
	PutPolicy(ctx context.Context, actor string, p *api.Policy) (*api.Policy, error)
	DeletePolicy(ctx context.Context, actor, scope string) error

	Key(ctx context.Context, kid string) (*api.Key, error)
	SignedKey(ctx context.Context, kid string, nonce []byte) ([]byte, error)
	SignedSnapshot(ctx context.Context, since uint64, nonce []byte, limit int) ([]byte, error)
	Teller
}

// Teller makes what event streams carry. SignEvent and SignedHeartbeat do not
// touch the store, and SignEvent does not change the event, which many streams
// share.
type Teller interface {
	Event(ctx context.Context, e *store.Event) (*answer.Event, error)
	SignEvent(e *answer.Event, nonce []byte) ([]byte, error)
	SignedHeartbeat(nonce []byte, count, revision uint64) ([]byte, error)
}

// Store is what the server itself reads: events and the audit log.
// *store.DB is one.
type Store interface {
	View(ctx context.Context, fn func(*store.Tx) error) error
	Changed() <-chan struct{}
	Ping(ctx context.Context) error
	ID() string
}

// Signer signs answers. *answer.Signer is one.
type Signer interface {
	Sign(kind answer.Kind, v any) ([]byte, error)
}
