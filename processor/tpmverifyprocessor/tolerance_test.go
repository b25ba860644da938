package tpmverifyprocessor

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/signtest"
)

// fragment is a part of a block, as a gateway's batcher cuts one.
func fragment(d digest.Batch, from, to int) digest.Batch {
	part := signtest.Copy(d)
	part.At(0).FilterItems(func(i int) bool { return i >= from && i < to })
	return part
}

func TestFragmentsInAnyOrderAreAcceptedOnce(t *testing.T) {
	for _, signal := range signals {
		t.Run(signal.String(), func(t *testing.T) {
			r := newRig(t, signal)
			d := signtest.Data(signal, "edge-a", 10)
			r.machines[0].Sign(t, stream, block.Split, d)
			require.NoError(t, r.send(fragment(d, 6, 10)))
			require.NoError(t, r.send(fragment(d, 0, 3)))
			require.NoError(t, r.send(fragment(d, 3, 6)))
			got := r.take()
			require.Equal(t, 3, got.Len())
			require.Equal(t, 10, got.Items())
			require.EqualValues(t, 10, r.count("tpmverify_verified_items"))
			require.Zero(t, r.refusedAll())
			require.Zero(t, r.status().GapsOpen)
		})
	}
}

func TestItemsThatComeTwiceAreTakenOut(t *testing.T) {
	for _, signal := range signals {
		t.Run(signal.String(), func(t *testing.T) {
			r := newRig(t, signal)
			d := signtest.Data(signal, "edge-a", 10)
			r.machines[0].Sign(t, stream, block.Split, d)
			require.NoError(t, r.send(fragment(d, 0, 6)))
			require.NoError(t, r.send(fragment(d, 4, 10)))
			require.Equal(t, 10, r.take().Items())
			require.EqualValues(t, 10, r.count("tpmverify_verified_items"))
			require.EqualValues(t, 2, r.count("tpmverify_duplicate_items"))

			require.NoError(t, r.send(fragment(d, 2, 5)))
			require.NoError(t, r.send(signtest.Copy(d)))
			require.Zero(t, r.take().Len())
			require.EqualValues(t, 2, r.count("tpmverify_duplicate_blocks"))
		})
	}
}

func TestItemTwiceInOneFragmentIsDeliveredOnce(t *testing.T) {
	r := newRig(t, block.Logs)
	d := signtest.Data(block.Logs, "edge-a", 4)
	r.machines[0].Sign(t, stream, block.Split, d)
	records := d.Logs().ResourceLogs().At(0).ScopeLogs().At(0).LogRecords()
	records.At(0).CopyTo(records.AppendEmpty())
	require.NoError(t, r.send(d))
	require.Equal(t, 4, r.take().Items())
}

func TestSplitStripsWhatItemDigestsLeaveOut(t *testing.T) {
	r := newRig(t, block.Logs, withConfig(func(c *Config) { c.Receipts = ReceiptsKeep }))
	d := signtest.Data(block.Logs, "edge-a", 4)
	r.machines[0].Sign(t, stream, block.Split, d)
	d.Logs().ResourceLogs().At(0).SetSchemaUrl("https://evil.example")
	require.NoError(t, r.send(d))
	got := r.take()
	require.Empty(t, got.Logs().ResourceLogs().At(0).SchemaUrl())
	require.NotNil(t, proofOf(t, got.At(0)).Manifest, "the evidence is kept")
}

func TestAddedAttributes(t *testing.T) {
	for name, c := range map[string]struct {
		enrich EnrichConfig
		zone   string // zone
		moved  string // gw.zone
		want   reason.Reason
	}{
		"strip":  {EnrichConfig{Action: EnrichStrip}, "", "", ""},
		"prefix": {EnrichConfig{Action: EnrichPrefix, Prefix: "gw."}, "", "z1", ""},
		"refuse": {EnrichConfig{Action: EnrichRefuse}, "", "", reason.ResourceEnriched},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, block.Metrics, withConfig(func(cfg *Config) { cfg.Enrich = c.enrich }))
			d, plain := r.signed(block.Enrich), r.signed(block.Enrich)
			d.At(0).Attributes().PutStr("zone", "z1")
			require.NoError(t, r.send(d, plain))
			got := r.take()
			if c.want != "" {
				require.EqualValues(t, 1, r.refused(c.want))
				require.Equal(t, 1, got.Len())
				return
			}
			require.Equal(t, 2, got.Len())
			require.Equal(t, c.zone, attr(got.At(0), "zone"))
			require.Equal(t, c.moved, attr(got.At(0), "gw.zone"))
			require.Equal(t, "edge-a", attr(got.At(0), "host.name"))
		})
	}
}

func TestAddedAttributeNeverPassesForASignedOne(t *testing.T) {
	r := newRig(t, block.Metrics, withConfig(func(c *Config) { c.Enrich = EnrichConfig{Action: EnrichPrefix, Prefix: "host."} }))
	d := r.signed(block.Enrich)
	d.At(0).Attributes().PutStr("name", "edge-b")
	require.NoError(t, r.send(d))
	got := r.take()
	require.Equal(t, 1, got.Len())
	n := 0
	for key, v := range got.At(0).Attributes().All() {
		if key == "host.name" {
			n++
			require.Equal(t, "edge-a", v.Str())
		}
	}
	require.Equal(t, 1, n)
}

func TestAddedAttributeUnderTheReservedPrefixIsRefused(t *testing.T) {
	r := newRig(t, block.Metrics)
	d := r.signed(block.Enrich)
	d.At(0).Attributes().PutStr("telemark.verdict", "verified")
	require.NoError(t, r.send(d))
	require.EqualValues(t, 1, r.refused(reason.ReservedAttribute))
}

func TestAddedAttributeNeverNamesAMachineBehindThePrefix(t *testing.T) {
	r := newRig(t, block.Metrics, withConfig(func(c *Config) {
		c.Enrich = EnrichConfig{Action: EnrichPrefix, Prefix: "host."}
		c.Bind = map[string]string{"host.name": "name"}
	}))
	d := signtest.Data(block.Metrics, "edge-a", 3)
	d.At(0).Attributes().Remove("host.name") // the signer does not say who it is
	r.machines[0].Sign(t, stream, block.Enrich, d)
	d.At(0).Attributes().PutStr("name", "edge-b")
	require.NoError(t, r.send(d))
	got := r.take()
	require.Equal(t, 1, got.Len())
	require.Empty(t, attr(got.At(0), "host.name"))
}

func TestFragmentsThatWereEnrichedOnTheWayAreStrippedAndAcceptedOnce(t *testing.T) {
	for _, signal := range signals {
		r := newRig(t, signal, withConfig(func(c *Config) { c.Bind = map[string]string{"host.name": "name", "rack": "name"} }))
		d := r.signed(block.Split | block.Enrich)
		head, tail := fragment(d, 0, 3), fragment(d, 2, 4)
		head.At(0).Attributes().PutStr("zone", "z1")
		tail.At(0).Attributes().PutStr("rack", "edge-b") // bound, and nobody signed it
		require.NoError(t, r.send(head, tail))
		got := r.take()
		require.Equal(t, 2, got.Len())
		require.Equal(t, 4, got.Items())
		for i := range got.Len() {
			require.Empty(t, attr(got.At(i), "zone"))
			require.Empty(t, attr(got.At(i), "rack"))
		}
		require.Zero(t, r.status().GapsOpen)
	}
}
