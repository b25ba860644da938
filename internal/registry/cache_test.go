package registry

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/registrytest"
)

// restart ends a client and starts another one on its cache, over a network
// that leads nowhere.
func (r *rig) restart(options ...option) *rig {
	r.t.Helper()
	require.NoError(r.t, r.c.Close())
	return start(r.t, r.reg, append([]option{withCache(r.c.o.Cache), unreachable}, options...)...)
}

func TestOfflineStartFromTheCache(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "registry.cache")
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		reg.Set(func(s *registrytest.Switches) { s.Page, s.TTL = 1, 24*time.Hour })
		a, b, waits, stranger := machine(t, "edge-a"), machine(t, "edge-b"), machine(t, "edge-w"), machine(t, "edge-z")
		reg.Enrol(a)
		reg.Pend(waits)
		r := start(t, reg, withCache(path))
		r.streaming()
		reg.Enrol(b)
		time.Sleep(time.Minute)

		r = r.restart()
		require.Equal(t, "trusted", r.state(a))
		require.Equal(t, "trusted", r.state(b), "what came as an event is there too")
		require.Equal(t, "pending", r.state(waits))
		require.Equal(t, "unavailable", r.state(stranger), "that a key is not in the cache says nothing")
		require.True(t, r.keys.Names("host.name", "edge-a"))
		s := r.c.Status()
		require.True(t, s.Usable)
		require.False(t, s.Up)
		require.ErrorIs(t, s.Err, errUnreachable)
		require.LessOrEqual(t, s.Age, 35*time.Second)
		r.stays(a, "trusted", 14*time.Minute)
		time.Sleep(time.Minute)
		require.Equal(t, "unavailable", r.state(a))

		// Kept beyond max_stale, not believed, and back when the registry is.
		r = r.restart()
		require.Equal(t, 3, r.c.Status().Keys)
		require.Equal(t, "unavailable", r.state(a))
		require.NoError(t, r.c.Close())
		reg.Set(func(s *registrytest.Switches) { s.Page = 0 })
		r = start(t, reg, withCache(path))
		require.Equal(t, "trusted", r.state(a))

		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	})
}

// TestRevokedKeyInAnOldCacheAfterRestart: somebody puts the file back that was
// there before the revocation.
func TestRevokedKeyInAnOldCacheAfterRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.cache")
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a := machine(t, "edge-a")
		reg.Enrol(a)
		r := start(t, reg, withCache(path))
		r.streaming()
		time.Sleep(time.Minute)
		old, err := os.ReadFile(path)
		require.NoError(t, err)
		reg.Revoke(a, "stolen")
		require.Less(t, r.after(a, "revoked: stolen", time.Minute), 2*time.Second)
		require.NoError(t, r.c.Close())

		require.NoError(t, os.WriteFile(path, old, 0o600))
		r = start(t, reg, withCache(path))
		require.Equal(t, "revoked: stolen", r.state(a), "the registry is asked before anybody is believed")

		require.NoError(t, r.c.Close())
		require.NoError(t, os.WriteFile(path, old, 0o600))
		time.Sleep(15 * time.Minute)
		r = start(t, reg, withCache(path), unreachable)
		require.Equal(t, "unavailable", r.state(a), "without it, for max_stale from when the file was current")
	})
}

// TestRevocationSurvivesACrash: the process is killed right after the event.
func TestRevocationSurvivesACrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.cache")
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a := machine(t, "edge-a")
		reg.Enrol(a)
		r := start(t, reg, withCache(path))
		r.streaming()
		time.Sleep(time.Minute)
		reg.Revoke(a, "stolen")
		synctest.Wait()
		crashed := filepath.Join(t.TempDir(), "copy")
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(crashed, content, 0o600))

		r = start(t, reg, withCache(crashed), unreachable)
		require.Equal(t, "revoked: stolen", r.state(a))
	})
}

// TestChangedCacheTrustsNobody damages the file in every region, and cuts it at
// every length.
func TestChangedCacheTrustsNobody(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "registry.cache")
	var content []byte
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		reg.Set(func(s *registrytest.Switches) { s.Page = 1 })
		a, b := machine(t, "edge-a"), machine(t, "edge-b")
		reg.Enrol(a)
		reg.Enrol(b)
		r := start(t, reg, withCache(path))
		r.streaming()
		reg.Revoke(b, "stolen")
		time.Sleep(time.Minute)
		require.NoError(t, r.c.Close())
		var err error
		content, err = os.ReadFile(path)
		require.NoError(t, err)

		read := func(changed []byte) *rig {
			r := prepare(t, reg, withCache(path), unreachable)
			require.NoError(t, os.WriteFile(path, changed, 0o600))
			r.c.load()
			return r
		}
		whole := read(content)
		require.Equal(t, "trusted", whole.state(a))
		require.Equal(t, "revoked: stolen", whole.state(b))
		for i := 0; i < len(content); i += 7 {
			changed := append([]byte{}, content...)
			changed[i] ^= 0x41
			r := read(changed)
			require.NotEqual(t, "trusted", r.state(a), "byte %d of %d", i, len(content))
			require.NotEqual(t, "trusted", r.state(b), "byte %d of %d", i, len(content))
			require.Equal(t, 1, r.seen.refused(RefusedCache), "byte %d", i)
		}
		for n := 0; n < len(content); n += 7 {
			r := read(content[:n])
			require.NotEqual(t, "trusted", r.state(a), "cut to %d", n)
			require.NotEqual(t, "trusted", r.state(b), "cut to %d", n)
		}
	})
}

// TestRearrangedCacheTrustsNobody takes out, repeats and reorders whole frames,
// each with its signature.
func TestRearrangedCacheTrustsNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.cache")
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a, b := machine(t, "edge-a"), machine(t, "edge-b")
		reg.Enrol(a)
		r := start(t, reg, withCache(path))
		r.streaming()
		reg.Enrol(b)
		reg.Revoke(a, "stolen")
		reg.Revoke(b, "x")
		time.Sleep(time.Minute)
		require.NoError(t, r.c.Close())
		frames, err := readCache(path)
		require.NoError(t, err)
		require.Len(t, frames, 5, "snapshot, three events, heartbeat")
		s, enrol, revokeA, revokeB, beat := frames[0], frames[1], frames[2], frames[3], frames[4]

		other := registrytest.New(t)
		foreign := frame{frameHeartbeat, reg.Sign(answer.KindHeartbeat, &answer.Heartbeat{Head: other.Head(nil), Count: 1})}
		other.Set(func(s *registrytest.Switches) { s.Store = "store-2" })
		elsewhere := frame{frameHeartbeat, reg.Sign(answer.KindHeartbeat, &answer.Heartbeat{Head: other.Head(nil), Count: 1})}
		for name, frames := range map[string][]frame{
			"revocation left out":       {s, enrol, revokeB, beat},
			"last revocation left out":  {s, enrol, revokeA, beat},
			"events left out":           {s, beat},
			"snapshot left out":         {enrol, revokeA, revokeB, beat},
			"reordered":                 {s, revokeA, enrol, revokeB, beat},
			"repeated":                  {s, enrol, enrol, revokeA, revokeB, beat},
			"no proof":                  {s, enrol, revokeA, revokeB},
			"proof first":               {beat, s, enrol, revokeA, revokeB},
			"proof in between":          {s, beat, enrol, revokeA, revokeB, beat},
			"snapshot twice":            {s, enrol, s, revokeA, revokeB, beat},
			"snapshot alone":            {s},
			"proof alone":               {beat},
			"event called snapshot":     {s, {frameSnapshot, enrol.encoded}, revokeA, revokeB, beat},
			"proof of another store":    {s, enrol, revokeA, revokeB, elsewhere},
			"another store in between":  {s, {frameEvent, elsewhere.encoded}, beat},
			"kind that nobody knows":    {s, {'x', enrol.encoded}, revokeA, revokeB, beat},
			"heartbeat called snapshot": {{frameSnapshot, foreign.encoded}, foreign},
		} {
			require.NoError(t, writeCache(path, frames))
			r := prepare(t, reg, withCache(path), unreachable)
			r.c.load()
			require.Equal(t, "unavailable", r.state(a), name)
			require.Equal(t, "unavailable", r.state(b), name)
			require.Equal(t, 1, r.seen.refused(RefusedCache), name)
		}
	})
}

func TestRolledBackRegistryIsRefusedAfterARestartToo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.cache")
	for name, c := range map[string]struct {
		change func(*registrytest.Registry)
		want   Refusal
	}{
		"rolled back": {func(reg *registrytest.Registry) { reg.Rewind(1) }, RefusedRollback},
		"set up anew": {func(reg *registrytest.Registry) {
			reg.Set(func(s *registrytest.Switches) { s.Store = "store-2" })
		}, RefusedStore},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				reg := registrytest.New(t)
				a := machine(t, "edge-a")
				reg.Enrol(a)
				reg.Enrol(machine(t, "edge-b"))
				r := start(t, reg, withCache(path))
				require.NoError(t, r.c.Close())
				c.change(reg)
				r = start(t, reg, withCache(path))
				time.Sleep(10 * time.Second)
				require.Positive(t, r.seen.refused(c.want))
				require.False(t, r.c.Status().Up)
				require.Equal(t, "trusted", r.state(a), "what was known is relied on")
				time.Sleep(15 * time.Minute)
				require.Equal(t, "unavailable", r.state(a))

				require.NoError(t, r.c.Close())
				require.NoError(t, os.Remove(path))
				r = start(t, reg, withCache(path))
				require.Equal(t, "trusted", r.state(a), "an operator who removes the cache says that it is meant so")
			})
		})
	}
}

// TestCacheOfTheFutureIsNotReliedOn: the clock was turned back.
func TestCacheOfTheFutureIsNotReliedOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.cache")
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a := machine(t, "edge-a")
		reg.Enrol(a)
		r := start(t, reg, withCache(path))
		r = r.restart(func(o *Options) { o.Now = func() time.Time { return time.Now().Add(-time.Hour) } })
		require.Equal(t, "unavailable", r.state(a))
		require.Equal(t, 1, r.c.Status().Keys)
	})
}

func TestCacheOfAnotherRegistryIsNotBelieved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.cache")
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a := machine(t, "edge-a")
		reg.Enrol(a)
		r := start(t, reg, withCache(path))
		require.NoError(t, r.c.Close())
		r = start(t, registrytest.New(t), withCache(path), unreachable)
		require.Equal(t, "unavailable", r.state(a))
		require.Equal(t, 1, r.seen.refused(RefusedCache))
	})
}

// TestCacheDoesNotGrowWithoutEnd lets leases be renewed for a long time.
func TestCacheDoesNotGrowWithoutEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.cache")
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a, b := machine(t, "edge-a"), machine(t, "edge-b")
		reg.Enrol(a)
		reg.Enrol(b)
		reg.Pend(machine(t, "edge-c"))
		r := start(t, reg, withCache(path))
		r.streaming()
		for range maxChainFrames + 100 {
			reg.Enrol(a)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(2 * time.Minute)
		require.NoError(t, r.c.Close())
		frames, err := readCache(path)
		require.NoError(t, err)
		require.Less(t, len(frames), 200)
		r = r.restart()
		require.Equal(t, "trusted", r.state(a))
		require.Equal(t, "trusted", r.state(b))
		require.Equal(t, 3, r.c.Status().Keys)
	})
}

func TestCacheThatCannotBeWrittenStopsNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.cache")
	require.NoError(t, os.Mkdir(path, 0o700))
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a := machine(t, "edge-a")
		reg.Enrol(a)
		r := prepare(t, reg, withCache(path))
		require.NoError(t, r.c.Start(t.Context(), time.Second))
		require.Equal(t, "trusted", r.state(a))
		require.Equal(t, 1, r.seen.refused(RefusedCache))
		time.Sleep(10 * time.Second)
		require.Equal(t, "trusted", r.state(a))
		require.NoError(t, os.Remove(path))
		time.Sleep(2 * time.Minute)
		require.FileExists(t, path)
	})
}

func TestDownAtFirstStartParksAndRecovers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a := machine(t, "edge-a")
		reg.Enrol(a)
		reg.Set(func(s *registrytest.Switches) { s.Down = http.StatusServiceUnavailable })
		r := start(t, reg)
		require.Equal(t, "unavailable", r.state(a))
		changed := r.keys.Changed()
		reg.Set(func(s *registrytest.Switches) { s.Down = 0 })
		<-changed
		synctest.Wait() // the key is there first, and then what proves it current
		require.Equal(t, "trusted", r.state(a))
	})
}
