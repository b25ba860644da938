package group

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAFastSignerIsKeptAtItsPaceUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		cfg := testConfig(&slowSigner{took: time.Millisecond})
		cfg.Observer, cfg.Pace = rec, 50*time.Millisecond
		c := newCommitter(t, cfg)
		defer closeNow(t, c)

		began := time.Now()
		var tickets []*Ticket
		for i := range 400 { // four in each millisecond
			tickets = append(tickets, submit(t, c, leaf("a", i)))
			time.Sleep(time.Millisecond / 4)
		}
		for i, ticket := range tickets {
			require.Equal(t, uint64(i+1), results(t, ticket)[0].BlockNo)
		}
		require.LessOrEqual(t, time.Since(began), 152*time.Millisecond, "nobody waits longer than the pace and a signature")
		require.Len(t, rec.sizes(), 3)
	})
}

func TestABlockThatComesWhileNoneWaitsIsNotHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(&slowSigner{took: time.Millisecond})
		cfg.Pace = time.Hour
		c := newCommitter(t, cfg)
		defer closeNow(t, c)
		for i := range 10 { // a sender that waits for each answer
			began := time.Now()
			results(t, submit(t, c, leaf("a", i)))
			require.Equal(t, time.Millisecond, time.Since(began))
			synctest.Wait()
		}
	})
}

func TestASlowSignerIsNotSlowedDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(&slowSigner{took: 100 * time.Millisecond})
		cfg.Pace = 50 * time.Millisecond
		c := newCommitter(t, cfg)
		defer closeNow(t, c)
		began := time.Now()
		first := submit(t, c, leaf("a", 0))
		synctest.Wait()
		second := submit(t, c, leaf("a", 1))
		results(t, first)
		results(t, second)
		require.Equal(t, 200*time.Millisecond, time.Since(began))
	})
}

func TestAWholeGroupDoesNotWaitForThePace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(&slowSigner{took: time.Millisecond})
		cfg.Pace, cfg.MaxGroup = time.Hour, 4
		c := newCommitter(t, cfg)
		defer closeNow(t, c)
		began := time.Now()
		first := submit(t, c, leaf("a", 0))
		synctest.Wait()
		var later []*Ticket
		for i := range 4 {
			if i == 3 {
				results(t, first)
				synctest.Wait() // three wait for the pace
				time.Sleep(time.Second)
			}
			later = append(later, submit(t, c, leaf("a", i+1)))
		}
		for _, ticket := range later {
			results(t, ticket)
		}
		require.Equal(t, time.Second+2*time.Millisecond, time.Since(began))
	})
}

func TestCloseDoesNotWaitForThePace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(&slowSigner{took: time.Millisecond})
		cfg.Pace = time.Hour
		c := newCommitter(t, cfg)
		first := submit(t, c, leaf("a", 0))
		synctest.Wait()
		second := submit(t, c, leaf("a", 1))
		results(t, first)
		synctest.Wait()
		began := time.Now()
		closeNow(t, c)
		_, err := second.Result()
		require.True(t, errors.Is(err, ErrClosed))
		require.Zero(t, time.Since(began))
	})
}
