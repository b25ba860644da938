package tpmverifyprocessor

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
)

// TestParkedBlockIsRefusedUnderTheNameOfItsSender restarts the collector between
// the request and the judgement: who sent the forgery is asked afterwards.
func TestParkedBlockIsRefusedUnderTheNameOfItsSender(t *testing.T) {
	for name, c := range map[string]struct {
		later time.Duration
		want  reason.Reason
	}{
		"forged":         {0, reason.DigestMismatch},
		"never answered": {25 * time.Hour, reason.KeyUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			ext, stop := openStorage(t, dir)
			one, _ := newParkRig(t, ext, nil)
			forged := one.signed(0)
			changeValue(forged)
			require.NoError(t, one.p.consume(from(t, "192.0.2.7:4317"), forged))
			require.Empty(t, one.lines())
			one.shutdown()
			stop()

			ext, stop = openStorage(t, dir)
			defer stop()
			two := prepareRig(t, block.Logs, withConfig(func(c *Config) { c.Park.Storage = &storageID }), withAuthority(one.authority))
			two.host.extensions[storageID] = ext
			two.p.keys = newRegistry(one.machines)
			two.advance(c.later)
			require.NoError(t, two.p.Start(t.Context(), two.host))
			defer two.shutdown()
			require.Eventually(t, func() bool { return len(two.lines()) == 1 }, 10*time.Second, 10*time.Millisecond)
			line := two.lines()[0]
			require.Equal(t, string(c.want), line["reason"])
			require.Equal(t, "192.0.2.7:4317", line["peer"])
			require.Equal(t, "shop", line["service.name"])
			require.Equal(t, "edge-a", line["host.name"])
		})
	}
}

// TestBlocksThatWereParkedBeforeSendersWereKeptAreJudged reads entries of version 1.
func TestBlocksThatWereParkedBeforeSendersWereKeptAreJudged(t *testing.T) {
	ext, stop := openStorage(t, t.TempDir())
	defer stop()
	client, err := ext.GetClient(t.Context(), component.KindProcessor, component.MustNewID("tpmverify"), "park-logs")
	require.NoError(t, err)
	r := prepareRig(t, block.Logs)
	protobuf, err := r.signed(0).Marshal()
	require.NoError(t, err)
	now := time.Now().Truncate(time.Millisecond)
	entry := append([]byte{1}, numberValue(uint64(now.UnixMilli()))...)
	require.NoError(t, client.Set(t.Context(), entryKey(0), append(entry, protobuf...)))
	require.NoError(t, client.Set(t.Context(), parkTail, numberValue(1)))
	p, err := openPark(t.Context(), client, r.cfg.Park, block.Logs, r.p.meters)
	require.NoError(t, err)
	e, err := p.get(t.Context(), 0)
	require.NoError(t, err)
	require.True(t, now.Equal(e.at))
	require.Empty(t, e.peer)
	require.Equal(t, 4, e.blocks.Items())
	require.NoError(t, p.close(t.Context()))
}
