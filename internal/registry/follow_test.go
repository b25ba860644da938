package registry

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/registry/registrytest"
)

func TestKeysAreThereWhenStartReturns(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		reg.Set(func(s *registrytest.Switches) { s.Page = 2 })
		var all []*registrytest.Machine
		for _, name := range []string{"edge-a", "edge-b", "edge-c", "edge-d", "edge-e"} {
			all = append(all, machine(t, name))
			reg.Enrol(all[len(all)-1])
		}
		waits, gone := machine(t, "edge-w"), machine(t, "edge-g")
		reg.Pend(waits)
		reg.Enrol(gone)
		reg.Revoke(gone, "stolen")
		r := start(t, reg)
		for _, m := range all {
			require.Equal(t, "trusted", r.state(m))
		}
		require.Equal(t, "pending", r.state(waits))
		require.Equal(t, "revoked: stolen", r.state(gone))
		require.True(t, r.keys.Binds("host.name"))
		require.True(t, r.keys.Names("host.name", "EDGE-C"))
		require.True(t, r.keys.Names("host.name", "edge-g"), "what pretends to be a revoked machine pretends still")
		require.False(t, r.keys.Names("host.name", "edge-z"))
		require.False(t, r.keys.Binds("service.name"))
		require.Equal(t, 7, r.keys.Len())
		require.Zero(t, reg.Requests("/v1/keys/{kid}"))
		s := r.c.Status()
		require.True(t, s.Up && s.Usable)
		require.Equal(t, reg.Revision(), s.Revision)
	})
}

func TestRevocationArrivesAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a, b := machine(t, "edge-a"), machine(t, "edge-b")
		reg.Enrol(a)
		r := start(t, reg)
		r.streaming()
		polls := reg.Requests("/v1/keys")
		reg.Revoke(a, "stolen")
		synctest.Wait()
		require.Equal(t, "revoked: stolen", r.state(a))
		reg.Enrol(b)
		synctest.Wait()
		require.Equal(t, "trusted", r.state(b))
		require.Equal(t, polls, reg.Requests("/v1/keys"), "nobody had to ask")
		time.Sleep(10 * time.Minute)
		require.Equal(t, "trusted", r.state(b))
		require.Less(t, r.c.Status().Age, 2*time.Second)
		require.Less(t, reg.Requests("/v1/keys"), polls+15, "with a stream, snapshots are rare")
		require.Equal(t, 1, reg.Requests("/v1/events"))
	})
}

func TestSupersededKeyKeepsWhatItSignedBefore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a := machine(t, "edge-a")
		reg.Enrol(a)
		r := start(t, reg)
		reg.Revoke(a, api.Superseded)
		require.Less(t, r.after(a, "revoked: superseded", 5*time.Second), 2*time.Second)
		k, err := r.keys.Lookup(a.KID)
		require.NoError(t, err)
		require.False(t, k.NotAfter.IsZero())
	})
}

// TestBlackHoledEventStreamIsNoticed: the connection stands and nothing comes.
func TestBlackHoledEventStreamIsNoticed(t *testing.T) {
	for name, hole := range map[string]func(*registrytest.Switches){
		"that never began": func(s *registrytest.Switches) { s.SilentStream = true },
		"that stopped":     func(s *registrytest.Switches) { s.MuteStream = true },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				reg := registrytest.New(t)
				a := machine(t, "edge-a")
				reg.Enrol(a)
				r := start(t, reg)
				r.streaming()
				reg.Set(hole)
				if name == "that never began" {
					reg.Set(func(s *registrytest.Switches) { s.Down = 503 }) // which ends the stream that is there
					time.Sleep(time.Second)
					reg.Set(func(s *registrytest.Switches) { s.Down = 0 })
				}
				reg.Revoke(a, "stolen")
				took := r.after(a, "revoked: stolen", 10*time.Second)
				require.LessOrEqual(t, took, 5*time.Second)
				time.Sleep(time.Minute)
				require.False(t, r.c.streaming.Load())
				require.True(t, r.c.Status().Usable)
				require.Less(t, r.c.Status().Age, 3*time.Second, "snapshots take the stream's place")
				reg.Set(func(s *registrytest.Switches) { s.SilentStream, s.MuteStream = false, false })
				time.Sleep(time.Minute)
				require.True(t, r.c.streaming.Load(), "and the stream comes back")
			})
		})
	}
}

func TestHeartbeatsThatHideAnEventLeadToASnapshot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a := machine(t, "edge-a")
		reg.Enrol(a)
		r := start(t, reg)
		r.streaming()
		reg.Set(func(s *registrytest.Switches) { s.HideEvents = true })
		reg.Revoke(a, "stolen")
		require.LessOrEqual(t, r.after(a, "revoked: stolen", 10*time.Second), 2*time.Second)
	})
}

func TestMissingEventLeadsToASnapshot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a, b := machine(t, "edge-a"), machine(t, "edge-b")
		reg.Enrol(a)
		r := start(t, reg)
		r.streaming()
		// Both events and heartbeats of the first change are dropped by somebody
		// who cannot sign; the next event names the one before.
		reg.Set(func(s *registrytest.Switches) { s.HideEvents, s.Beat = true, time.Hour })
		time.Sleep(10 * time.Millisecond)
		reg.Revoke(a, "stolen")
		time.Sleep(100 * time.Millisecond)
		reg.Set(func(s *registrytest.Switches) { s.HideEvents = false })
		polls := reg.Requests("/v1/keys")
		reg.Enrol(b)
		synctest.Wait()
		require.Equal(t, "trusted", r.state(b))
		require.LessOrEqual(t, r.after(a, "revoked: stolen", time.Second), 300*time.Millisecond)
		require.Equal(t, polls+1, reg.Requests("/v1/keys"))
	})
}

func TestIncompleteEventLeadsToASnapshot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a, b := machine(t, "edge-a"), machine(t, "edge-b")
		reg.Enrol(a)
		reg.Enrol(b)
		r := start(t, reg)
		r.streaming()
		reg.Set(func(s *registrytest.Switches) {
			s.Mangle = func(_ answer.Kind, v any) []byte {
				if e, ok := v.(*answer.Event); ok {
					e.Records, e.Incomplete = e.Records[:1], true
				}
				return nil
			}
		})
		reg.Put("revoked", registrytest.RecordOf(t, a, api.StateRevoked, "x"), registrytest.RecordOf(t, b, api.StateRevoked, "x"))
		synctest.Wait()
		require.Equal(t, "revoked: x", r.state(a))
		require.LessOrEqual(t, r.after(b, "revoked: x", time.Second), 300*time.Millisecond)
	})
}

// TestHeldUpEventStreamIsNoticed: everything arrives, signed and in order, ever
// later.
func TestHeldUpEventStreamIsNoticed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		reg.Enrol(machine(t, "edge-a"))
		behind := time.Duration(0)
		reg.Set(func(s *registrytest.Switches) {
			s.Mangle = func(_ answer.Kind, v any) []byte {
				if h, ok := v.(*answer.Heartbeat); ok {
					h.IssuedAt = h.IssuedAt.Add(-behind)
					behind += time.Second
				}
				return nil
			}
		})
		r := start(t, reg)
		r.streaming()
		time.Sleep(20 * time.Second)
		require.GreaterOrEqual(t, reg.Requests("/v1/events"), 3, "it was given up and begun anew")
		require.Greater(t, reg.Requests("/v1/keys"), 3, "and snapshots were asked for at once")
	})
}

func TestServerRestartIsSurvived(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a := machine(t, "edge-a")
		reg.Enrol(a)
		r := start(t, reg)
		r.streaming()
		reg.Set(func(s *registrytest.Switches) { s.Down = http.StatusBadGateway })
		r.stays(a, "trusted", 10*time.Minute)
		require.False(t, r.c.Status().Up)
		reg.Revoke(a, "stolen")
		reg.Set(func(s *registrytest.Switches) { s.Down = 0 })
		require.Less(t, r.after(a, "revoked: stolen", 10*time.Second), 3*time.Second)
		time.Sleep(time.Minute)
		require.True(t, r.c.streaming.Load())
		require.True(t, r.c.Status().Up)
	})
}

func TestKeysAreUnavailableBeyondMaxStale(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a, stranger := machine(t, "edge-a"), machine(t, "edge-z")
		reg.Enrol(a)
		reg.Set(func(s *registrytest.Switches) { s.TTL = 24 * time.Hour })
		r := start(t, reg)
		r.after(stranger, "unknown", 5*time.Second)
		reg.Set(func(s *registrytest.Switches) { s.Down = http.StatusServiceUnavailable })
		r.stays(a, "trusted", 14*time.Minute)
		time.Sleep(2 * time.Minute)
		require.Equal(t, "unavailable", r.state(a), "never unknown: that would drop its data")
		require.Equal(t, "unavailable", r.state(stranger))
		require.False(t, r.c.Status().Usable)
		waiting := r.keys.Changed()
		reg.Set(func(s *registrytest.Switches) { s.Down = 0 })
		<-waiting
		require.Equal(t, "trusted", r.state(a), "whoever waits is woken when it can be judged")
	})
}

// TestAnswersAreWorthNothingBeyondNotAfter: the registry's own bound holds too.
func TestAnswersAreWorthNothingBeyondNotAfter(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a := machine(t, "edge-a")
		reg.Enrol(a)
		reg.Set(func(s *registrytest.Switches) { s.TTL = 5 * time.Minute })
		r := start(t, reg)
		reg.Set(func(s *registrytest.Switches) { s.Down = http.StatusServiceUnavailable })
		r.stays(a, "trusted", 4*time.Minute)
		time.Sleep(2 * time.Minute)
		require.Equal(t, "unavailable", r.state(a))
	})
}

func TestDownRegistryIsNotHammered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		reg.Set(func(s *registrytest.Switches) { s.Down = http.StatusServiceUnavailable })
		r := start(t, reg)
		for i := range 6000 {
			require.Equal(t, "unavailable", r.state(machine(t, string(rune('a'+i%20)))))
			time.Sleep(10 * time.Millisecond)
		}
		require.Less(t, reg.Requests("/v1/keys"), 80)
		require.Zero(t, reg.Requests("/v1/keys/{kid}"))
		require.Zero(t, reg.Requests("/v1/events"))
	})
}

// TestDeadConnectionsAreNotUsedAgain: a middle box forgot them all, and lets new
// ones through.
func TestDeadConnectionsAreNotUsedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a := machine(t, "edge-a")
		reg.Enrol(a)
		r := start(t, reg)
		r.streaming()
		r.net.Freeze()
		reg.Revoke(a, "stolen")
		require.LessOrEqual(t, r.after(a, "revoked: stolen", time.Minute), 5*time.Second)
		time.Sleep(10 * time.Second)
		require.True(t, r.c.streaming.Load())
	})
}

// TestRefusedStreamIsNotAskedForWithoutEnd: a registry that has no room for one
// more stream is asked by snapshots.
func TestRefusedStreamIsNotAskedForWithoutEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a := machine(t, "edge-a")
		reg.Enrol(a)
		reg.Set(func(s *registrytest.Switches) { s.NoStreams = true })
		r := start(t, reg)
		time.Sleep(10 * time.Minute)
		require.Less(t, reg.Requests("/v1/events"), 30)
		require.Less(t, reg.Requests("/v1/keys"), 700)
		require.Greater(t, reg.Requests("/v1/keys"), 500)
		reg.Revoke(a, "stolen")
		require.LessOrEqual(t, r.after(a, "revoked: stolen", time.Minute), 2*time.Second)
	})
}

// TestIncompleteEventWithoutNewsIsNoLie: a registry that cannot tell what a
// stream missed says so at the revision where the stream is.
func TestIncompleteEventWithoutNewsIsNoLie(t *testing.T) {
	e := &answer.Event{Head: answer.Head{Revision: 7}, Previous: 7, Incomplete: true}
	require.NoError(t, checkEvent(e))
	e.Incomplete = false
	require.Error(t, checkEvent(e))
	e.Incomplete, e.Previous = true, 8
	require.Error(t, checkEvent(e))
}
