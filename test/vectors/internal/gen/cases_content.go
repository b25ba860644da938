package main

import (
	"slices"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/reason"
)

// content are blocks that are not what was signed.
func content(b *book) {
	for _, signal := range signals {
		changes(b, signal)
		emptyContainers(b, signal)
	}
	changesOfMetrics(b)
	changesOfLogs(b)
	enrichedWrong(b)
	counts(b)
	reservedKeys(b)
	texts(b)
}

// changer adds vectors of one signal in which the block was changed.
func changer(b *book, signal block.Signal, tol block.Tolerance) func(name, about string, why reason.Reason, change func(digest.Block)) {
	return func(name, about string, why reason.Reason, change func(digest.Block)) {
		b.attack(name, about, signal, tol, why, func(s *scene) []byte { return s.changed(change) })
	}
}

func changeItem(b digest.Block) {
	switch b.Signal() {
	case block.Metrics:
		b.Metrics().ScopeMetrics().At(0).Metrics().At(0).Sum().DataPoints().At(1).SetIntValue(42)
	case block.Logs:
		b.Logs().ScopeLogs().At(0).LogRecords().At(1).Body().SetStr("never")
	default:
		b.Traces().ScopeSpans().At(0).Spans().At(1).Status().SetCode(ptrace.StatusCodeOk)
	}
}

func scopeOf(b digest.Block, i int) pcommon.InstrumentationScope {
	switch b.Signal() {
	case block.Metrics:
		return b.Metrics().ScopeMetrics().At(i).Scope()
	case block.Logs:
		return b.Logs().ScopeLogs().At(i).Scope()
	default:
		return b.Traces().ScopeSpans().At(i).Scope()
	}
}

func itemAttributes(b digest.Block) pcommon.Map {
	switch b.Signal() {
	case block.Metrics:
		return b.Metrics().ScopeMetrics().At(0).Metrics().At(0).Sum().DataPoints().At(0).Attributes()
	case block.Logs:
		return b.Logs().ScopeLogs().At(0).LogRecords().At(0).Attributes()
	default:
		return b.Traces().ScopeSpans().At(0).Spans().At(0).Attributes()
	}
}

func moveToEnd(m pcommon.Map, key string) {
	v, _ := m.Get(key)
	s := v.Str()
	m.Remove(key)
	m.PutStr(key, s)
}

func changes(b *book, signal block.Signal) {
	name := signal.String()
	plain := changer(b, signal, 0)
	split := changer(b, signal, block.Split)
	why := reason.DigestMismatch
	plain("digest-"+name+"-value", "A value of an item was changed.", why, changeItem)
	plain("digest-"+name+"-scope", "The version of a scope was changed.", why, func(b digest.Block) { scopeOf(b, 1).SetVersion("1.2.1") })
	plain("digest-"+name+"-attribute-added", "An attribute was added to an item.", why, func(b digest.Block) { itemAttributes(b).PutBool("x", true) })
	plain("split-"+name+"-not-tolerated", "A gateway split a block whose signer does not tolerate that.", reason.BlockSplit,
		func(b digest.Block) { b.FilterItems(func(i int) bool { return i < 2 }) })
	plain("enrich-"+name+"-not-tolerated", "A gateway added a resource attribute, and the signer does not tolerate that.", reason.ResourceEnriched,
		func(b digest.Block) { b.Attributes().PutStr("cloud.region", "eu-central-1") })
	why = reason.ItemMismatch
	split("item-"+name+"-value", "A value of an item was changed, splitting is tolerated.", why, changeItem)
	split("item-"+name+"-scope", "A scope was changed, splitting is tolerated: items are bound to it.", why, func(b digest.Block) { scopeOf(b, 0).SetName("other") })
	split("item-"+name+"-resource", "The resource was changed, splitting is tolerated: items are bound to it.", why,
		func(b digest.Block) { b.Attributes().PutStr("service.name", "bank") })
	split("split-"+name+"-enriched", "A gateway added a resource attribute; only splitting is tolerated.", reason.ResourceEnriched,
		func(b digest.Block) { b.Attributes().PutStr("cloud.region", "eu-central-1") })
	b.attack("digest-"+name+"-scopes-swapped", "The scopes changed places.", signal, 0, reason.DigestMismatch, func(s *scene) []byte {
		fs := fields(s.honest.bytes())
		at := []int{}
		for i, f := range fs {
			if f.num == toScopes {
				at = append(at, i)
			}
		}
		fs[at[0]], fs[at[1]] = fs[at[1]], fs[at[0]]
		return message(fs)
	})
}

func changesOfMetrics(b *book) {
	plain := changer(b, block.Metrics, 0)
	split := changer(b, block.Metrics, block.Split)
	metric := func(b digest.Block) pmetric.Metric { return b.Metrics().ScopeMetrics().At(0).Metrics().At(0) }
	plain("digest-metadata", "The metadata of a metric was changed.", reason.DigestMismatch, func(b digest.Block) { metric(b).Metadata().PutStr("source", "x") })
	plain("digest-schema-url", "The schema URL of the resource was removed.", reason.DigestMismatch, func(b digest.Block) { b.Metrics().SetSchemaUrl("") })
	plain("digest-point-moved", "A data point went to another metric.", reason.DigestMismatch, func(b digest.Block) {
		points := metric(b).Sum().DataPoints()
		points.At(2).CopyTo(b.Metrics().ScopeMetrics().At(1).Metrics().At(0).Gauge().DataPoints().AppendEmpty())
		n := -1
		points.RemoveIf(func(pmetric.NumberDataPoint) bool { n++; return n == 2 })
	})
	split("item-unit", "The unit of a metric was changed, splitting is tolerated.", reason.ItemMismatch, func(b digest.Block) { metric(b).SetUnit("kBy") })
	split("item-monotonic", "A sum is not monotonic any more, splitting is tolerated.", reason.ItemMismatch, func(b digest.Block) { metric(b).Sum().SetIsMonotonic(false) })
	split("item-kind", "A sum became a gauge, splitting is tolerated.", reason.ItemMismatch, func(b digest.Block) {
		m := metric(b)
		points := pmetric.NewNumberDataPointSlice()
		m.Sum().DataPoints().CopyTo(points)
		points.CopyTo(m.SetEmptyGauge().DataPoints())
	})
}

func changesOfLogs(b *book) {
	plain := changer(b, block.Logs, 0)
	why := reason.DigestMismatch
	plain("digest-resource-value", "A resource attribute was changed.", why, func(b digest.Block) { b.Attributes().PutStr("service.name", "bank") })
	plain("digest-resource-removed", "A resource attribute was removed.", why, func(b digest.Block) { b.Attributes().Remove("service.name") })
	plain("digest-items-swapped", "Two items changed places.", why, func(b digest.Block) {
		records := b.Logs().ScopeLogs().At(0).LogRecords()
		x := plog.NewLogRecord()
		records.At(0).MoveTo(x)
		records.At(1).MoveTo(records.At(0))
		x.MoveTo(records.At(1))
	})
	plain("digest-attributes-swapped", "Two attributes of the resource changed places.", why, func(b digest.Block) {
		moveToEnd(b.Attributes(), "service.name")
		moveProofToEnd(b)
	})
	plain("digest-type-changed", "An integer became the text of it.", why, func(b digest.Block) { itemAttributes(b).PutStr("try", "0") })
	plain("digest-value-unset", "An empty string became a value that is not set: not the same.", why, func(b digest.Block) {
		itemAttributes(b).PutEmpty("path")
	})
	plain("digest-item-doubled", "An item is there twice.", why, func(b digest.Block) {
		records := b.Logs().ScopeLogs().At(0).LogRecords()
		records.At(0).CopyTo(records.AppendEmpty())
	})
	b.attack("digest-enriched-in-front", "An attribute was added in front of the others: that this is all that happened cannot be seen.",
		block.Logs, 0, why, func(s *scene) []byte {
			kv := slices.Concat(lenField(keyValueKey, []byte("zone")), lenField(keyValueAny, lenField(1, []byte("1"))))
			return edit(s.honest.bytes(), func(r []byte) []byte { return slices.Concat(lenField(1, kv), r) }, toResource)
		})
	changer(b, block.Traces, 0)("digest-dropped-count", "A span says that it lost an attribute.", why,
		func(b digest.Block) { b.Traces().ScopeSpans().At(1).Spans().At(0).SetDroppedAttributesCount(1) })
}

// moveProofToEnd makes a change of the resource's order no appended attribute.
func moveProofToEnd(b digest.Block) {
	p := must(b.Proof())
	b.StripProof()
	b.Attach(p)
}

func enrichedWrong(b *book) {
	enrich := changer(b, block.Logs, block.Enrich)
	why := reason.ResourceChanged
	enrich("resource-removed", "A signed resource attribute was removed, enriching is tolerated.", why, func(b digest.Block) { b.Attributes().Remove("service.name") })
	enrich("resource-moved", "Signed resource attributes changed places, enriching is tolerated.", why, func(b digest.Block) { moveToEnd(b.Attributes(), "service.name") })
	b.attack("resource-doubled", "A signed resource attribute is there a second time, with another value.", block.Logs, block.Enrich, why, func(s *scene) []byte {
		kv := slices.Concat(lenField(keyValueKey, []byte("host.name")), lenField(keyValueAny, lenField(1, []byte("edge-z"))))
		return plus(s.honest.bytes(), lenField(1, kv), toResource)
	})
	enrich("enrich-value-changed", "A signed resource attribute has another value, enriching is tolerated.", reason.DigestMismatch,
		func(b digest.Block) { b.Attributes().PutStr("host.name", "edge-z") })
	enrich("enrich-dropped-count-changed", "The resource's dropped_attributes_count was changed: enriching is about attributes.", reason.DigestMismatch,
		func(b digest.Block) { b.Logs().Resource().SetDroppedAttributesCount(1) })
	enrich("enrich-item-changed", "Enriching is tolerated, and an item was changed.", reason.DigestMismatch, changeItem)
	changer(b, block.Logs, both)("both-item-changed", "Both are tolerated, and an item was changed.", reason.ItemMismatch, changeItem)
	changer(b, block.Logs, both)("both-resource-changed", "Both are tolerated, and a signed resource attribute was changed.", reason.ItemMismatch,
		func(b digest.Block) { b.Attributes().PutStr("host.name", "edge-z") })
	enrich("enrich-reserved", "What was added is under the reserved prefix.", reason.ReservedAttribute,
		func(b digest.Block) { b.Attributes().PutStr("telemark.name", "edge-z") })
	enrich("enrich-invalid-utf8", "What was added is not UTF-8.", reason.InvalidUTF8,
		func(b digest.Block) { b.Attributes().PutStr("zone", "z\xff") })
}

// counts are receipts whose agent miscounted.
func counts(b *book) {
	miscount := func(name, about string, tol block.Tolerance, items uint64, why reason.Reason) {
		b.attack(name, about, block.Logs, tol, why, func(s *scene) []byte {
			a := s.before.fork()
			a.miscount = items
			return a.one(s.data, tol).bytes()
		})
	}
	miscount("digest-count-too-low", "The agent signed that the block has three items; it has four, and the digest is that of four.", 0, 3, reason.DigestMismatch)
	miscount("digest-count-too-high", "The agent signed that the block has five items; it has four, and the digest is that of four.", 0, 5, reason.DigestMismatch)
	miscount("manifest-count", "The agent signed that the block has five items, the manifest lists four.", block.Split, 5, reason.ManifestMismatch)
}

// reservedKeys are attributes that no signer lets through.
func reservedKeys(b *book) {
	why := reason.ReservedAttribute
	logs, traces, metrics := changer(b, block.Logs, 0), changer(b, block.Traces, 0), changer(b, block.Metrics, 0)
	logs("reserved-resource", "A verdict on the resource.", why, func(b digest.Block) { b.Attributes().PutStr(block.AttrVerdict, reason.Verified) })
	logs("reserved-in-resource-map", "A verdict in a map on the resource.", why, func(b digest.Block) {
		b.Attributes().PutEmptyMap("x").PutStr("telemark.verdict", "verified")
	})
	logs("reserved-scope", "A verdict on a scope.", why, func(b digest.Block) { scopeOf(b, 1).Attributes().PutStr("telemark.verdict", "verified") })
	logs("reserved-item", "A receipt on an item.", why, func(b digest.Block) { itemAttributes(b).PutEmptyBytes(block.AttrReceipt) })
	logs("reserved-bare", "The bare word, as the key of a map: exporters make telemark.verdict out of it.", why, func(b digest.Block) {
		itemAttributes(b).PutEmptyMap("telemark").PutStr("verdict", "verified")
	})
	logs("reserved-deep", "In a map in an array in a map of an item.", why, func(b digest.Block) {
		itemAttributes(b).PutEmptyMap("a").PutEmptySlice("b").AppendEmpty().SetEmptyMap().PutStr("telemark_x", "")
	})
	logs("reserved-body", "In the body of a log record.", why, func(b digest.Block) {
		b.Logs().ScopeLogs().At(0).LogRecords().At(0).Body().SetEmptyMap().PutStr("telemark.name", "edge-z")
	})
	logs("reserved-upper-case", "In upper case, with a slash.", why, func(b digest.Block) { itemAttributes(b).PutStr("TELEMARK/x", "") })
	logs("reserved-kelvin", "With the Kelvin sign, which folds to k, and a zero byte behind it.", why, func(b digest.Block) { itemAttributes(b).PutStr("telemar\u212a\x00", "") })
	logs("reserved-non-ascii", "Followed by a letter that is not ASCII.", why, func(b digest.Block) { itemAttributes(b).PutStr("telemarkä", "") })
	traces("reserved-event", "On an event of a span.", why, func(b digest.Block) {
		b.Traces().ScopeSpans().At(1).Spans().At(1).Events().At(0).Attributes().PutStr("telemark.x", "")
	})
	traces("reserved-link", "On a link of a span.", why, func(b digest.Block) {
		b.Traces().ScopeSpans().At(1).Spans().At(1).Links().At(0).Attributes().PutStr("telemark.x", "")
	})
	metrics("reserved-metadata", "In the metadata of a metric.", why, func(b digest.Block) {
		b.Metrics().ScopeMetrics().At(0).Metrics().At(0).Metadata().PutStr("telemark.x", "")
	})
	metrics("reserved-exemplar", "In the attributes of an exemplar.", why, func(b digest.Block) {
		e := b.Metrics().ScopeMetrics().At(1).Metrics().At(0).Gauge().DataPoints().At(0).Exemplars().AppendEmpty()
		e.FilteredAttributes().PutStr("telemark.x", "")
	})
	changer(b, block.Metrics, block.Split)("reserved-metadata-split", "In the metadata of a metric, which split does not cover.", why, func(b digest.Block) {
		b.Metrics().ScopeMetrics().At(0).Metrics().At(0).Metadata().PutStr("telemark.x", "")
	})
}

// texts are strings and values that no signer lets through.
func texts(b *book) {
	why := reason.InvalidUTF8
	logs := changer(b, block.Logs, 0)
	logs("utf8-value", "An attribute's value is not UTF-8.", why, func(b digest.Block) { itemAttributes(b).PutStr("path", "/c\xffrt") })
	logs("utf8-key", "An attribute's key is not UTF-8.", why, func(b digest.Block) { itemAttributes(b).PutStr("pa\xc3th", "x") })
	logs("utf8-surrogate", "A body holds a surrogate.", why, func(b digest.Block) {
		b.Logs().ScopeLogs().At(0).LogRecords().At(0).Body().SetStr("\xed\xa0\x80")
	})
	logs("utf8-overlong", "A text holds an overlong slash.", why, func(b digest.Block) {
		b.Logs().ScopeLogs().At(0).LogRecords().At(0).SetSeverityText("\xc0\xaf")
	})
	logs("utf8-in-array", "A string in an array is not UTF-8.", why, func(b digest.Block) { itemAttributes(b).PutEmptySlice("x").AppendEmpty().SetStr("\x80") })
	changer(b, block.Traces, 0)("utf8-name", "The name of a span is not UTF-8.", why, func(b digest.Block) {
		b.Traces().ScopeSpans().At(0).Spans().At(0).SetName("GET \xfe")
	})
	changer(b, block.Metrics, block.Split)("utf8-schema-url-split", "A schema URL, which split does not cover, is not UTF-8.", why, func(b digest.Block) {
		b.Metrics().SetSchemaUrl("https://\xff")
	})
	nested := func(name, about string, levels int, wrap func(pcommon.Value) pcommon.Value) {
		logs(name, about, reason.TooDeep, func(b digest.Block) {
			v := itemAttributes(b).PutEmpty("deep")
			for range levels {
				v = wrap(v)
			}
		})
	}
	inArray := func(v pcommon.Value) pcommon.Value { return v.SetEmptySlice().AppendEmpty() }
	inMap := func(v pcommon.Value) pcommon.Value { return v.SetEmptyMap().PutEmpty("") }
	nested("deep-65", "A value at depth 65.", 64, inArray)
	nested("deep-10000-arrays", "A value at depth 10,001, in arrays.", 10_000, inArray)
	nested("deep-10000-maps", "A value at depth 10,001, in maps.", 10_000, inMap)
	logs("deep-body", "A body whose innermost value is at depth 65, in arrays and maps.", reason.TooDeep, func(b digest.Block) {
		v := b.Logs().ScopeLogs().At(0).LogRecords().At(0).Body()
		for range 32 {
			v = inMap(inArray(v))
		}
	})
	a := newAgent("edge-a")
	data := sample(block.Logs, "edge-a")
	v := itemAttributes(data.At(0)).PutEmpty("deep")
	for i := range 63 {
		if i%2 == 0 {
			v = inArray(v)
		} else {
			v = inMap(v)
		}
	}
	v.SetStr("64")
	b.add("ok-depth-64", "A value at depth 64, in arrays and maps.", block.Logs, a).step(arrival, good(a.one(data, 0)))
}

// emptyContainers are containers without items.
func emptyContainers(b *book, signal block.Signal) {
	name := "empty-" + signal.String()
	why := reason.EmptyContainer
	plain, split := changer(b, signal, 0), changer(b, signal, block.Split)
	scope := func(b digest.Block) {
		switch signal {
		case block.Metrics:
			b.Metrics().ScopeMetrics().AppendEmpty()
		case block.Logs:
			b.Logs().ScopeLogs().AppendEmpty()
		default:
			b.Traces().ScopeSpans().AppendEmpty()
		}
	}
	plain(name+"-scope", "A scope without items was added.", why, scope)
	split(name+"-scope-split", "A scope without items was added, splitting is tolerated.", why, scope)
	plain(name+"-block", "All scopes are gone, the receipt is there.", why, func(b digest.Block) {
		b.FilterItems(func(int) bool { return false })
	})
	if signal == block.Metrics {
		plain(name+"-metric", "A metric without data was added.", why, func(b digest.Block) {
			b.Metrics().ScopeMetrics().At(0).Metrics().AppendEmpty().SetName("none")
		})
		split(name+"-points", "A gauge without points was added, splitting is tolerated.", why, func(b digest.Block) {
			b.Metrics().ScopeMetrics().At(0).Metrics().AppendEmpty().SetEmptyGauge()
		})
	}
}
