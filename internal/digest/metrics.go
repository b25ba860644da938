package digest

import (
	"encoding/binary"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// walkMetrics walks a ResourceMetrics.
//
//	1 resource · 2 scope_metrics · 3 schema_url
func (w *walker) walkMetrics(rm pmetric.ResourceMetrics) {
	b := w.buf[:0]
	if !w.split {
		b = w.begin(b, domainBlock, nil)
	}
	b, n := w.resource(b, rm.Resource())
	w.size = 1 + sov(n) + n
	scopes := rm.ScopeMetrics()
	for i := range scopes.Len() {
		b, n = w.scopeMetrics(b, scopes.At(i))
		w.size += 1 + sov(n) + n
	}
	b, n = w.schemaURL(b, rm.SchemaUrl())
	w.size += n
	w.finish(b)
}

// scopeMetrics emits an element of scope_metrics with its tag.
//
//	1 scope · 2 metrics · 3 schema_url
func (w *walker) scopeMetrics(b []byte, sm pmetric.ScopeMetrics) ([]byte, int) {
	w.foundScope(sm.Scope())
	metrics := sm.Metrics()
	if metrics.Len() == 0 {
		w.empty++
	}
	if !w.split {
		b = append(w.room(b), 0x12)
	}
	b, n := w.scope(b, sm.Scope())
	size := 1 + sov(n) + n
	for i := range metrics.Len() {
		b, n = w.metric(b, metrics.At(i))
		size += 1 + sov(n) + n
	}
	b, n = w.schemaURL(b, sm.SchemaUrl())
	size += n
	if !w.split {
		b = append(w.room(b), 0)
	}
	return b, size
}

// metric emits an element of metrics with its tag.
//
//	1 name · 2 description · 3 unit · 12 metadata, and one of
//	5 gauge · 7 sum · 9 histogram · 10 exponential_histogram · 11 summary
//
// With split the header (all but data points and metadata) is hashed on its
// own, ahead of the points.
func (w *walker) metric(b []byte, m pmetric.Metric) ([]byte, int) {
	tag, temporality, monotonic := metricData(m)
	if w.split {
		b = w.begin(b, domainMetric, w.parents[1][:])
	} else {
		b = append(w.room(b), 0x12)
	}
	p := w.pos(b)
	w.fix = 0
	b = w.strField(b, 0x0a, m.Name())
	b = w.strField(b, 0x12, m.Description())
	b = w.strField(b, 0x1a, m.Unit())
	size := w.pos(b) - p
	w.sizes = 0
	if tag != 0 {
		b = append(b, tag)
		kind := 0
		if w.split {
			b, kind = metricKind(b, temporality, monotonic)
			w.setParent(w.end(append(b, 0)))
			b = w.points(b[:0], m)
		} else {
			b = w.points(b, m)
			b, kind = metricKind(w.room(b), temporality, monotonic)
			b = append(b, 0)
		}
		n := w.sizes + kind
		size += 1 + sov(n) + n
	}
	if tag == 0 && w.split {
		w.end(b) // a metric without data is refused; leave the hash clean
		b = b[:0]
	}
	if w.sizes == 0 {
		w.empty++
	}
	if md := m.Metadata(); md.Len() > 0 {
		b = w.metadata(b, md, &size)
	}
	if !w.split {
		b = append(w.room(b), 0)
	}
	return b, size
}

func (w *walker) metadata(b []byte, md pcommon.Map, size *int) []byte {
	if w.split {
		b = w.silence(b)
	}
	w.fix = 0
	p := w.pos(b)
	b = w.attrs(b, 0x62, md, 1)
	*size += w.pos(b) - p + w.fix
	if w.split {
		b = w.speak(b)
	}
	return b
}

// metricKind emits aggregation_temporality and is_monotonic.
func metricKind(b []byte, temporality int32, monotonic bool) ([]byte, int) {
	n := len(b)
	b = varintField(b, 0x10, uint64(int64(temporality)))
	if monotonic {
		b = append(b, 0x18, 1)
	}
	return b, len(b) - n
}

// metricData returns the tag of the data oneof, 0 when it is not set, and what
// stands in it beside the points.
func metricData(m pmetric.Metric) (tag byte, temporality int32, monotonic bool) {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		return 0x2a, 0, false
	case pmetric.MetricTypeSum:
		return 0x3a, int32(m.Sum().AggregationTemporality()), m.Sum().IsMonotonic()
	case pmetric.MetricTypeHistogram:
		return 0x4a, int32(m.Histogram().AggregationTemporality()), false
	case pmetric.MetricTypeExponentialHistogram:
		return 0x52, int32(m.ExponentialHistogram().AggregationTemporality()), false
	case pmetric.MetricTypeSummary:
		return 0x5a, 0, false
	default:
		return 0, 0, false
	}
}

func (w *walker) points(b []byte, m pmetric.Metric) []byte {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		return w.numbers(b, m.Gauge().DataPoints())
	case pmetric.MetricTypeSum:
		return w.numbers(b, m.Sum().DataPoints())
	case pmetric.MetricTypeHistogram:
		dps := m.Histogram().DataPoints()
		for i := range dps.Len() {
			b = w.closeItem(w.histogram(w.openItem(b, 0x0a), dps.At(i)))
		}
	case pmetric.MetricTypeExponentialHistogram:
		dps := m.ExponentialHistogram().DataPoints()
		for i := range dps.Len() {
			b = w.closeItem(w.expHistogram(w.openItem(b, 0x0a), dps.At(i)))
		}
	case pmetric.MetricTypeSummary:
		dps := m.Summary().DataPoints()
		for i := range dps.Len() {
			b = w.closeItem(w.summary(w.openItem(b, 0x0a), dps.At(i)))
		}
	default: // no points; the caller counts it as an empty container
	}
	return b
}

func (w *walker) numbers(b []byte, dps pmetric.NumberDataPointSlice) []byte {
	for i := range dps.Len() {
		b = w.closeItem(w.number(w.openItem(b, 0x0a), dps.At(i)))
	}
	return b
}

// number emits a NumberDataPoint.
//
//	2 start_time · 3 time · 4 as_double · 5 exemplars · 6 as_int · 7 attributes · 8 flags
func (w *walker) number(b []byte, dp pmetric.NumberDataPoint) []byte {
	b = u64Field(b, 0x11, uint64(dp.StartTimestamp()))
	b = u64Field(b, 0x19, uint64(dp.Timestamp()))
	t := dp.ValueType()
	if t == pmetric.NumberDataPointValueTypeDouble {
		b = w.double(b, 0x21, dp.DoubleValue())
	}
	if es := dp.Exemplars(); es.Len() > 0 {
		b = w.exemplars(b, 0x2a, es)
	}
	if t == pmetric.NumberDataPointValueTypeInt {
		b = appendU64(b, 0x31, uint64(dp.IntValue()))
	}
	b = w.attrs(b, 0x3a, dp.Attributes(), 1)
	return varintField(b, 0x40, uint64(dp.Flags()))
}

// histogram emits a HistogramDataPoint.
//
//	2 start_time · 3 time · 4 count · 5 sum? · 6 bucket_counts · 7 explicit_bounds
//	8 exemplars · 9 attributes · 10 flags · 11 min? · 12 max?
func (w *walker) histogram(b []byte, dp pmetric.HistogramDataPoint) []byte {
	b = u64Field(b, 0x11, uint64(dp.StartTimestamp()))
	b = u64Field(b, 0x19, uint64(dp.Timestamp()))
	b = u64Field(b, 0x21, dp.Count())
	if dp.HasSum() {
		b = w.double(b, 0x29, dp.Sum())
	}
	counts, bounds := dp.BucketCounts(), dp.ExplicitBounds()
	if n := counts.Len(); n > 0 {
		b = w.packed8(b, 0x32, n)
		for i := range n {
			b = binary.LittleEndian.AppendUint64(w.room(b), counts.At(i))
		}
	}
	if n := bounds.Len(); n > 0 {
		b = w.packed8(b, 0x3a, n)
		for i := range n {
			b = binary.LittleEndian.AppendUint64(w.room(b), w.bits(bounds.At(i)))
		}
	}
	b = w.exemplars(w.room(b), 0x42, dp.Exemplars())
	b = w.attrs(b, 0x4a, dp.Attributes(), 1)
	b = varintField(b, 0x50, uint64(dp.Flags()))
	if dp.HasMin() {
		b = w.double(b, 0x59, dp.Min())
	}
	if dp.HasMax() {
		b = w.double(b, 0x61, dp.Max())
	}
	return b
}

// packed8 emits tag and element count of a packed list of 8-byte elements.
func (w *walker) packed8(b []byte, tag byte, n int) []byte {
	w.fix += sov(8*n) - sov(n)
	return binary.AppendUvarint(append(w.room(b), tag), uint64(n))
}

// expHistogram emits an ExponentialHistogramDataPoint.
//
//	1 attributes · 2 start_time · 3 time · 4 count · 5 sum? · 6 scale · 7 zero_count
//	8 positive · 9 negative · 10 flags · 11 exemplars · 12 min? · 13 max? · 14 zero_threshold
func (w *walker) expHistogram(b []byte, dp pmetric.ExponentialHistogramDataPoint) []byte {
	b = w.attrs(b, 0x0a, dp.Attributes(), 1)
	b = u64Field(b, 0x11, uint64(dp.StartTimestamp()))
	b = u64Field(b, 0x19, uint64(dp.Timestamp()))
	b = u64Field(b, 0x21, dp.Count())
	if dp.HasSum() {
		b = w.double(b, 0x29, dp.Sum())
	}
	b = zigzagField(b, 0x30, dp.Scale())
	b = u64Field(b, 0x39, dp.ZeroCount())
	b = w.buckets(b, 0x42, dp.Positive())
	b = w.buckets(b, 0x4a, dp.Negative())
	b = varintField(b, 0x50, uint64(dp.Flags()))
	b = w.exemplars(b, 0x5a, dp.Exemplars())
	if dp.HasMin() {
		b = w.double(b, 0x61, dp.Min())
	}
	if dp.HasMax() {
		b = w.double(b, 0x69, dp.Max())
	}
	return w.doubleField(b, 0x71, dp.ZeroThreshold())
}

// buckets emits the positive or negative Buckets.
//
//	1 offset · 2 bucket_counts (varints)
func (w *walker) buckets(b []byte, tag byte, bk pmetric.ExponentialHistogramDataPointBuckets) []byte {
	counts := bk.BucketCounts()
	n := counts.Len()
	if n == 0 && bk.Offset() == 0 {
		w.fix += 2
		return b
	}
	b = append(w.room(b), tag)
	p, f := w.pos(b), w.fix
	b = zigzagField(b, 0x08, bk.Offset())
	if n > 0 {
		b = binary.AppendUvarint(append(b, 0x12), uint64(n))
		q := w.pos(b)
		for i := range n {
			b = binary.AppendUvarint(w.room(b), counts.At(i))
		}
		w.fix += sov(w.pos(b)-q) - sov(n)
	}
	return w.endNested(b, p, f)
}

// summary emits a SummaryDataPoint.
//
//	2 start_time · 3 time · 4 count · 5 sum · 6 quantile_values · 7 attributes · 8 flags
//	quantile_values: 1 quantile · 2 value
func (w *walker) summary(b []byte, dp pmetric.SummaryDataPoint) []byte {
	b = u64Field(b, 0x11, uint64(dp.StartTimestamp()))
	b = u64Field(b, 0x19, uint64(dp.Timestamp()))
	b = u64Field(b, 0x21, dp.Count())
	b = w.doubleField(b, 0x29, dp.Sum())
	qs := dp.QuantileValues()
	for i := range qs.Len() {
		q := qs.At(i)
		b = append(w.room(b), 0x32)
		b = w.doubleField(b, 0x09, q.Quantile())
		b = w.doubleField(b, 0x11, q.Value())
		b = append(b, 0) // in protobuf a length of one byte
	}
	b = w.attrs(w.room(b), 0x3a, dp.Attributes(), 1)
	return varintField(b, 0x40, uint64(dp.Flags()))
}

// exemplars emits a repeated Exemplar field.
//
//	2 time · 3 as_double · 4 span_id · 5 trace_id · 6 as_int · 7 filtered_attributes
func (w *walker) exemplars(b []byte, tag byte, es pmetric.ExemplarSlice) []byte {
	for i := range es.Len() {
		e := es.At(i)
		b = append(w.room(b), tag)
		p, f := w.pos(b), w.fix
		b = u64Field(b, 0x11, uint64(e.Timestamp()))
		t := e.ValueType()
		if t == pmetric.ExemplarValueTypeDouble {
			b = w.double(b, 0x19, e.DoubleValue())
		}
		b = w.spanID(b, 0x22, e.SpanID())
		b = w.traceID(b, 0x2a, e.TraceID())
		if t == pmetric.ExemplarValueTypeInt {
			b = appendU64(b, 0x31, uint64(e.IntValue()))
		}
		b = w.attrs(b, 0x3a, e.FilteredAttributes(), 1)
		b = w.endNested(b, p, f)
	}
	return b
}
