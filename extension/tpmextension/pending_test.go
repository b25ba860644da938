package tpmextension

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/signing"
)

func TestStatusTellsWhatStreamsHold(t *testing.T) {
	a := startAgent(t, withStorage(t, t.TempDir()), testConfig("swtpm:"+shortDir(t), t.TempDir(), stored))
	require.Nil(t, a.Status().Pending)
	held := 0
	stop := a.WatchPending("tpmsign:logs", func() (int, int64) { return held, int64(100 * held) })
	for held = range 3 {
		require.Equal(t, map[string]signing.Pending{"tpmsign:logs": {Blocks: held, Bytes: int64(100 * held)}}, a.Status().Pending)
	}
	stop()
	stop()
	require.Nil(t, a.Status().Pending)
}
