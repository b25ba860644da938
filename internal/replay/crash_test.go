package replay

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/reason"
)

func TestReplayedBlockAfterRestartIsDuplicate(t *testing.T) {
	d := newDisk()
	l := open(t, t0, d)
	epoch := l.StoreEpoch()
	accept(t, l, t0, blk(1), blk(2), blk(5))
	l = open(t, t0.Add(time.Second), d.reload())
	require.Equal(t, epoch, l.StoreEpoch())
	for _, n := range []uint64{1, 2, 5} {
		refused(t, l, t0.Add(time.Second), blk(n), reason.Duplicate)
	}
	s := status1(t, l, logs)
	require.Equal(t, uint64(3), s.Verified)
	require.Equal(t, uint64(2), s.GapsOpen)
}

func TestUnconfirmedBlockAfterRestartIsRedelivery(t *testing.T) {
	for _, orderly := range []bool{true, false} {
		d := newDisk()
		l := open(t, t0, d)
		claimAll(t, l, t0, blk(1), blk(2, parts(4, at(0, 1)...)))
		given := claim1(t, l, t0, blk(3))
		release(t, l, t0, given)
		if orderly {
			require.NoError(t, l.Close(t.Context()))
		}
		l = open(t, t0, d.reload())
		out := claimAll(t, l, t0, blk(1), blk(2, parts(4, at(1)...)), blk(2, parts(4, at(3)...)), blk(3), blk(4), blk(5000))
		require.True(t, out[0].Redelivery)
		require.True(t, out[1].Redelivery)
		require.True(t, out[3].Redelivery, "its delivery had failed")
		require.Equal(t, !orderly, out[2].Redelivery, "nobody had claimed this item, which only an orderly end can tell")
		require.Equal(t, !orderly, out[4].Redelivery, "nor this block")
		require.False(t, out[5].Redelivery, "far from anything that was reserved")
		confirm(t, l, t0, out...)
	}
}

func TestFarewellLocationAndTimesOutliveAProcess(t *testing.T) {
	d := newDisk()
	l := open(t, t0, d)
	accept(t, l, t0, blk(1, farewell, func(b *Block) { b.Location = &LatLon{48.2, -16.4} }))
	want := status1(t, l, logs)
	require.Equal(t, want, status1(t, open(t, t0.Add(time.Hour), d.reload()), logs))
	require.Equal(t, &LatLon{48.2, -16.4}, want.LastLocation)
	require.True(t, want.Farewell)
}

func TestMemoryOnlyStoresHaveTheirOwnEpoch(t *testing.T) {
	require.NotEqual(t, memory(t).StoreEpoch(), memory(t).StoreEpoch())
}

func TestFailedWriteClaimsNothingAndHeals(t *testing.T) {
	d := newDisk()
	l := open(t, t0, d)
	accept(t, l, t0, blk(1))
	d.failAt = d.writes + 1
	_, err := l.Claim(t.Context(), t0, []Block{blk(2), blk(3, parts(4, at(0)...)), blk(5000)})
	require.ErrorIs(t, err, &reason.Error{Reason: reason.StoreUnavailable})
	require.ErrorIs(t, err, errDisk)
	require.Zero(t, status1(t, l, logs).InFlight)

	_, err = l.Claim(t.Context(), t0, []Block{blk(2)})
	require.Error(t, err, "reserved or not: what is delivered now could not be confirmed")

	d.failAt = 0
	o := claimAll(t, l, t0, blk(2), blk(3, parts(4, at(0)...)))
	require.False(t, o[0].Redelivery)
	require.False(t, o[1].Redelivery)
	confirm(t, l, t0, o...)
	refused(t, open(t, t0, d.reload()), t0, blk(2), reason.Duplicate)
}

func TestFailedWriteLeavesAnOlderOwnersClaimARedelivery(t *testing.T) {
	d := newDisk()
	l := open(t, t0, d)
	claimAll(t, l, t0, blk(1), blk(2, parts(4, at(0)...)))
	d.failAt = d.writes + 1
	later := t0.Add(time.Minute)
	_, err := l.Claim(t.Context(), later, []Block{blk(1), blk(2, parts(4, at(0)...)), blk(5000)})
	require.Error(t, err)
	d.failAt = 0
	for _, o := range claimAll(t, l, later, blk(1), blk(2, parts(4, at(0)...))) {
		require.True(t, o.Redelivery)
	}
}

func TestFailedConfirmIsWrittenWithTheNextOne(t *testing.T) {
	d := newDisk()
	l := open(t, t0, d)
	o := claim1(t, l, t0, blk(1))
	d.failAt = d.writes + 1
	_, err := l.Confirm(t.Context(), t0, []Claim{o.Claim})
	require.ErrorIs(t, err, &reason.Error{Reason: reason.StoreUnavailable})
	_, err = l.Claim(t.Context(), t0, []Block{blk(1)})
	require.ErrorIs(t, err, &reason.Error{Reason: reason.StoreUnavailable}, "no sender hears of success before it is durable")
	r, err := l.Sweep(t.Context(), t0.Add(time.Minute))
	require.Error(t, err)
	require.Equal(t, 1, r.Streams, "the report is valid beside the error")
	d.failAt = 0
	sweep(t, l, t0.Add(time.Minute))
	refused(t, l, t0, blk(1), reason.Duplicate)
	refused(t, open(t, t0, d.reload()), t0, blk(1), reason.Duplicate)
}

func TestClosedStoreRefusesAndIsWritten(t *testing.T) {
	d := newDisk()
	l := open(t, t0, d)
	o := claim1(t, l, t0, blk(1))
	confirm(t, l, t0, o)
	refused(t, l, t0, blk(1), reason.Duplicate) // counted, not yet written
	require.NoError(t, l.Close(t.Context()))
	require.NoError(t, l.Close(t.Context()))
	_, err := l.Claim(t.Context(), t0, []Block{blk(2)})
	require.ErrorIs(t, err, ErrClosed)
	_, err = l.Confirm(t.Context(), t0, []Claim{o.Claim})
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorIs(t, l.Release(t.Context(), t0, []Claim{o.Claim}), ErrClosed)
	_, err = l.Sweep(t.Context(), t0)
	require.ErrorIs(t, err, ErrClosed)
	_, err = l.Cleanup(t.Context(), t0)
	require.ErrorIs(t, err, ErrClosed)
	require.Equal(t, uint64(1), status1(t, open(t, t0, d.reload()), logs).Duplicates)
}

func TestDamagedRecordLosesTheStore(t *testing.T) {
	whole := newDisk()
	l := open(t, t0, whole)
	accept(t, l, t0, blk(1), blk(4), blk(2, inEpoch(2)), blk(2, parts(3, at(1)...)))
	damages := map[string]func([]byte) []byte{
		"missing":   func([]byte) []byte { return nil },
		"empty":     func([]byte) []byte { return []byte{} },
		"cut":       func(v []byte) []byte { return v[:len(v)-1] },
		"bit":       func(v []byte) []byte { v[len(v)/2] ^= 4; return v },
		"kind":      func(v []byte) []byte { v[1] ^= 1; return v },
		"longer":    func(v []byte) []byte { return append(v, 0) },
		"exchanged": func([]byte) []byte { return whole.values[headerKey] },
	}
	for key := range whole.values {
		for name, damage := range damages {
			if key == headerKey && (name == "exchanged" || name == "missing") {
				continue // the first is no damage, the second is a new store: see below
			}
			d := whole.reload()
			if v := damage(append([]byte(nil), d.values[key]...)); v == nil {
				delete(d.values, key)
			} else {
				d.values[key] = v
			}
			again, opened, err := Open(t.Context(), t0, options(d))
			require.NoError(t, err, "%s %s", name, key)
			require.Error(t, opened.Lost, "%s %s", name, key)
			require.NotEqual(t, l.StoreEpoch(), again.StoreEpoch(), "nonces of the lost store must die")
			require.Zero(t, opened.Keys)
			accept(t, again, t0, blk(1))
			refused(t, open(t, t0, d.reload()), t0, blk(1), reason.Duplicate)
		}
	}
}

func TestMissingHeaderIsANewStore(t *testing.T) {
	d := newDisk()
	l := open(t, t0, d)
	accept(t, l, t0, blk(1))
	delete(d.values, headerKey)
	again, opened, err := Open(t.Context(), t0, options(d))
	require.NoError(t, err)
	require.True(t, opened.Fresh)
	require.NotEqual(t, l.StoreEpoch(), again.StoreEpoch())
}

func TestUnreadableStorageIsNotTakenForALostStore(t *testing.T) {
	d := newDisk()
	accept(t, open(t, t0, d), t0, blk(1))
	d.failReads = true
	_, _, err := Open(t.Context(), t0, options(d))
	require.ErrorIs(t, err, errDisk)
	d.failReads = false
	refused(t, open(t, t0, d), t0, blk(1), reason.Duplicate)
}

func TestStoreOfANewerVersionIsLeftAlone(t *testing.T) {
	d := newDisk()
	open(t, t0, d)
	v := d.values[headerKey]
	v[0] = format + 1
	v = v[:len(v)-4]
	sealed := seal(headerKey, kindHeader, func(b []byte) []byte { return append(b, v[2:]...) })
	sealed[0] = format + 1
	sum := checksum(headerKey, sealed[:len(sealed)-4])
	sealed = append(sealed[:len(sealed)-4], byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum))
	d.values[headerKey] = sealed
	writes := d.writes
	_, _, err := Open(t.Context(), t0, options(d))
	require.ErrorIs(t, err, ErrNewer)
	require.Equal(t, writes, d.writes)
}

func TestNoRandomnessNoStore(t *testing.T) {
	o := options(nil)
	o.Random = func([]byte) error { return errors.New("no randomness") }
	_, _, err := Open(t.Context(), t0, o)
	require.ErrorContains(t, err, "no randomness")
}
