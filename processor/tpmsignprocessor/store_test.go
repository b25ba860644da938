package tpmsignprocessor

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension/xextension/storage"

	"github.com/telemark-otel/telemark/internal/block"
)

func TestIndexFollowsTheOldestLiveRecord(t *testing.T) {
	client, err := openFiles(t, t.TempDir()).(storage.Extension).GetClient(t.Context(), component.KindProcessor, storageID, "")
	require.NoError(t, err)
	d := newDiskStore(client, block.Logs, 0)
	bounds := func() []uint64 {
		value, err := client.Get(t.Context(), keyIndexB)
		require.NoError(t, err)
		low, high, err := decodeIndex(value)
		require.NoError(t, err)
		return []uint64{low, high}
	}
	for range 4 {
		_, err := d.add(t.Context(), record{state: stateUnsigned, signal: block.Logs})
		require.NoError(t, err)
	}
	require.Equal(t, []uint64{0, 4}, bounds())
	require.NoError(t, d.remove(t.Context(), map[uint64]fate{1: fateKnown}))
	require.Equal(t, []uint64{0, 4}, bounds())
	require.NoError(t, d.remove(t.Context(), map[uint64]fate{0: fateKnown}))
	require.Equal(t, []uint64{2, 4}, bounds())
	require.NoError(t, d.remove(t.Context(), map[uint64]fate{2: fateKnown, 3: fateKnown}))
	require.Equal(t, []uint64{4, 4}, bounds())
	id, err := d.add(t.Context(), record{state: stateUnsigned, signal: block.Logs})
	require.NoError(t, err)
	require.EqualValues(t, 4, id)
	require.NoError(t, d.close(t.Context()))
}

func TestRecordsRoundTrip(t *testing.T) {
	for _, rec := range []record{
		{state: stateUnsigned, signal: block.Logs, payload: []byte{}},
		{state: stateSigned, signal: block.Logs, tolerances: block.Split | block.Enrich, blocks: 1 << 20, payload: []byte("payload")},
	} {
		got, err := decodeRecord(rec.encode(), block.Logs, block.Split)
		require.NoError(t, err)
		require.Equal(t, rec, got)
		_, err = decodeRecord(append(rec.encode(), 0), block.Logs, 0)
		require.ErrorIs(t, err, errRecordCorrupt)
	}
	low, high, err := decodeIndex(encodeIndex(3, 9))
	require.NoError(t, err)
	require.Equal(t, []uint64{3, 9}, []uint64{low, high})
	_, _, err = decodeIndex(encodeIndex(9, 3))
	require.ErrorIs(t, err, errRecordCorrupt)
}

func TestLoadReadsManyRecordsInOrder(t *testing.T) {
	dir := t.TempDir()
	tpm := newFakeTPM(t, 1)
	tpm.unready.Store(true)
	next := newVerifier(block.Logs)
	s := newSUT(t, testConfig(withStorage), next).start(storedHost(t, tpm, dir)).closing()
	want := names("p", 300)
	for _, name := range want {
		require.NoError(t, s.send(logsOf(name)))
	}
	left := copyOf(t, dir)
	s.kill()
	s2 := newSUT(t, testConfig(withStorage), next).start(storedHost(t, newFakeTPM(t, 2), left))
	eventually(t, func() bool { return s2.pendingBlocks() == 0 }, "pending is worked off")
	s2.stop()
	next.requireContiguous(t)
	require.Equal(t, want, next.inOrder(), "in the order of arrival")
}
