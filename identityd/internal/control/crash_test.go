package control

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/internal/podmantest"
)

// crash ends the goroutine that gets to the at-th renaming of a file of the
// machine, which is when a write becomes true, and every one that would write
// after it: for them the process is gone.
type crash struct {
	mu      sync.Mutex
	at      int // 0: never
	after   bool
	renames int
	dead    bool
}

type crashDir struct {
	state.Dir
	c *crash
}

func (c *crash) alive() {
	c.mu.Lock()
	dead := c.dead
	c.mu.Unlock()
	if dead {
		runtime.Goexit()
	}
}

func (d *crashDir) Create(name string) (state.File, error) { d.c.alive(); return d.Dir.Create(name) }

func (d *crashDir) Remove(name string) error { d.c.alive(); return d.Dir.Remove(name) }

func (d *crashDir) Rename(from, to string) error {
	d.c.alive()
	d.c.mu.Lock()
	d.c.renames++
	now := d.c.renames == d.c.at
	d.c.dead = now
	d.c.mu.Unlock()
	if !now {
		return d.Dir.Rename(from, to)
	}
	if d.c.after {
		_ = d.Dir.Rename(from, to)
	}
	runtime.Goexit()
	return nil
}

// crashed runs do in a service that ends at a renaming, and reports whether it
// came to that.
func (l *lab) crashed(at int, after bool, c *crash, do func()) bool {
	c.mu.Lock()
	c.at, c.after, c.renames = at, after, 0
	c.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	<-done
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = 0
	return c.dead
}

// each runs a flow once for every place where it can be killed, each in a VM of
// its own that prepare has brought so far, and then then, in the service that was
// started anew.
func each(t *testing.T, prepare, do func(*lab), then func(l *lab, rebooted bool), reboots bool) {
	p := podmantest.New(t)
	p.Start(t)
	for at, more := 1, true; more; at++ {
		for _, after := range []bool{false, true} {
			if !more {
				break
			}
			if reboots && !after && at%2 == 0 {
				continue // nothing lies between the two files of one write
			}
			t.Run(fmt.Sprintf("%d %v", at, after), func(t *testing.T) {
				p.Import(t, app, "hello")
				p.Import(t, other, "second")
				l := newLabWith(t, p)
				c := &crash{}
				l.dirs = func(disk, run state.Dir) [2]state.Dir {
					return [2]state.Dir{&crashDir{disk, c}, &crashDir{run, c}}
				}
				l.start()
				prepare(l)
				more = l.crashed(at, after, c, func() { do(l) })
				if !more {
					return
				}
				rebooted := reboots && at%2 == 0
				if rebooted {
					l.reboot()
					p.Import(t, app, "hello")
					p.Import(t, other, "second")
				} else {
					l.kill()
				}
				l.dirs = nil
				l.start()
				then(l, rebooted)
			})
		}
	}
}

// finish goes on to the end, whatever the state is.
func (l *lab) finish() {
	l.t.Helper()
	if l.m.View().State == state.OwnerRegistered {
		l.is(state.OwnerRegistered)
		require.NoError(l.t, l.configure(app, "/data"))
	}
	if v := l.m.View(); v.State == state.WorkloadConfigured {
		l.is(state.WorkloadConfigured)
		require.NoError(l.t, l.expose(v.Workload.Image))
	}
	v := l.is(state.WorkloadExposed)
	l.serves(map[string]string{app: "hello", other: "second"}[v.State.Workload.Image])
}

func TestKilledWhileTheOwnerRegisters(t *testing.T) {
	var token string
	each(t, func(l *lab) { token = l.registerOperator() }, func(l *lab) { l.registerOwner(token) }, func(l *lab, _ bool) {
		l.t.Helper()
		if v := l.c.View(l.t.Context()); v.State.State == state.OperatorRegistered {
			require.Nil(l.t, v.State.Step)
			require.Empty(l.t, v.Problems)
			l.volume = nil
			l.registerOwner(token)
		}
		l.finish()
	}, false)
}

func TestKilledWhileConfiguring(t *testing.T) {
	each(t, func(l *lab) {
		l.registerOwner(l.registerOperator())
		require.NoError(l.t, l.configure(app, "/data"))
		l.copyIn("kept", "/data/file")
	}, func(l *lab) { _ = l.configure(other, "/data", "/more") }, func(l *lab, rebooted bool) {
		l.t.Helper()
		if rebooted {
			require.False(l.t, l.sshOpen())
			require.NoError(l.t, l.unlock())
		}
		l.is(state.WorkloadConfigured)
		out, err := l.ssh("cat /data/file", nil)
		require.NoError(l.t, err)
		require.Equal(l.t, "kept", out)
		l.finish()
	}, true)
}

func TestKilledWhileExposing(t *testing.T) {
	each(t, func(l *lab) {
		l.registerOwner(l.registerOperator())
		require.NoError(l.t, l.configure(app, "/data"))
	}, func(l *lab) { _ = l.expose(app) }, func(l *lab, rebooted bool) {
		l.t.Helper()
		asked := l.m.View().State == state.WorkloadExposed || l.m.View().Step != nil
		if rebooted {
			require.NoError(l.t, l.unlock())
		}
		if asked {
			// Nothing that was closed is opened again.
			l.is(state.WorkloadExposed)
		}
		l.finish()
	}, true)
}

func TestKilledWhileUnlocking(t *testing.T) {
	each(t, func(l *lab) {
		l.registerOwner(l.registerOperator())
		require.NoError(l.t, l.configure(app, "/data"))
		l.reboot()
		l.start()
	}, func(l *lab) { _ = l.unlock() }, func(l *lab, _ bool) {
		l.t.Helper()
		if !l.m.View().Linked {
			require.False(l.t, l.sshOpen())
			require.NoError(l.t, l.unlock())
		} else if v := l.m.View(); !v.Witnessed {
			require.False(l.t, l.sshOpen())
			require.Equal(l.t, string(reason.StateUnwitnessed), l.c.View(l.t.Context()).Problems[0].Reason)
			require.NoError(l.t, l.unlock())
		}
		l.finish()
	}, false)
}

// faulty is a disk on which renaming fails for a while.
type faulty struct {
	state.Dir
	f *fault
}

type fault struct {
	mu      sync.Mutex
	from    int // the first renaming that fails, 0: none
	to      int
	renames int
}

func (d *faulty) Rename(from, to string) error {
	d.f.mu.Lock()
	d.f.renames++
	fails := d.f.from != 0 && d.f.renames >= d.f.from && d.f.renames < d.f.to
	d.f.mu.Unlock()
	if fails {
		return errors.New("no space left on the device")
	}
	return d.Dir.Rename(from, to)
}

// A disk that fails for a moment leaves a step undone, or to be gone on with.
func TestDiskThatFailsForAWhile(t *testing.T) {
	p := podmantest.New(t)
	p.Start(t)
	for _, length := range []int{1, 4} {
		for from := 1; from < 8; from += 2 {
			t.Run(fmt.Sprintf("%d from %d", length, from), func(t *testing.T) {
				p.Import(t, app, "hello")
				p.Import(t, other, "second")
				l := newLabWith(t, p)
				f := &fault{}
				l.dirs = func(disk, run state.Dir) [2]state.Dir {
					return [2]state.Dir{&faulty{disk, f}, &faulty{run, f}}
				}
				l.owned()
				require.NoError(t, l.configure(app, "/data"))
				for _, do := range []func() error{
					func() error { return l.configure(other, "/data") },
					func() error { return l.expose(l.m.View().Workload.Image) },
				} {
					f.mu.Lock()
					f.from, f.to, f.renames = from, from+length, 0
					f.mu.Unlock()
					if err := do(); err != nil {
						refused(t, err, reason.StateUnavailable)
					}
					require.Eventually(t, func() bool {
						v := l.c.View(t.Context())
						return v.State.Step == nil && len(v.Problems) == 0
					}, eventually, tick)
					if l.m.View().State == state.WorkloadConfigured {
						l.is(state.WorkloadConfigured)
					}
				}
				f.mu.Lock()
				f.from = 0
				f.mu.Unlock()
				l.finish()
			})
		}
	}
}

func TestExposingThatCannotBeFinishedIsUndoneWhileTheDoorWasOpen(t *testing.T) {
	l := newLab(t)
	c := &crash{}
	l.dirs = func(disk, run state.Dir) [2]state.Dir {
		return [2]state.Dir{&crashDir{disk, c}, &crashDir{run, c}}
	}
	l.owned()
	require.NoError(t, l.configure(app, "/data"))
	// The intent is written, and no more.
	require.True(t, l.crashed(2, true, c, func() { _ = l.expose(app) }))
	l.kill()
	taken, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", l.hostPort))
	require.NoError(t, err)
	l.dirs = nil
	l.start()
	l.is(state.WorkloadConfigured)
	require.NoError(t, taken.Close())
	l.finish()
}
