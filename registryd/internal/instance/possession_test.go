package instance

import (
	"bytes"
	"testing"

	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/registry/api"
)

// A VM on the same platform repeats everything that an instance ever signed in
// public, under a fresh nonce and a quote of its own, with a counter that the
// instance will never reach.
func TestIdentityIsNotPoisonedByAVMThatOnlyReadItsSignatures(t *testing.T) {
	r := newRig(t, nil)
	v := newVM(1, 9)
	honest := r.says(v)
	_, err := r.told(honest)
	if err != nil {
		t.Fatal(err)
	}
	for name, signature := range map[string][]byte{
		"none":            nil,
		"of another time": honest.Possession,
		"of its own key":  nil,
		"of another use":  honest.Operator.IdentitySignature,
	} {
		forged := r.says(v, func(s *statement.Statement) { s.Counter = 1 << 50 })
		forged.Possession = bytes.Clone(signature)
		if name == "of its own key" {
			possess(forged, key(77))
		}
		_, err := r.told(forged)
		refused(t, api.PossessionInvalid, err)
	}
	r.mustTell(v) // the honest one goes on
}

func TestPossessionBelongsToStatements(t *testing.T) {
	r := newRig(t, nil)
	reg := r.registration(1, 2)
	reg.Possession = bytes.Repeat([]byte{1}, 64)
	_, err := r.Register(t.Context(), reg, 1, "")
	refused(t, api.BadRequest, err)
}
