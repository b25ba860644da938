package registry

import (
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/registrytest"
	"github.com/telemark-otel/telemark/internal/verdict"
)

// TestLeaseThatWasJustRenewedIsAskedFor: the block that a machine signs under
// its new lease overtakes the word of the renewal.
func TestLeaseThatWasJustRenewedIsAskedFor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a, waits := machine(t, "edge-a"), machine(t, "edge-b")
		reg.Enrol(a)
		reg.Pend(waits)
		r := start(t, reg)
		r.streaming()
		reg.Set(func(s *registrytest.Switches) { s.MuteStream, s.HideEvents = true, true })
		end := time.Now().Add(48 * time.Hour)
		a.Entry.NotAfter = &end
		reg.Enrol(a)
		reg.Enrol(waits)
		for _, m := range []*registrytest.Machine{a, waits} {
			require.ErrorIs(t, r.keys.Recheck(m.KID), verdict.ErrUnavailable)
		}
		synctest.Wait()
		k, err := r.keys.Lookup(a.KID)
		require.NoError(t, err)
		require.True(t, end.Equal(k.NotAfter))
		require.Equal(t, "trusted", r.state(waits))
	})
}

// TestLeaseThatIsOverIsRefusedOnceTheRegistrySaysSo: and not for ever left open,
// nor asked about for every block.
func TestLeaseThatIsOverIsRefusedOnceTheRegistrySaysSo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a := machine(t, "edge-a")
		reg.Enrol(a)
		r := start(t, reg)
		r.streaming()
		require.ErrorIs(t, r.keys.Recheck(a.KID), verdict.ErrUnavailable)
		synctest.Wait()
		require.False(t, r.keys.Asking())
		for range 100 {
			require.NoError(t, r.keys.Recheck(a.KID))
			time.Sleep(100 * time.Millisecond)
		}
		require.Equal(t, 1, r.seen.lookedUp(OutcomeKnown))
		require.Equal(t, "trusted", r.state(a))
	})
}

// TestRevocationUnderARevisionThatWasSeenBeforeIsLearned: a registry that was
// restored from a backup gives revisions for the second time.
func TestRevocationUnderARevisionThatWasSeenBeforeIsLearned(t *testing.T) {
	for name, path := range map[string]string{"with a cache": filepath.Join(t.TempDir(), "registry.cache"), "without": ""} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				reg := registrytest.New(t)
				a, b, c, d := machine(t, "edge-a"), machine(t, "edge-b"), machine(t, "edge-c"), machine(t, "edge-d")
				for _, m := range []*registrytest.Machine{a, b, c} {
					reg.Enrol(m)
				}
				backup := reg.Revision()
				r := start(t, reg, withCache(path))
				r.streaming()
				reg.Revoke(b, "stolen")
				reg.Enrol(d)
				reg.Enrol(a)
				synctest.Wait()
				require.Equal(t, "trusted", r.state(d))
				reg.Rewind(backup)
				reg.Enrol(b) // which the copy knew
				reg.Set(func(s *registrytest.Switches) { s.MuteStream, s.NoStreams = true, true })
				time.Sleep(10 * time.Second)
				require.Positive(t, r.seen.refused(RefusedRollback))
				reg.Revoke(c, "stolen")
				time.Sleep(time.Second)
				require.Equal(t, "trusted", r.state(c), "it is not believed yet")
				for range 5 {
					reg.Enrol(a)
				}
				require.LessOrEqual(t, r.after(c, "revoked: stolen", time.Minute), time.Minute)
				require.Equal(t, "revoked: stolen", r.state(b), "nobody takes that back")
				require.Equal(t, "trusted", r.state(a))
				r.after(d, "unknown", time.Minute)
				if path == "" {
					return
				}
				r = r.restart(unreachable)
				require.Equal(t, "revoked: stolen", r.state(c))
				require.Equal(t, "trusted", r.state(a))
			})
		})
	}
}
