package registry

import (
	"encoding/hex"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/registry/registrytest"
)

// TestRevocationCountsThoughNoMoreKeysFit: what is known needs no more room when
// it changes.
func TestRevocationCountsThoughNoMoreKeysFit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := prepare(t, registrytest.New(t))
		m := machine(t, "edge-a")
		trusted := registrytest.RecordOf(t, m, api.StateEnrolled, "")
		trusted.Revision = 1
		all := []answer.Record{trusted}
		for i := range maxKeys - 1 {
			all = append(all, answer.Record{KID: fmt.Sprintf("000b%064x", i), State: api.StatePending, Revision: 1})
		}
		until := time.Now().Add(time.Hour)
		r.c.mu.Lock()
		defer r.c.mu.Unlock()
		_, err := r.c.apply(all, 1, until)
		require.NoError(t, err)
		require.Equal(t, "trusted", r.state(m))
		more := answer.Record{KID: "000b" + hex.EncodeToString(make([]byte, 31)) + "ff", State: api.StatePending, Revision: 2}
		more.KID = "000bff" + more.KID[6:]
		_, err = r.c.apply([]answer.Record{more}, 2, until)
		require.ErrorContains(t, err, string(RefusedTooManyKeys))
		revoked := registrytest.RecordOf(t, m, api.StateRevoked, "stolen")
		revoked.Revision = 2
		_, err = r.c.apply([]answer.Record{revoked, revoked}, 2, until)
		require.NoError(t, err)
		require.Equal(t, "revoked: stolen", r.state(m))
	})
}

// TestLateAnswerDoesNotBringBackAKeyThatIsGone: the event overtook the answer
// that was signed before.
func TestLateAnswerDoesNotBringBackAKeyThatIsGone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		reg.Enrol(machine(t, "edge-a"))
		r := start(t, reg)
		r.streaming()
		b := machine(t, "edge-b")
		reg.Set(func(s *registrytest.Switches) { s.HideEvents = true })
		late := make(chan struct{})
		reg.Set(func(s *registrytest.Switches) {
			s.Mangle = func(kind answer.Kind, v any) []byte {
				signed := reg.Sign(kind, v)
				if kind == answer.KindKey {
					<-late
				}
				return signed
			}
		})
		reg.Pend(b)
		require.Equal(t, "unavailable", r.state(b)) // asks
		time.Sleep(100 * time.Millisecond)
		reg.Set(func(s *registrytest.Switches) { s.HideEvents = false })
		reg.Put("rejected", answer.Record{KID: b.Entry.KID})
		time.Sleep(2 * time.Second)
		require.NotEqual(t, "pending", r.state(b))
		close(late)
		time.Sleep(time.Second)
		require.NotEqual(t, "pending", r.state(b))
		r.after(b, "unknown", 5*time.Second)
	})
}

// TestLookUpThatAnEventOvertookIsOver: nobody waits for an answer that came.
func TestLookUpThatAnEventOvertookIsOver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		reg.Enrol(machine(t, "edge-a"))
		r := start(t, reg)
		r.streaming()
		b := machine(t, "edge-b")
		reg.Enrol(b)
		time.Sleep(100 * time.Millisecond)
		require.Equal(t, "trusted", r.state(b))
		// A look-up that read the keys before the event, and asks after it.
		require.Error(t, r.c.unknown(string(b.KID)))
		time.Sleep(100 * time.Millisecond)
		require.False(t, r.keys.Asking())
	})
}
