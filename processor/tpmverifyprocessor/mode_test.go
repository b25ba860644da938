package tpmverifyprocessor

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/keyfile"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/receipt"
	"github.com/telemark-otel/telemark/internal/signtest"
)

func TestUnsignedData(t *testing.T) {
	for _, c := range []struct {
		unsigned string
		passes   bool
		verdict  string
	}{
		{UnsignedDrop, false, ""},
		{UnsignedTag, true, "receipt_missing"},
		{UnsignedPass, true, ""},
	} {
		for _, signal := range signals {
			t.Run(c.unsigned+"/"+signal.String(), func(t *testing.T) {
				r := newRig(t, signal, withConfig(func(cfg *Config) { cfg.Unsigned = c.unsigned }))
				require.NoError(t, r.send(signtest.Data(signal, "laptop", 3), r.signed(0)))
				got := r.take()
				if !c.passes {
					require.Equal(t, 1, got.Len())
					require.EqualValues(t, 1, r.refused(reason.ReceiptMissing))
					return
				}
				require.Equal(t, 2, got.Len())
				require.Equal(t, c.verdict, attr(got.At(0), block.AttrVerdict))
				require.Equal(t, reason.Verified, attr(got.At(1), block.AttrVerdict))
				require.EqualValues(t, 1, r.count("tpmverify_unsigned_blocks"))
			})
		}
	}
}

// TestHostileVerdictOnUnsignedDataNeverPasses puts our own attributes on data
// that nobody signed, at each depth and in each mode.
func TestHostileVerdictOnUnsignedDataNeverPasses(t *testing.T) {
	places := map[string]func(digest.Batch){
		"verdict":      func(d digest.Batch) { d.At(0).Attributes().PutStr(block.AttrVerdict, reason.Verified) },
		"name":         func(d digest.Batch) { d.At(0).Attributes().PutStr(block.AttrName, "edge-a") },
		"spelling":     func(d digest.Batch) { d.At(0).Attributes().PutStr("Telemark_Verdict", reason.Verified) },
		"kelvin":       func(d digest.Batch) { d.At(0).Attributes().PutStr("telemar\u212a.verdict", reason.Verified) },
		"scope":        func(d digest.Batch) { scopeOf(d).Attributes().PutStr(block.AttrVerdict, reason.Verified) },
		"item":         func(d digest.Batch) { itemAttributes(d).PutStr(block.AttrVerdict, reason.Verified) },
		"deep in item": func(d digest.Batch) { itemAttributes(d).PutEmptyMap("a").PutStr(block.AttrVerdict, reason.Verified) },
		"with an empty scope, which is looked at too": func(d digest.Batch) {
			d.At(0).Attributes().PutStr(block.AttrVerdict, reason.Verified)
			appendEmptyScope(d)
		},
	}
	for place, put := range places {
		for _, signal := range signals {
			for _, unsigned := range []string{UnsignedDrop, UnsignedTag, UnsignedPass} {
				for _, mode := range []Mode{ModeEnforce, ModeObserve, ModeCheck} {
					if mode == ModeCheck && unsigned == UnsignedTag {
						continue // refused by Validate
					}
					t.Run(fmt.Sprintf("%s/%v/%s/%s", place, signal, unsigned, mode), func(t *testing.T) {
						r := newRig(t, signal, withConfig(func(cfg *Config) { cfg.Unsigned, cfg.Mode = unsigned, mode }))
						d := signtest.Data(signal, "laptop", 3)
						put(d)
						require.NoError(t, r.send(d))
						require.EqualValues(t, 1, r.refusedAll())
						got := r.take()
						if mode != ModeObserve {
							require.Zero(t, got.Len())
							return
						}
						require.Equal(t, 1, got.Len())
						wire, err := got.Marshal()
						require.NoError(t, err)
						require.NotContains(t, string(wire), reason.Verified)
						require.NotContains(t, string(wire), "edge-a")
						require.NotEmpty(t, attr(got.At(0), block.AttrVerdict))
					})
				}
			}
		}
	}
}

func TestUnsignedDataInTheNameOfAnEnrolledMachineIsRefused(t *testing.T) {
	for _, unsigned := range []string{UnsignedTag, UnsignedPass} {
		r := newRig(t, block.Logs, withConfig(func(c *Config) {
			c.Unsigned = unsigned
			c.Bind = map[string]string{"host.name": "name"}
		}))
		require.NoError(t, r.send(signtest.Data(block.Logs, "EDGE-A", 3), signtest.Data(block.Logs, "laptop", 3)))
		require.EqualValues(t, 1, r.refused(reason.ReceiptMissing))
		got := r.take()
		require.Equal(t, 1, got.Len())
		require.Equal(t, "laptop", attr(got.At(0), "host.name"))
	}
}

func TestResourceThatNamesAnotherMachineIsRefused(t *testing.T) {
	r := newRig(t, block.Logs, withConfig(func(c *Config) { c.Bind = map[string]string{"host.name": "name"} }))
	d := signtest.Data(block.Logs, "edge-b", 3)
	r.machines[0].Sign(t, stream, 0, d)
	require.NoError(t, r.send(d, r.signed(0)))
	require.EqualValues(t, 1, r.refused(reason.IdentityMismatch))
	require.Equal(t, 1, r.take().Len())
}

func TestObservePassesEverythingWithItsVerdict(t *testing.T) {
	for emit, want := range map[string][]string{
		EmitAll:     {"verified", "digest_mismatch", "receipt_missing", "duplicate"},
		EmitRefused: {"digest_mismatch", "receipt_missing", "duplicate"},
	} {
		t.Run(emit, func(t *testing.T) {
			r := newRig(t, block.Logs, withConfig(func(c *Config) {
				c.Mode, c.Emit, c.Receipts = ModeObserve, emit, ReceiptsKeep
			}))
			first := r.signed(0)
			bad := r.signed(0)
			changeValue(bad)
			unsigned := signtest.Data(block.Logs, "laptop", 1)
			require.NoError(t, r.send(first, bad, unsigned, signtest.Copy(first)))
			got := r.take()
			var verdicts []string
			for i := range got.Len() {
				v := attr(got.At(i), block.AttrVerdict)
				verdicts = append(verdicts, v)
				if v == "digest_mismatch" {
					require.NotNil(t, proofOf(t, got.At(i)).Receipt, "the evidence stays with what was refused")
					require.Empty(t, attr(got.At(i), block.AttrName), "the name is not proved")
				}
			}
			require.Equal(t, want, verdicts)
			require.EqualValues(t, 1, r.count("tpmverify_verified_blocks"))
			require.EqualValues(t, 4, r.count("tpmverify_verified_items"))
			require.Zero(t, r.count("tpmverify_duplicate_items"), "what is not handed on was not accepted before")
		})
	}
}

func TestCheckJudgesAndChangesNothing(t *testing.T) {
	for name, o := range map[string]option{
		"with nonces":    func(*rig) {},
		"without nonces": withAuthority(nil),
	} {
		t.Run(name, func(t *testing.T) {
			r := prepareRig(t, block.Logs, withConfig(func(c *Config) { c.Mode = ModeCheck }))
			o(r)
			if r.authority == nil {
				r.host.extensions = nil
			}
			require.NoError(t, r.p.Start(t.Context(), r.host))
			t.Cleanup(func() { require.NoError(t, r.p.Shutdown(t.Context())) })
			d := r.signed(0)
			bad := r.signed(0)
			changeValue(bad)
			unsigned := signtest.Data(block.Logs, "laptop", 1)
			want, err := d.Marshal()
			require.NoError(t, err)
			require.NoError(t, r.send(signtest.Copy(d), bad, unsigned))
			got := r.take()
			wire, err := got.Marshal()
			require.NoError(t, err)
			require.Equal(t, want, wire, "proof included")
			require.EqualValues(t, 1, r.refused(reason.DigestMismatch))
			require.EqualValues(t, 1, r.refused(reason.ReceiptMissing))
			require.Zero(t, r.status().Verified, "nothing is claimed at the edge")

			require.NoError(t, r.send(d))
			require.Equal(t, 1, r.take().Len(), "a repetition is for the verifier behind")
		})
	}
}

func TestCheckedBlockIsVerifiedBehind(t *testing.T) {
	edge := newRig(t, block.Traces, withConfig(func(c *Config) { c.Mode = ModeCheck }))
	behind := newRig(t, block.Traces, withAuthority(edge.authority))
	behind.trust(edge.machines...)
	require.NoError(t, behind.p.keys.(*fileKeys).read(t.Context()))
	require.NoError(t, edge.send(edge.signed(0)))
	require.NoError(t, behind.send(edge.take()))
	require.EqualValues(t, 1, behind.count("tpmverify_verified_blocks"))
}

func TestStripTakesOffProofsAndNothingElse(t *testing.T) {
	for _, signal := range signals {
		t.Run(signal.String(), func(t *testing.T) {
			first := newRig(t, signal, withConfig(func(c *Config) { c.Receipts = ReceiptsKeep }))
			d := signtest.Data(signal, "edge-a", 4)
			plain := signtest.Copy(d)
			first.machines[0].Sign(t, stream, block.Split, d)
			require.NoError(t, first.send(d))
			r := newRig(t, signal, withConfig(func(c *Config) { c.Mode = ModeStrip }))
			require.NoError(t, r.send(first.take()))
			got := r.take()
			requireUntouched(t, plain, got.At(0))
			require.Equal(t, "edge-a", attr(got.At(0), block.AttrName))
		})
	}
}

func TestStripTakesOffRepeatedProofs(t *testing.T) {
	r := newRig(t, block.Logs, withConfig(func(c *Config) { c.Mode = ModeStrip }))
	d := r.signed(0)
	signtest.Double(t, d, block.AttrReceipt, []byte("second"))
	require.NoError(t, r.send(d))
	got := r.take()
	for key := range got.At(0).Attributes().All() {
		require.NotEqual(t, block.AttrReceipt, key)
	}
}

// beatBlock is a heartbeat as tpmsign makes one.
func beatBlock(signal block.Signal, name string) digest.Batch {
	d := signtest.Data(signal, "edge-a", 1)
	scopeOf(d).SetName(digest.HeartbeatScope)
	switch signal {
	case block.Metrics:
		d.Metrics().ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0).SetName(name)
	case block.Logs:
		d.Logs().ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).SetEventName(name)
	default:
		d.Traces().ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).SetName(name)
	}
	return d
}

func TestHeartbeatsAreCountedAndHandedOnWithTheEvidence(t *testing.T) {
	for _, signal := range signals {
		for _, c := range []struct {
			receipts, heartbeats string
			passes               bool
		}{
			{ReceiptsStrip, "", false},
			{ReceiptsKeep, "", true},
			{ReceiptsStrip, HeartbeatsPass, true},
			{ReceiptsKeep, HeartbeatsDrop, false},
		} {
			t.Run(fmt.Sprintf("%v/%s/%s", signal, c.receipts, c.heartbeats), func(t *testing.T) {
				r := newRig(t, signal, withConfig(func(cfg *Config) { cfg.Receipts, cfg.Heartbeats = c.receipts, c.heartbeats }))
				life, end := beatBlock(signal, "telemark.heartbeat"), beatBlock(signal, "telemark.farewell")
				r.machines[0].Sign(t, stream, 0, life)
				require.NoError(t, r.send(life))
				require.False(t, r.status().Farewell)
				r.machines[0].Sign(t, stream, 0, end)
				require.NoError(t, r.send(end))
				require.True(t, r.status().Farewell)
				require.EqualValues(t, 2, r.status().Verified)
				require.Zero(t, r.status().GapsOpen)
				if c.passes {
					require.Equal(t, 2, r.take().Len())
				} else {
					require.Zero(t, r.take().Len())
					require.EqualValues(t, 2, r.count("tpmverify_heartbeats_dropped"))
				}
			})
		}
	}
}

func TestStripDropsHeartbeats(t *testing.T) {
	r := newRig(t, block.Metrics, withConfig(func(c *Config) { c.Mode = ModeStrip }))
	require.NoError(t, r.send(beatBlock(block.Metrics, "telemark.heartbeat")))
	require.Zero(t, r.take().Len())
	require.EqualValues(t, 1, r.count("tpmverify_heartbeats_dropped"))
}

func TestAttributesOnRequest(t *testing.T) {
	r := newRig(t, block.Logs, withConfig(func(c *Config) {
		c.Attributes = AttributesConfig{ID: true, KID: true, Freshness: true, Location: true}
		c.Receipts = ReceiptsKeep
	}))
	accuracy := 12.5
	r.machines[0].Location = &receipt.Location{Latitude: 52.52, Longitude: 13.405, Accuracy: &accuracy, Source: "gpsd"}
	require.NoError(t, r.send(r.signed(0)))
	got := r.take().At(0)
	require.Empty(t, attr(got, block.AttrVerdict))
	require.Empty(t, attr(got, block.AttrName))
	kid := fmt.Sprintf("%x", r.machines[0].KID)
	require.Equal(t, kid, attr(got, attrKID))
	require.Equal(t, kid+"/1/"+stream+"/1", attr(got, attrID))
	require.Equal(t, "live", attr(got, attrFreshness))
	require.Equal(t, "52.52,13.405", attr(got, attrLocation))
	require.Equal(t, "gpsd", attr(got, attrLocationSource))
	require.Equal(t, "12.5", attr(got, attrLocationAccuracy))
	require.NotNil(t, proofOf(t, got).Receipt)
}

func TestPoliciesOfTheConfigurationAndOfTheKey(t *testing.T) {
	r := prepareRig(t, block.Logs, withConfig(func(c *Config) {
		c.Location = &LocationConfig{Within: map[string]any{
			"type":        "Polygon",
			"coordinates": []any{[]any{[]any{13, 52}, []any{14, 52}, []any{14, 53}, []any{13, 52}}},
		}}
		c.Freshness.LiveWithin = time.Minute
	}))
	lenient := entryOf(t, r.machines[1])
	lenient.Location = &keyfile.Location{Sources: []string{"static"}}
	lenient.Freshness = "live"
	r.writeKeys(keyfile.File{Keys: []keyfile.Entry{entryOf(t, r.machines[0]), lenient}})
	require.NoError(t, r.p.Start(t.Context(), r.host))
	t.Cleanup(func() { require.NoError(t, r.p.Shutdown(t.Context())) })

	munich := &receipt.Location{Latitude: 48, Longitude: 11, Source: "static"}
	send := func(m *signtest.Machine) {
		d := signtest.Data(block.Logs, m.Name, 1)
		m.Sign(t, stream, 0, d)
		require.NoError(t, r.send(d))
	}
	send(r.machines[0])
	require.EqualValues(t, 1, r.refused(reason.LocationMissing))
	r.machines[0].Location, r.machines[1].Location = munich, munich
	send(r.machines[0])
	require.EqualValues(t, 1, r.refused(reason.LocationOutside))
	send(r.machines[1])
	require.Equal(t, 1, r.take().Len())
	r.advance(2 * time.Minute)
	send(r.machines[1])
	require.EqualValues(t, 1, r.refused(reason.NotFresh))
}

// TestEndlesslyNestedNamesStopNobody puts a value where names are looked for
// that would take a text of it down for very long.
func TestEndlesslyNestedNamesStopNobody(t *testing.T) {
	for _, mode := range []Mode{ModeEnforce, ModeObserve} {
		r := newRig(t, block.Logs, withConfig(func(c *Config) {
			c.Mode, c.Unsigned = mode, UnsignedPass
			c.Bind = map[string]string{"host.name": "name"}
		}))
		d := signtest.Data(block.Logs, "laptop", 1)
		v := d.At(0).Attributes().PutEmpty("host.name")
		for range 100_000 {
			v = v.SetEmptySlice().AppendEmpty()
		}
		good := r.signed(0)
		require.NoError(t, r.p.consume(t.Context(), signtest.Merge(d, good)))
		require.EqualValues(t, 1, r.refused(reason.TooDeep))
		require.Equal(t, "(a list)", r.lines()[0]["host.name"])
	}
}
