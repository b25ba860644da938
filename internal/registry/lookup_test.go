package registry

import (
	"encoding/binary"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/registry/registrytest"
)

func TestUnknownKidIsAskedForOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		reg.Enrol(machine(t, "edge-a"))
		stranger := machine(t, "edge-z")
		r := start(t, reg)
		r.streaming()
		reg.Set(func(s *registrytest.Switches) {
			s.Hold = func(path string) {
				if path == "/v1/keys/{kid}" {
					time.Sleep(300 * time.Millisecond)
				}
			}
		})
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() { require.Equal(t, "unavailable", r.state(stranger)) })
		}
		all.Wait()
		changed := r.keys.Changed()
		<-changed
		require.Equal(t, "unknown", r.state(stranger))
		r.stays(stranger, "unknown", 5*time.Minute)
		require.Equal(t, 1, reg.Requests("/v1/keys/{kid}"), "heartbeats prove it from then on")
		require.Equal(t, 1, r.seen.lookedUp(OutcomeUnknown))

		reg.Enrol(stranger)
		synctest.Wait()
		require.Equal(t, "trusted", r.state(stranger), "at once when it enrols")
	})
}

// TestKeyThatNoEventToldOfIsFoundByItsKid: the event is still on its way when the
// first block arrives.
func TestKeyThatNoEventToldOfIsFoundByItsKid(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		reg.Enrol(machine(t, "edge-a"))
		r := start(t, reg)
		r.streaming()
		reg.Set(func(s *registrytest.Switches) { s.HideEvents, s.Beat = true, time.Hour })
		b := machine(t, "edge-b")
		reg.Enrol(b)
		require.Equal(t, "unavailable", r.state(b), "never unknown before somebody said so")
		synctest.Wait()
		require.Equal(t, "trusted", r.state(b))
		require.Equal(t, 1, r.seen.lookedUp(OutcomeKnown))
		time.Sleep(time.Second)
		require.Equal(t, reg.Revision(), r.c.Status().Revision, "and the mirror has caught up")
	})
}

// TestUnsignedUnknownCountsForNothing: only a signed word, or a signed list that
// lacks the key, makes a key unknown.
func TestUnsignedUnknownCountsForNothing(t *testing.T) {
	for name, answers := range map[string]func(*registrytest.Registry) func(answer.Kind, any) []byte{
		"JSON": func(*registrytest.Registry) func(answer.Kind, any) []byte {
			return keysOnly(func(*answer.Key) []byte { return []byte(`{"error":"not found","reason":"not_found"}`) })
		},
		"another key": func(reg *registrytest.Registry) func(answer.Kind, any) []byte {
			return keysOnly(func(k *answer.Key) []byte {
				k.Record.KID = "000b" + k.Record.KID[4:66] + "00"
				return reg.Sign(answer.KindKey, k)
			})
		},
		"another nonce": func(reg *registrytest.Registry) func(answer.Kind, any) []byte {
			return keysOnly(func(k *answer.Key) []byte {
				k.Nonce = make([]byte, 32)
				return reg.Sign(answer.KindKey, k)
			})
		},
		"a snapshot in its place": func(reg *registrytest.Registry) func(answer.Kind, any) []byte {
			return keysOnly(func(k *answer.Key) []byte {
				return reg.Sign(answer.KindSnapshot, &answer.Snapshot{Head: k.Head, Through: k.Revision})
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				reg := registrytest.New(t)
				reg.Enrol(machine(t, "edge-a"))
				r := start(t, reg)
				r.streaming()
				lie := answers(reg)
				reg.Set(func(s *registrytest.Switches) {
					s.HideEvents, s.Beat = true, time.Hour
					s.Mangle = func(kind answer.Kind, v any) []byte {
						if kind == answer.KindSnapshot {
							return []byte("nothing")
						}
						return lie(kind, v)
					}
				})
				b := machine(t, "edge-b")
				reg.Enrol(b)
				require.Equal(t, "unavailable", r.state(b))
				time.Sleep(100 * time.Millisecond)
				require.Positive(t, r.seen.lookedUp(OutcomeFailed))
				r.stays(b, "unavailable", time.Minute)
				reg.Set(func(s *registrytest.Switches) { s.Mangle = nil })
				require.Less(t, r.after(b, "trusted", time.Minute), 5*time.Second)
			})
		})
	}
}

func keysOnly(lie func(*answer.Key) []byte) func(answer.Kind, any) []byte {
	return func(_ answer.Kind, v any) []byte {
		if k, ok := v.(*answer.Key); ok {
			return lie(k)
		}
		return nil
	}
}

func TestAnswerForAnotherKidIsNotThatKey(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		good, thief := machine(t, "edge-a"), machine(t, "edge-z")
		reg.Enrol(good)
		r := start(t, reg)
		r.streaming()
		reg.Set(func(s *registrytest.Switches) {
			s.Mangle = keysOnly(func(k *answer.Key) []byte {
				k.Record = reg.Record(good.KID)
				return reg.Sign(answer.KindKey, k)
			})
		})
		require.Equal(t, "unavailable", r.state(thief))
		time.Sleep(100 * time.Millisecond)
		require.NotEqual(t, "trusted", r.state(thief))
		require.Positive(t, r.seen.refused(RefusedKID))
	})
}

// TestFloodOfUnknownKidsIsBounded: whoever sends telemetry names keys as he
// likes.
func TestFloodOfUnknownKidsIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a := machine(t, "edge-a")
		reg.Enrol(a)
		r := start(t, reg)
		r.streaming()
		kid := make([]byte, kidLen)
		kid[1] = 0x0b
		lookUp := func(n uint64) bool {
			binary.BigEndian.PutUint64(kid[2:], n)
			k, err := r.keys.Lookup(kid)
			require.Nil(t, k)
			return err == nil
		}
		const flood = 100_000
		var n uint64
		for range 10 {
			for range flood / 10 {
				n++
				require.False(t, lookUp(n))
			}
			time.Sleep(100 * time.Millisecond)
			require.Equal(t, "trusted", r.state(a))
		}
		require.LessOrEqual(t, reg.Requests("/v1/keys/{kid}"), lookupBurst+2*lookupRate)
		require.LessOrEqual(t, reg.Requests("/v1/keys"), 8)
		require.LessOrEqual(t, len(r.c.sights.byKID), maxSightings)
		require.LessOrEqual(t, r.c.sights.order.Len(), maxSightings)
		require.Positive(t, r.seen.lookedUp(OutcomeDelayed))

		// The snapshot answers for those that were remembered, and a machine that
		// enrols in the middle of it is found.
		b := machine(t, "edge-b")
		reg.Enrol(b)
		require.Less(t, r.after(b, "trusted", 5*time.Second), time.Second)
		time.Sleep(time.Second)
		require.False(t, lookUp(n+1))
		time.Sleep(time.Second)
		require.True(t, lookUp(n+1), "unknown, under a signature")
	})
}

func TestFloodWhileTheRegistryIsDownIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a := machine(t, "edge-a")
		reg.Enrol(a)
		r := start(t, reg)
		reg.Set(func(s *registrytest.Switches) { s.Down = http.StatusServiceUnavailable })
		time.Sleep(10 * time.Second)
		kid := make([]byte, kidLen)
		kid[1] = 0x0b
		for n := range uint64(2 * maxSightings) {
			binary.BigEndian.PutUint64(kid[2:], n)
			_, err := r.keys.Lookup(kid)
			require.Error(t, err)
		}
		require.LessOrEqual(t, len(r.c.sights.byKID), maxSightings)
		require.Less(t, reg.Requests("/v1/keys/{kid}"), 10)
		require.Equal(t, "trusted", r.state(a))
	})
}

// TestFirstSightsAreAnsweredByASnapshotTogether: without look-ups of their own.
func TestFirstSightsAreAnsweredByASnapshotTogether(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s := newSightings()
	require.Equal(t, adviceAsk, s.see("a", now, now.Add(-time.Second), now))
	require.Equal(t, adviceWait, s.see("a", now, now.Add(-time.Second), now))
	require.False(t, s.settle(now.Add(-time.Second)), "it was asked for before")
	require.True(t, s.settle(now.Add(time.Second)))
	at := now.Add(2 * time.Second)
	require.Equal(t, adviceUnknown, s.see("a", at, now.Add(time.Second), at))
	late := now.Add(time.Minute)
	require.Equal(t, adviceWait, s.see("a", late, now.Add(time.Second), now), "without proof, not for long")
	require.Equal(t, adviceUnknown, s.see("a", late, now.Add(time.Second), late))
	s.answered("a", late, time.Time{})
	require.Equal(t, adviceWait, s.see("a", late, now.Add(time.Second), now), "not at once again")
	late = late.Add(retryAfter)
	require.Equal(t, adviceAsk, s.see("a", late, now.Add(time.Second), now))
	s.forget("a")
	s.forget("a")
	require.Zero(t, s.open)
	require.Zero(t, s.order.Len())
}

func TestRejectedMachineIsUnknownAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a := machine(t, "edge-a")
		reg.Pend(a)
		r := start(t, reg)
		r.streaming()
		require.Equal(t, "pending", r.state(a))
		reg.Put("rejected", answer.Record{KID: a.Entry.KID})
		synctest.Wait()
		require.Equal(t, "unavailable", r.state(a))
		synctest.Wait()
		require.Equal(t, "unknown", r.state(a))
		reg.Enrol(a)
		synctest.Wait()
		require.Equal(t, "trusted", r.state(a))
	})
}

// TestRegistryThatRefusesLookUpsIsNotHammered: it limits their rate, and one kid
// is sent all the time.
func TestRegistryThatRefusesLookUpsIsNotHammered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		reg.Enrol(machine(t, "edge-a"))
		r := start(t, reg)
		r.streaming()
		reg.Set(func(s *registrytest.Switches) {
			s.Mangle = func(answer.Kind, any) []byte { return []byte("slow down") }
			s.MuteStream = true
		})
		stranger := machine(t, "edge-z")
		r.stays(stranger, "unavailable", time.Minute)
		require.LessOrEqual(t, reg.Requests("/v1/keys/{kid}"), 61)
		require.LessOrEqual(t, reg.Requests("/v1/keys"), 80)
	})
}

func TestKidOfAnotherFormIsNobodys(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := prepare(t, registrytest.New(t))
		for _, kid := range [][]byte{nil, {}, make([]byte, 33), make([]byte, kidLen), make([]byte, 4096)} {
			k, err := r.keys.Lookup(kid)
			require.NoError(t, err)
			require.Nil(t, k)
		}
		require.Zero(t, r.c.sights.order.Len())
	})
}

func TestTwoViewsHaveTheirOwnDefaults(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a := machine(t, "edge-a")
		a.Entry.Bind = nil
		reg.Enrol(a)
		r := start(t, reg)
		strict := *defaults
		strict.Genuine = true
		second := r.c.Keys(&strict)
		k, err := second.Lookup(a.KID)
		require.NoError(t, err)
		require.True(t, k.Policy.Genuine)
		k, err = r.keys.Lookup(a.KID)
		require.NoError(t, err)
		require.False(t, k.Policy.Genuine)
		second.Close()
		r.streaming()
		reg.Revoke(a, "stolen")
		synctest.Wait()
		require.Equal(t, "revoked: stolen", r.state(a))
		k, err = second.Lookup(a.KID)
		require.NoError(t, err)
		require.Empty(t, k.Revoked, "a closed view stays as it was")
	})
}

func TestNamesFollowTheRegistry(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a, twin := machine(t, "edge-a"), machine(t, "edge-b")
		twin.Entry.Name = "edge-a"
		reg.Enrol(a)
		reg.Enrol(twin)
		r := start(t, reg)
		r.streaming()
		a.Entry.Name = "edge-n"
		reg.Enrol(a)
		synctest.Wait()
		require.True(t, r.keys.Names("host.name", "edge-a"), "the other one still has it")
		require.True(t, r.keys.Names("host.name", "edge-n"))
		a.Entry.Bind, twin.Entry.Bind = map[string]string{}, map[string]string{}
		reg.Put("policy_changed", registrytest.RecordOf(t, a, api.StateEnrolled, ""), registrytest.RecordOf(t, twin, api.StateEnrolled, ""))
		synctest.Wait()
		require.False(t, r.keys.Names("host.name", "edge-a"))
		require.False(t, r.keys.Binds("host.name"))
	})
}

func BenchmarkLookup(b *testing.B) {
	c := &Client{o: Options{Now: time.Now}}
	c.proven.Store(&proof{at: time.Now(), until: time.Now().Add(time.Hour)})
	k := newKeys(c, defaults)
	m := registrytest.NewMachine(b, "edge-a", time.Now())
	rec := registrytest.RecordOf(b, m, api.StateEnrolled, "")
	k.update([]change{{kid: string(m.KID), record: &rec}})
	b.ReportAllocs()
	for b.Loop() {
		if got, err := k.Lookup(m.KID); got == nil || err != nil {
			b.Fatal(got, err)
		}
	}
}

// BenchmarkEvent is one change among a hundred thousand keys.
func BenchmarkEvent(b *testing.B) {
	c := &Client{o: Options{Now: time.Now}}
	k := newKeys(c, defaults)
	m := registrytest.NewMachine(b, "edge-a", time.Now())
	pending := answer.Record{State: api.StatePending}
	var all []change
	for n := range uint64(100_000) {
		all = append(all, change{kid: string(binary.BigEndian.AppendUint64(nil, n)), record: &pending})
	}
	k.update(all)
	rec := registrytest.RecordOf(b, m, api.StateEnrolled, "")
	one := []change{{kid: string(m.KID), record: &rec}}
	b.ReportAllocs()
	for b.Loop() {
		k.update(one)
	}
}
