package registrar

import (
	"bytes"
	"context"
	"crypto/rand"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/registry/answer"
)

// witness asks which counter the registry saw, and gives it to the machine.
func (r *Registrar) witness(ctx context.Context) (*answer.Identity, error) {
	v := r.o.Machine.View()
	switch {
	case r.verifier == nil:
		return nil, reason.Refuse(reason.RegistryUnpinned, "what %.128q says cannot be believed", r.base)
	case !v.Linked:
		return nil, reason.Refuse(reason.StateUnlinked, "which identity it is stands in the locked storage")
	}
	i, err := r.ask(ctx, v.Origin)
	if err != nil {
		return nil, err
	}
	if err := r.o.Machine.Witness(state.Registry, i.Counter); err != nil {
		return nil, err
	}
	return i, nil
}

// ask gets a signed answer about an identity and holds it against the question.
func (r *Registrar) ask(ctx context.Context, origin []byte) (*answer.Identity, error) {
	nonce := make([]byte, 32)
	_, _ = rand.Read(nonce) // never fails
	asked := r.o.Now()
	signed, err := r.identity(ctx, origin, nonce)
	if err != nil {
		return nil, err
	}
	var i answer.Identity
	if err := r.verifier.Open(answer.KindIdentity, signed, &i); err != nil {
		return nil, invalid(err)
	}
	if err := i.Answers(origin, nonce, asked, r.o.Now(), clockSkew); err != nil {
		return nil, invalid(err)
	}
	switch {
	case r.store != i.Store:
		// One that was set up anew: its counters start anew too, and the word of
		// the owner's tool is left. The pinned key says that it is the registry.
		r.store, r.revision = i.Store, i.Revision
	case i.Revision < r.revision:
		return nil, reason.Refuse(reason.RegistryAnswerInvalid, "its revision is %d, and it was %d before: it was restored from a backup", i.Revision, r.revision)
	default:
		r.revision = i.Revision
	}
	return &i, nil
}

// confirm has the registry sign that it heard what it was told.
func (r *Registrar) confirm(ctx context.Context, s *statement.Statement) error {
	if r.verifier == nil {
		return nil
	}
	i, err := r.ask(ctx, s.Origin)
	switch {
	case err != nil:
		return err
	case !bytes.Equal(i.Instance, s.Instance):
		// Another one of this identity was faster, or it never heard of us.
		return reason.Refuse(reason.RegistryAnswerInvalid, "it was told of %.8x, and signs that the identity goes on with %.8x", []byte(s.Instance), []byte(i.Instance))
	case i.Counter < s.Counter:
		return reason.Refuse(reason.RegistryAnswerInvalid, "it was told of counter %d, and signs that it saw %d", s.Counter, i.Counter)
	default:
		return nil
	}
}

func invalid(err error) *reason.Error {
	return &reason.Error{Reason: reason.RegistryAnswerInvalid, Detail: err.Error(), Err: err}
}
