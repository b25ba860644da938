package tpmsignprocessor

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/processor/tpmsignprocessor/internal/metadata"
)

// TestRestartsInTheMiddleOfTroubleLoseNothing lives several lives over one
// storage, each with an epoch of its own and with trouble everywhere, and ends
// each at a random moment, with or without the time to finish. What a caller
// was told yes about arrives, once, and no number that was given out before a
// later one arrived is missing.
func TestRestartsInTheMiddleOfTroubleLoseNothing(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { lives(t, seed) })
		})
	}
}

func lives(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 7))
	signal := allSignals[seed%3]
	next := newVerifier(signal)
	var calm atomic.Bool
	refusals := rand.New(rand.NewPCG(seed, 8))
	next.fail = func(int) error {
		if !calm.Load() && refusals.IntN(3) == 0 {
			return errDown
		}
		return nil
	}
	files := openFiles(t, t.TempDir())
	cfg := testConfig(withStorage, withHeartbeat, func(c *Config) {
		c.Pending.Wait = 300 * time.Millisecond
		c.Coalesce = seed%2 == 0
	})
	yes := map[string]bool{}
	for epoch := uint64(1); epoch <= 6; epoch++ {
		last := epoch == 6
		tpm := newFakeTPM(t, epoch)
		tpm.delay = time.Duration(1+random.IntN(8)) * 100 * time.Millisecond
		s := newSUT(t, cfg, next).start(fakeHost{tpmID: tpm, storageID: files})
		clients := s.disturb(tpm, epoch, yes, random.Uint64())
		time.Sleep(time.Duration(random.IntN(8000)) * time.Millisecond)
		if last {
			clients.Wait()
			calm.Store(true)
			tpm.dead.Store(false)
			tpm.unready.Store(false)
			for i := 0; s.pendingBlocks() > 0; i++ {
				require.Less(t, i, 10_000, "pending is never worked off")
				time.Sleep(100 * time.Millisecond)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.IntN(7000))*time.Millisecond)
		if err := s.Shutdown(ctx); err != nil {
			require.ErrorIs(t, err, context.DeadlineExceeded, "what waits is in the storage")
		}
		cancel()
		clients.Wait() // and with them the storage is closed
		tpm.close()
	}
	next.requireContiguous(t)
	arrived := map[string]bool{}
	for _, name := range next.accepted() {
		require.False(t, arrived[name], "%s came in two blocks", name)
		arrived[name] = true
	}
	for name := range yes {
		require.True(t, arrived[name], "%s was accepted and is lost", name)
	}
}

// disturb lets clients send until they are refused, in the middle of trouble.
func (s *sut) disturb(tpm *fakeTPM, epoch uint64, yes map[string]bool, seed uint64) *sync.WaitGroup {
	var mu sync.Mutex
	var clients sync.WaitGroup
	for c := range 4 {
		mine := rand.New(rand.NewPCG(seed, uint64(c)))
		clients.Go(func() {
			for i := range 30 {
				name := fmt.Sprintf("e%d-c%d-%d", epoch, c, i)
				if s.consume(context.Background(), batch(s.signal, []string{name}, []string{name + "'"})) == nil {
					mu.Lock()
					yes[name] = true
					mu.Unlock()
				}
				time.Sleep(time.Duration(mine.IntN(400)) * time.Millisecond)
			}
		})
	}
	clients.Go(func() {
		trouble := rand.New(rand.NewPCG(seed, 99))
		for range 12 {
			tpm.dead.Store(trouble.IntN(3) == 0)
			tpm.unready.Store(trouble.IntN(3) == 0)
			time.Sleep(time.Duration(trouble.IntN(800)) * time.Millisecond)
		}
	})
	return &clients
}

func TestNumberedRequestIsNotHeldUpByWhatCannotBeSigned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := newVerifier(block.Logs)
		tpm := newFakeTPM(t, 1)
		tpm.delay = 10 * time.Second
		s := newSUT(t, testConfig(), next).start(hostWith(tpm))
		time.AfterFunc(time.Second/2, func() { // the one after it finds the TPM not ready
			tpm.unready.Store(true)
			require.NoError(t, s.send(logsOf("unsigned")))
		})
		require.NoError(t, s.send(logsOf("numbered")))
		require.Equal(t, 2, s.pendingBlocks())
		time.Sleep(10 * time.Second)
		require.Equal(t, []string{"numbered"}, next.accepted())
		tpm.unready.Store(false)
		time.Sleep(time.Minute)
		s.stop()
		next.requireContiguous(t)
	})
}

// A number that was signed when the time was up is not thrown away.
func TestSignatureOfTheLastMomentIsRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tpm := newFakeTPM(t, 1)
		tpm.delay = time.Second // so that the request goes into pending before it is signed
		s := newSUT(t, testConfig(), newVerifier(block.Logs))
		builder, err := metadata.NewTelemetryBuilder(s.set.TelemetrySettings)
		require.NoError(t, err)
		r := newRun(s.signer, tpm, "s", func() {}, newMemoryStore(), newMeters(builder, "s"))
		req := r.prepare(t.Context(), logsOf("a"), 0, digest.Block.Prepare)
		ticket, err := tpm.Submit(req.leaves("s"))
		require.NoError(t, err)
		require.NoError(t, r.pendNumbered(t.Context(), req, ticket, causeShutdown))
		<-ticket.Done()

		var f flight
		require.False(t, r.submitPending(&f))
		r.cancel()
		r.leave(&f)
		rec, err := r.queue.store.get(t.Context(), 0)
		require.NoError(t, err)
		require.Equal(t, stateSigned, rec.state)
	})
}
