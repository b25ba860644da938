package replay

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/reason"
)

// windowOf is the window of kidA's logs.
func windowOf(l *Local) *window { return l.keys[keyID{scopeA, kidA}].epoch(1).window(logs) }

func TestSteadyStreamIsWrittenOncePerRequest(t *testing.T) {
	const requests, size = 200, 10
	d := newDisk()
	l := open(t, t0, d)
	for i := range uint64(requests) {
		var blocks []Block
		for n := range uint64(size) {
			blocks = append(blocks, blk(1+i*size+n))
		}
		if i%2 == 1 {
			slices.Reverse(blocks)
		}
		accept(t, l, t0, blocks...)
	}
	require.LessOrEqual(t, d.writes, requests+5)
	require.LessOrEqual(t, windowOf(l).reserved, uint64(requests*size+aheadTimes*size))
}

func TestClaimBeyondTheReservationIsDurableBeforeItReturns(t *testing.T) {
	d := newDisk()
	l := open(t, t0, d)
	accept(t, l, t0, blk(1))
	reserved := windowOf(l).durable
	require.Greater(t, reserved, uint64(1))

	writes := d.writes
	claim1(t, l, t0, blk(reserved))
	require.Equal(t, writes, d.writes)
	claim1(t, l, t0, blk(reserved+1))
	require.Greater(t, d.writes, writes)
	require.True(t, claim1(t, open(t, t0, d.reload()), t0, blk(reserved+1)).Redelivery)
	require.True(t, claim1(t, open(t, t0, d.reload()), t0, blk(reserved)).Redelivery)
}

func TestReleasedBlockIsMarkedAfterACrashWithoutAWrite(t *testing.T) {
	d := newDisk()
	l := open(t, t0, d)
	o := claim1(t, l, t0, blk(1))
	writes := d.writes
	release(t, l, t0, o)
	require.Equal(t, writes, d.writes)
	require.True(t, claim1(t, open(t, t0, d.reload()), t0, blk(1)).Redelivery)
	require.True(t, claim1(t, l, t0, blk(1)).Redelivery)
}

func TestReservationFallsBackWhenAStreamCalmsDown(t *testing.T) {
	d := newDisk()
	l := open(t, t0, d)
	no := uint64(0)
	send := func(n int) {
		blocks := make([]Block, n)
		for i := range blocks {
			no++
			blocks[i] = blk(no)
		}
		accept(t, l, t0, blocks...)
	}
	send(5000)
	require.Greater(t, windowOf(l).reserved, no+maxAhead/2)
	require.LessOrEqual(t, windowOf(l).reserved, no+maxAhead)
	for range 100 {
		send(1)
	}
	require.Less(t, windowOf(l).reserved-no, uint64(2*aheadDecay))
	writes := d.writes
	send(1)
	require.Equal(t, writes+1, d.writes)
}

// A stream of which this verifier sees one request in ten needs no further
// writes either.
func TestReservationCoversAStreamThatIsSharedByVerifiers(t *testing.T) {
	d := newDisk()
	l := open(t, t0, d)
	const requests = 50
	for i := range uint64(requests) {
		accept(t, l, t0, blk(1+10*i))
	}
	require.LessOrEqual(t, d.writes, requests+5)
}

// Whatever number a signer chooses, a window takes two numbers more.
func TestFarNumbersTakeNoRoom(t *testing.T) {
	d := newDisk()
	l := open(t, t0, d)
	accept(t, l, t0, blk(1))
	size := len(d.values[windowOf(l).record])
	out := claim1(t, l, t0, blk(maxNumber-1))
	require.Equal(t, uint64(maxNumber-1), windowOf(l).reserved)
	require.Less(t, len(d.values[windowOf(l).record]), size+40)
	l = open(t, t0, d.reload())
	require.True(t, claim1(t, l, t0, blk(maxNumber-1)).Redelivery)
	refused(t, l, t0, blk(maxNumber), reason.StreamInvalid)
	refused(t, l, t0, blk(1), reason.Duplicate)
	require.Empty(t, out.Reason)
}

func TestWhatACrashLeftUncertainStaysSoOverOrderlyEnds(t *testing.T) {
	d := newDisk()
	l := open(t, t0, d)
	claimAll(t, l, t0, blk(3))
	accept(t, l, t0, blk(1))
	for range 3 { // a crash, then orderly ends
		d = d.reload()
		l = open(t, t0, d)
		require.NoError(t, l.Close(t.Context()))
	}
	l = open(t, t0, d.reload())
	out := claimAll(t, l, t0, blk(2), blk(3), blk(5000))
	require.True(t, out[0].Redelivery)
	require.True(t, out[1].Redelivery)
	require.False(t, out[2].Redelivery)
}

// While a write is under way nobody may rely on more than it will leave on disk.
func TestReservationThatIsLoweredHoldsFromTheBeginningOfItsWrite(t *testing.T) {
	d := newDisk()
	l := open(t, t0, d)
	blocks := make([]Block, 1000)
	for i := range blocks {
		blocks[i] = blk(uint64(i + 1))
	}
	accept(t, l, t0, blocks...)
	before := windowOf(l).durable
	d.before = func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		require.LessOrEqual(t, windowOf(l).durable, windowOf(l).reserved)
		require.Less(t, windowOf(l).durable, before)
	}
	accept(t, l, t0, blk(1001))
}

func TestDuplicateIsAnsweredWhenTheFirstOneIsDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		l := open(t, t0, d)
		o := claim1(t, l, t0, blk(1))
		d.before = func() { time.Sleep(time.Second) }
		var done sync.WaitGroup
		done.Go(func() { confirm(t, l, t0, o) })
		synctest.Wait() // the confirmation is being written
		began := time.Now()
		refused(t, l, t0, blk(1), reason.Duplicate)
		require.GreaterOrEqual(t, time.Since(began), time.Second)
		done.Wait()

		d.before = nil
		writes := d.writes
		for range 3 {
			refused(t, l, t0, blk(1), reason.Duplicate)
		}
		require.Equal(t, writes, d.writes, "replays cause no writes")
	})
}

func TestPacedWritesAreSharedAndClaimsDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pause = time.Second
		d := newDisk()
		o := options(d)
		o.Pace = func(hurry <-chan struct{}) {
			select {
			case <-time.After(pause):
			case <-hurry:
			}
		}
		l, _, err := Open(t.Context(), t0, o)
		require.NoError(t, err)
		began := time.Now()
		var claims []Outcome
		for n := range uint64(20) {
			claims = append(claims, claim1(t, l, t0, blk(n+1)))
		}
		require.Zero(t, time.Since(began))
		writes := d.writes
		var done sync.WaitGroup
		for _, c := range claims {
			done.Go(func() { confirm(t, l, t0, c) })
		}
		done.Wait()
		require.Equal(t, pause, time.Since(began))
		require.Equal(t, writes+1, d.writes)

		var blocks []Block
		for n := range uint64(enough) {
			blocks = append(blocks, blk(n+100))
		}
		accept(t, l, t0, blocks...)
		require.Equal(t, pause, time.Since(began), "many blocks do not wait for more")

		done.Go(func() { confirm(t, l, t0, claim1(t, l, t0, blk(21))) })
		synctest.Wait()
		claim1(t, l, t0, blk(9000)) // the confirmation goes with it
		done.Wait()
		require.Equal(t, pause, time.Since(began))
	})
}

// A store of the format before lists every claim; its windows end where this
// one's go on with the reservation.
func TestStoreOfTheFormatBeforeIsTakenOver(t *testing.T) {
	d := newDisk()
	l := open(t, t0, d)
	accept(t, l, t0, blk(1), blk(2), blk(4, parts(3, at(1)...)))
	claimAll(t, l, t0, blk(3))
	storeEpoch := l.StoreEpoch()
	require.NoError(t, l.Close(t.Context()))
	for key, v := range d.values {
		body := slices.Clone(v[2 : len(v)-4])
		if v[1] == kindWindow {
			require.Zero(t, body[len(body)-1])
			body = body[:len(body)-1]
		}
		d.values[key] = sealAs(formatOld, key, v[1], func(b []byte) []byte { return append(b, body...) })
	}

	l = open(t, t0, d)
	require.Equal(t, storeEpoch, l.StoreEpoch())
	refused(t, l, t0, blk(1), reason.Duplicate)
	out := claimAll(t, l, t0, blk(3), blk(4, parts(3, at(0, 2)...)), blk(5))
	require.True(t, out[0].Redelivery)
	require.False(t, out[1].Redelivery)
	require.False(t, out[2].Redelivery)
	confirm(t, l, t0, out...)
	for key, v := range d.values {
		changed := strings.Contains(key, "/w/") || strings.Contains(key, "/c/")
		require.Equal(t, changed, v[0] == format, "%s: what changed, and nothing else, is written anew", key)
	}
	for n := range uint64(5) {
		refused(t, open(t, t0, d.reload()), t0, blk(n+1), reason.Duplicate)
	}
}

// What was handed on under a reservation may come for as long as its nonce is
// good, also for the process that comes after.
func TestCleanupAfterACrashKeepsWhatMayHaveBeenHandedOn(t *testing.T) {
	d := newDisk()
	l := open(t, t0, d)
	acceptNumbers(t, l, t0, 1, 2, 3, 4)
	for name, again := range map[string]Block{"later nonce": blk(5, issued(t0.Add(time.Hour))), "no nonce": blk(6, issued(time.Time{}))} {
		writes := d.writes
		require.Empty(t, claim1(t, l, t0.Add(time.Hour), again).Reason)
		require.Equal(t, writes+1, d.writes, name)
	}
	l = open(t, t0.Add(time.Hour), d.reload()) // the process died
	later := t0.Add(24*time.Hour + 30*time.Minute)
	_, err := l.Cleanup(t.Context(), later)
	require.NoError(t, err)
	again := claim1(t, l, later, blk(5, issued(t0.Add(time.Hour))))
	require.Empty(t, again.Reason)
	require.True(t, again.Redelivery)
}
