package server

import (
	"context"
	"crypto/ed25519"

	"github.com/telemark-otel/telemark/identityd/internal/control"
	"github.com/telemark-otel/telemark/identityd/internal/registrar"
	"github.com/telemark-otel/telemark/identityd/internal/request"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/internal/identity/statement"
)

// Control takes the steps. It serves any number of goroutines. A call returns
// when its step is finished or undone; its context bounds the waiting for what
// may still be undone. What it is given was verified. *control.Control is one.
type Control interface {
	RegisterOperator(ctx context.Context, o *request.Operator) (control.Outcome, error)
	RenewOperator(ctx context.Context, who state.Role) (control.Outcome, error)
	RegisterOwner(ctx context.Context, token string, o *request.Owner) (control.Outcome, error)
	Configure(ctx context.Context, w *request.Configure, auth request.Auth) (control.Outcome, error)
	Expose(ctx context.Context, e *request.Expose, auth request.Auth) (control.Outcome, error)
	StorageRequest(ctx context.Context, nonce [32]byte, owner ed25519.PublicKey) (transcript, quote []byte, err error)
	Unlock(ctx context.Context, u *request.Unlock) (control.Outcome, error)
	Attest(ctx context.Context, nonce []byte) (raw, quote []byte, err error)
	View(ctx context.Context) control.View
}

// Machine is the state as requests are held against it. It serves any number of
// goroutines and waits for nobody. *state.Machine is one.
type Machine interface {
	request.Memory
	View() state.View
}

// Registrar says how it stands with the registry. *registrar.Registrar is one.
type Registrar interface {
	Status() registrar.Status
}

// Events is the event log of this boot. *measure.Log is one.
type Events interface {
	View() statement.Log
}
