package tpmverifyprocessor

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/replay"
	"github.com/telemark-otel/telemark/internal/signtest"
)

// life is one life of a collector over windows on disk. end is SIGKILL: what is
// not on disk by then never was.
type life struct {
	*rig
	disk *mortal
	end  func()
}

func newLife(t *testing.T, dir string, before *rig) *life {
	t.Helper()
	ext, stop := openStorage(t, dir)
	client := windowClient(t, ext)
	disk := &mortal{onStorage: onStorage{client}}
	windows, opened, err := replay.Open(t.Context(), time.Now(), replay.Options{
		Limits: replay.DefaultLimits(), Persister: disk, Random: random,
	})
	require.NoError(t, err)
	require.NoError(t, opened.Lost)
	r := prepareRig(t, block.Logs, withWindows(windows))
	if before != nil {
		r.machines, r.authority = before.machines, before.authority
		r.trust(r.machines...)
		r.host.extensions[nonceID] = &nonces{authority: r.authority, windows: windows}
	}
	require.NoError(t, r.p.Start(t.Context(), r.host))
	l := &life{rig: r, disk: disk}
	l.end = func() {
		l.disk.dead = true
		require.NoError(t, r.p.Shutdown(context.WithoutCancel(t.Context())))
		require.NoError(t, client.Close(t.Context()))
		stop()
	}
	return l
}

// TestKilledBetweenClaimDeliverAndConfirm kills the collector at each step of
// the protocol, opens the same storage again, and lets the gateway send again,
// twice. Nothing is lost, and what may have come twice says so.
func TestKilledBetweenClaimDeliverAndConfirm(t *testing.T) {
	for name, c := range map[string]struct {
		// kill says when the first life ends.
		kill func(*life) func(context.Context, digest.Batch) error
		// delivered are the blocks that reached the next component.
		first, second int
		marked        bool
	}{
		"before the claim": {
			kill: func(l *life) func(context.Context, digest.Batch) error {
				l.disk.dead = true
				return nil
			},
			first: 0, second: 1, marked: false,
		},
		"between claim and delivery": {
			kill: func(l *life) func(context.Context, digest.Batch) error {
				return func(context.Context, digest.Batch) error {
					l.disk.dead = true
					return errKilled
				}
			},
			first: 0, second: 1, marked: true,
		},
		"between delivery and confirm": {
			kill: func(l *life) func(context.Context, digest.Batch) error {
				return func(context.Context, digest.Batch) error {
					l.disk.dead = true
					return nil
				}
			},
			first: 1, second: 1, marked: true,
		},
		"after the confirm": {
			kill:  func(*life) func(context.Context, digest.Batch) error { return nil },
			first: 1, second: 0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			one := newLife(t, dir, nil)
			d := one.signed(0)
			one.setAnswer(c.kill(one))
			_ = one.send(signtest.Copy(d)) // nobody is left to hear the answer
			require.Equal(t, c.first, one.take().Len())
			one.end()

			two := newLife(t, dir, one.rig)
			require.NoError(t, two.send(signtest.Copy(d)))
			got := two.take()
			require.Equal(t, c.second, got.Len())
			if c.second == 1 {
				require.Equal(t, c.marked, attr(got.At(0), attrRedelivery) == "true")
			}
			require.NoError(t, two.send(signtest.Copy(d)))
			require.Zero(t, two.take().Len(), "replayed after the restart")
			require.Zero(t, two.refusedAll())
			two.end()

			three := newLife(t, dir, one.rig)
			require.NoError(t, three.send(signtest.Copy(d)))
			require.Zero(t, three.take().Len(), "and after another one")
			require.Zero(t, three.status().GapsOpen)
			three.end()
		})
	}
}

// TestKilledWithFragmentsInFlight does the same to a block that arrives in
// fragments: items that were confirmed never come again.
func TestKilledWithFragmentsInFlight(t *testing.T) {
	dir := t.TempDir()
	one := newLife(t, dir, nil)
	d := signtest.Data(block.Logs, "edge-a", 10)
	one.machines[0].Sign(t, stream, block.Split, d)
	require.NoError(t, one.send(fragment(d, 0, 4)))
	one.setAnswer(func(context.Context, digest.Batch) error {
		one.disk.dead = true
		return nil
	})
	_ = one.send(fragment(d, 4, 7))
	require.Equal(t, 7, one.take().Items())
	one.end()

	two := newLife(t, dir, one.rig)
	require.NoError(t, two.send(signtest.Copy(d)))
	got := two.take()
	require.Equal(t, 6, got.Items(), "3 that may have come, 3 that never did")
	require.Equal(t, "true", attr(got.At(0), attrRedelivery))
	two.end()
}
