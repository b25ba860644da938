package group

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

var errDisk = errors.New("disk is full")

func TestReceiptsWaitUntilTheirStatementIsDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		d := &disk{fail: func(n int) error {
			if n <= 3 {
				return errDisk
			}
			return nil
		}}
		signer := &slowSigner{took: 10 * time.Millisecond}
		cfg := testConfig(signer)
		cfg.Chain, cfg.Observer = d, rec
		c := newCommitter(t, cfg)
		defer closeNow(t, c)

		ticket := submit(t, c, leaf("a", 0))
		time.Sleep(2500 * time.Millisecond)
		require.False(t, isDone(ticket), "signed, but a crash now would lose the end of the chain")
		_, hash := verified(t, leaf("a", 0), results(t, ticket)[0])
		require.Equal(t, State{Epoch: 5, Seq: 1, Prev: hash}, d.state(t))
		require.Equal(t, 1, signer.attempts, "a signature is not thrown away for a full disk")
		require.Equal(t, []Stage{StageSave, StageSave, StageSave}, rec.stages())
	})
}

// A verifier accepts no nonce from before the outage of a disk that took a day.
func TestAnOutageOfTheDiskEndsWithFreshClaims(t *testing.T) {
	for name, outage := range map[string]*disk{
		"fails": {}, "hangs": {took: 25 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				outage.fail = func(int) error {
					if outage.took > 0 {
						outage.took = 0 // the next one is quick
					} else if time.Since(begin) < 25*time.Hour {
						return errDisk
					}
					return nil
				}
				signer := &slowSigner{took: 10 * time.Millisecond}
				cfg := testConfig(signer)
				cfg.Chain = outage
				cfg.Backoff = func(int) time.Duration { return 30 * time.Second }
				c := newCommitter(t, cfg)
				defer closeNow(t, c)

				r, hash := verified(t, leaf("a", 0), results(t, submit(t, c, leaf("a", 0)))[0])
				require.GreaterOrEqual(t, time.Since(begin), 25*time.Hour)
				require.InDelta(t, time.Now().Unix(), r.Statement.IssuedAt, 60)
				require.Equal(t, State{Epoch: 5, Seq: 1, Prev: hash}, outage.state(t))
				require.Equal(t, 2, signer.attempts)
			})
		})
	}
}

func TestSavingTakesNoTimeBesideASlowerSigner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(&slowSigner{took: 50 * time.Millisecond})
		cfg.Chain = &disk{took: 20 * time.Millisecond}
		c := newCommitter(t, cfg)
		defer closeNow(t, c)
		begin := time.Now()
		results(t, submit(t, c, leaf("a", 0)))
		require.Equal(t, 50*time.Millisecond, time.Since(begin))
	})
}

// The process dies at every moment of three groups and starts again from
// what the disk holds: the new epoch's first prev names the last statement that
// anybody saw, or one later that nobody saw; never an earlier one.
func TestAfterACrashTheChainNeverEndsBeforeWhatWasSeen(t *testing.T) {
	const step = time.Millisecond
	for moment := time.Duration(0); moment <= 40*step; moment += step {
		synctest.Test(t, func(t *testing.T) { crashAt(t, moment) })
	}
}

func crashAt(t *testing.T, moment time.Duration) {
	d := &disk{took: 7 * time.Millisecond}
	cfg := testConfig(&slowSigner{took: 10 * time.Millisecond, fail: func(attempt int) error {
		if attempt == 2 {
			return errTPM
		}
		return nil
	}})
	cfg.Backoff = func(int) time.Duration { return 2 * time.Millisecond }
	cfg.Chain = d
	c := newCommitter(t, cfg)
	var mu sync.Mutex
	var tickets []*Ticket
	go func() {
		for i := range 3 {
			ticket, err := c.Submit([]Leaf{leaf("a", i)})
			if err != nil {
				return
			}
			mu.Lock()
			tickets = append(tickets, ticket)
			mu.Unlock()
			<-ticket.Done()
		}
	}()
	time.Sleep(moment + time.Microsecond)
	synctest.Wait()

	// The crash: what the disk holds now is all that is left.
	before := d.state(t)
	var last State
	mu.Lock()
	seen := slices.Clone(tickets)
	mu.Unlock()
	for i, ticket := range seen {
		if isDone(ticket) {
			signed, err := ticket.Result()
			require.NoError(t, err)
			_, h := verified(t, leaf("a", i), signed[0])
			last = State{Epoch: 5, Seq: signed[0].Seq, Prev: h}
		}
	}
	require.GreaterOrEqual(t, before.Seq, last.Seq)
	require.LessOrEqual(t, before.Seq, last.Seq+1)
	if before.Seq == last.Seq {
		require.Equal(t, last, before)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = c.Close(ctx)
	time.Sleep(time.Second) // the old process's goroutines end

	cfg.Epoch, cfg.Prev, cfg.Chain = max(before.Epoch, 5)+1, before.Prev, nil
	cfg.Signer = &slowSigner{}
	again := newCommitter(t, cfg)
	defer closeNow(t, again)
	r, _ := verified(t, leaf("a", 9), results(t, submit(t, again, leaf("a", 9)))[0])
	require.Equal(t, before.Prev, r.Statement.Prev)
	require.Equal(t, uint64(1), r.Statement.Seq)
	require.Equal(t, uint64(1), r.BlockNo)
}

func TestStoredStateIsReadBackOrRefused(t *testing.T) {
	want := State{Epoch: 1 << 40, Seq: 77, Prev: [32]byte{1, 2, 3}}
	b, err := want.MarshalBinary()
	require.NoError(t, err)
	var got State
	require.NoError(t, got.UnmarshalBinary(b))
	require.Equal(t, want, got)

	require.Error(t, got.UnmarshalBinary(b[:len(b)-1]))
	require.Error(t, got.UnmarshalBinary(append(b, 0)))
	require.Error(t, got.UnmarshalBinary(nil))
	b[0] = 2
	require.Error(t, got.UnmarshalBinary(b))
}

func TestCloseLetsTheGroupInFlightEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCommitter(t, testConfig(&slowSigner{took: time.Second}))
		flying := submit(t, c, leaf("a", 0))
		synctest.Wait()
		waiting := submit(t, c, leaf("a", 1))

		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		require.NoError(t, c.Close(ctx))
		results(t, flying)
		_, err := waiting.Result()
		require.ErrorIs(t, err, ErrClosed)
		require.True(t, waiting.Cancel(), "it was never numbered")
		_, err = c.Submit(someLeaves("a", 1))
		require.ErrorIs(t, err, ErrClosed)
		require.NoError(t, c.Close(ctx), "again")
	})
}

func TestCloseDuringAnOutageGivesUpInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCommitter(t, testConfig(&slowSigner{took: time.Millisecond, fail: func(int) error { return errTPM }}))
		flying := submit(t, c, leaf("a", 0))
		synctest.Wait()
		begin := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.ErrorIs(t, c.Close(ctx), context.DeadlineExceeded)
		require.Equal(t, 10*time.Second, time.Since(begin))
		signed, err := flying.Result()
		require.ErrorIs(t, err, ErrClosed)
		require.Nil(t, signed[0].Receipt)
		require.False(t, flying.Cancel(), "it was numbered")
		require.NoError(t, c.Close(context.Background()))
	})
}

type deafSigner struct{ release chan struct{} }

func (s deafSigner) Sign(_ context.Context, digest []byte) ([]byte, error) {
	<-s.release
	return fakeSignature([32]byte(digest)), nil
}

func TestCloseGivesUpASignerThatDoesNotListen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		signer := deafSigner{release: make(chan struct{})}
		cfg := testConfig(signer)
		cfg.Observer = rec
		c := newCommitter(t, cfg)
		ticket := submit(t, c, leaf("a", 0))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		require.ErrorIs(t, c.Close(ctx), context.DeadlineExceeded)
		signed, err := ticket.Result()
		require.ErrorIs(t, err, ErrClosed)
		require.Nil(t, signed[0].Receipt)
		close(signer.release) // too late: what was given up is not given out
		synctest.Wait()
		require.Empty(t, rec.sizes())
		require.NoError(t, c.Close(context.Background()))
	})
}

func TestCloseTellsWhichLeavesOfASpanningTicketWereSigned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(&slowSigner{took: time.Second})
		cfg.MaxGroup = 2
		c := newCommitter(t, cfg)
		ticket := submit(t, c, someLeaves("a", 5)...)
		time.Sleep(1500 * time.Millisecond) // two are signed, two are being signed
		require.NoError(t, c.Close(context.Background()))
		signed, err := ticket.Result()
		require.ErrorIs(t, err, ErrClosed)
		for i := range 4 {
			verified(t, ticket.leaves[i], signed[i])
		}
		require.Nil(t, signed[4].Receipt)
	})
}

func TestCloseOfAnIdleCommitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closeNow(t, newCommitter(t, testConfig(&slowSigner{})))
	})
}
