package registry

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/registrytest"
)

// weather is a registry that things happen to, and what is true of its machines.
type weather struct {
	*rand.Rand
	*rig
	calm     time.Time // since when nothing is wrong
	machines []*registrytest.Machine
	enrolled []time.Time
	revoked  []time.Time
	known    []bool // that it is revoked, to this process
	began    time.Time
}

const shortStale = 2 * time.Minute

func (w *weather) config(o *Options) { o.MaxStale = shortStale }

func (w *weather) happen(cache string) {
	now := time.Now()
	i := w.IntN(len(w.machines))
	m := w.machines[i]
	switch w.IntN(12) {
	case 0, 1:
		if w.revoked[i].IsZero() {
			if w.enrolled[i].IsZero() {
				w.enrolled[i] = now
			}
			w.reg.Enrol(m)
		}
	case 2:
		if !w.enrolled[i].IsZero() && w.revoked[i].IsZero() {
			w.revoked[i] = now
			w.reg.Revoke(m, "stolen")
		}
	case 3:
		if w.enrolled[i].IsZero() {
			w.reg.Pend(m)
		}
	case 4:
		require.NoError(w.t, w.c.Close())
		w.rig = start(w.t, w.reg, withCache(cache), w.config)
		clear(w.known)
		w.began = time.Now()
	case 5, 6:
		w.calm = time.Time{}
		fault := w.IntN(6)
		w.reg.Set(func(s *registrytest.Switches) {
			switch fault {
			case 0:
				s.Down = http.StatusServiceUnavailable
			case 1:
				s.MuteStream = true
			case 2:
				s.NoStreams = true
			case 3:
				s.HideEvents = true
			case 4:
				delay := time.Duration(w.Int64N(int64(8 * time.Second)))
				s.Hold = func(string) { time.Sleep(delay) }
			default:
				s.Mangle = func(kind answer.Kind, _ any) []byte { return []byte(kind) }
			}
		})
	case 7, 8:
		w.reg.Set(func(s *registrytest.Switches) {
			s.Down, s.MuteStream, s.NoStreams, s.HideEvents, s.Hold, s.Mangle = 0, false, false, false, nil, nil
		})
		w.calm = now
	default:
	}
}

func (w *weather) check() {
	now := time.Now()
	calm := !w.calm.IsZero() && now.Sub(w.calm) > 45*time.Second && now.Sub(w.began) > 10*time.Second
	for i, m := range w.machines {
		state := w.state(m)
		since := func(t time.Time) time.Duration { return now.Sub(t) }
		about := fmt.Sprintf("machine %d is called %s, %v after enrolment, %v after revocation", i, state, since(w.enrolled[i]), since(w.revoked[i]))
		switch state {
		case "trusted":
			require.False(w.t, w.enrolled[i].IsZero(), about)
			require.False(w.t, w.known[i], about)
			require.False(w.t, !w.revoked[i].IsZero() && since(w.revoked[i]) > shortStale, about)
		case "unknown":
			require.False(w.t, !w.enrolled[i].IsZero() && since(w.enrolled[i]) > negativeTTL+time.Second, about)
		case "pending":
			require.False(w.t, !w.enrolled[i].IsZero() && since(w.enrolled[i]) > shortStale, about)
		case "unavailable":
		default:
			require.False(w.t, w.revoked[i].IsZero(), about)
			w.known[i] = true
		}
		if !calm || !w.enrolled[i].IsZero() && since(w.enrolled[i]) < 5*time.Second {
			continue
		}
		switch {
		case !w.revoked[i].IsZero() && since(w.revoked[i]) > 2*time.Second:
			require.Equal(w.t, "revoked: stolen", state, about)
		case !w.enrolled[i].IsZero() && w.revoked[i].IsZero():
			require.Equal(w.t, "trusted", state, about)
		}
	}
}

// TestNoWeatherMakesARevokedKeyTrustedOrATrustedKeyUnknown: whatever happens to
// registry, stream and process, in any order.
func TestNoWeatherMakesARevokedKeyTrustedOrATrustedKeyUnknown(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			cache := filepath.Join(t.TempDir(), "registry.cache")
			bubble(t, func(t *testing.T) {
				reg := registrytest.New(t)
				w := &weather{Rand: rand.New(rand.NewPCG(seed, 7)), calm: time.Now(), began: time.Now()}
				reg.Set(func(s *registrytest.Switches) { s.Page = 1 + w.IntN(4) })
				for i := range 6 {
					w.machines = append(w.machines, machine(t, fmt.Sprint("edge-", i)))
				}
				w.enrolled, w.revoked, w.known = make([]time.Time, 6), make([]time.Time, 6), make([]bool, 6)
				w.rig = start(t, reg, withCache(cache), w.config)
				for range 100 {
					w.happen(cache)
					time.Sleep(time.Duration(w.Int64N(int64(20 * time.Second))))
					w.check()
				}
			})
		})
	}
}
