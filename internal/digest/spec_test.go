package digest

import (
	"bytes"
	"encoding/hex"
	"hash"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/receipt"
)

// recorder keeps what is hashed: one entry for each hash.
type recorder struct {
	hash.Hash
	current []byte
	done    [][]byte
}

func (r *recorder) Write(p []byte) (int, error) {
	r.current = append(r.current, p...)
	return r.Hash.Write(p)
}

func (r *recorder) Reset() {
	if len(r.current) > 0 {
		r.done = append(r.done, r.current)
	}
	r.current = nil
	r.Hash.Reset()
}

func hashed(b Block, o options) (*walker, [][]byte) {
	pooled := newWalker(o)
	defer pooled.release()
	o.signal = b.signal
	r := &recorder{Hash: pooled.h}
	w := &walker{h: r, buf: make([]byte, 0, bufSize), options: o}
	b.walk(w)
	return w, r.done
}

func exampleLog() Batch {
	b := NewBatch(block.Logs)
	rl := b.append().logs
	rl.Resource().Attributes().PutStr("service.name", "shop")
	rl.SetSchemaUrl("https://s")
	sl := rl.ScopeLogs().AppendEmpty()
	sl.Scope().SetName("app")
	lr := sl.LogRecords().AppendEmpty()
	lr.SetTimestamp(1)
	lr.SetSeverityNumber(plog.SeverityNumberInfo)
	lr.Body().SetStr("hi")
	a := lr.Attributes().PutEmptySlice("l")
	a.AppendEmpty().SetInt(-1)
	a.AppendEmpty()
	lr.SetFlags(1)
	lr.SetSpanID(pcommon.SpanID{1, 2, 3, 4, 5, 6, 7, 8})
	return b
}

func exampleMetric() Batch {
	b := NewBatch(block.Metrics)
	rm := b.append().metrics
	rm.Resource().Attributes().PutStr("host.name", "edge-a")
	sm := rm.ScopeMetrics().AppendEmpty()
	m := sm.Metrics().AppendEmpty()
	m.SetName("disk.io")
	m.SetUnit("By")
	m.Metadata().PutStr("not", "covered")
	sum := m.SetEmptySum()
	sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	sum.SetIsMonotonic(true)
	for i, device := range []string{"sda", "sdb"} {
		dp := sum.DataPoints().AppendEmpty()
		dp.SetTimestamp(2)
		dp.SetIntValue(int64(41 + i))
		dp.Attributes().PutStr("device", device)
	}
	return b
}

var hexBlock = regexp.MustCompile("(?s)```hex ([a-z-]+)\n(.*?)```")

// specBytes returns the fenced hex blocks of the specification by name. In a
// line everything behind a semicolon is a remark.
func specBytes(t *testing.T) map[string][]byte {
	t.Helper()
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "spec", "digest.md"))
	require.NoError(t, err)
	out := map[string][]byte{}
	for _, m := range hexBlock.FindAllSubmatch(doc, -1) {
		var all []byte
		for line := range strings.Lines(string(m[2])) {
			code, _, _ := strings.Cut(line, ";")
			b, err := hex.DecodeString(strings.Join(strings.Fields(code), ""))
			require.NoError(t, err, "%s: %s", m[1], line)
			all = append(all, b...)
		}
		out[string(m[1])] = all
	}
	return out
}

func TestWorkedExamplesOfTheSpecification(t *testing.T) {
	spec := specBytes(t)
	same := func(name string, got []byte) {
		t.Helper()
		require.Equal(t, hex.EncodeToString(spec[name]), hex.EncodeToString(got), name)
	}
	log := exampleLog()
	w, in := hashed(log.At(0), options{signal: block.Logs})
	same("log-hashed", in[0])
	same("log-digest", w.digest[:])

	// What the specification shows as OTLP decodes to the example.
	decoded, err := UnmarshalBatch(block.Logs, spec["log-otlp"])
	require.NoError(t, err)
	require.Equal(t, prepared(t, log.At(0), 0).Digest, prepared(t, decoded.At(0), 0).Digest)
	same("log-otlp", marshaled(t, log))

	metric := exampleMetric()
	same("metric-otlp", marshaled(t, metric))
	w, in = hashed(metric.At(0), options{signal: block.Metrics, split: true})
	same("metric-resource-hashed", in[0])
	same("metric-resource-hash", w.parents[0][:])
	same("metric-scope-hashed", in[1])
	same("metric-scope-hash", w.parents[1][:])
	same("metric-header-hashed", in[2])
	same("metric-manifest", w.digests)
	same("metric-digest", w.digest[:])
	item := append(bytes.Clone(w.prefix[:]), spec["metric-item"]...)
	require.Equal(t, spec["metric-manifest"][32:], refHash(item))
	same("metric-header-hash", w.prefix[len(w.prefix)-32:])

	keys := receipt.KeyListDigest([]string{"host.name", "service.name"})
	same("key-list-digest", keys[:])
}

// marshaled writes fields in ascending order, as the specification shows them.
func marshaled(t *testing.T, b Batch) []byte {
	t.Helper()
	var out []byte
	for _, m := range toMessages(t, b) {
		raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		require.NoError(t, err)
		out = protowire.AppendBytes(append(out, 0x0a), raw)
	}
	return out
}

// fieldTable is the row of a field in the tables of §4.
type fieldTable struct{ names, tag, presence string }

func specTables(t *testing.T) map[string]map[string]fieldTable {
	t.Helper()
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "spec", "digest.md"))
	require.NoError(t, err)
	tables := map[string]map[string]fieldTable{}
	var current []string
	for line := range strings.Lines(string(doc)) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 6 {
			current = nil
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if cells[2] == "t" {
			names, _, _ := strings.Cut(cells[1], " (")
			current = strings.Split(names, ", ")
			for _, n := range current {
				tables[n] = map[string]fieldTable{}
			}
			continue
		}
		number, names, ok := strings.Cut(cells[1], " ")
		for _, n := range current {
			if ok {
				tables[n][number] = fieldTable{names, strings.ReplaceAll(strings.Trim(cells[2], "`"), " ", ""), cells[3]}
			}
		}
	}
	return tables
}

func TestSpecificationListsEveryField(t *testing.T) {
	tables := specTables(t)
	for _, s := range signals {
		for _, path := range fieldPaths(newBlockMessage(s).ProtoReflect().Descriptor(), nil, map[protoreflect.FullName]int{}) {
			fd := path[len(path)-1]
			message := string(fd.Parent().Name())
			switch message {
			case "KeyValue", "AnyValue", "ArrayValue", "KeyValueList":
				continue // §3
			}
			row, ok := tables[message][strconv.Itoa(int(fd.Number()))]
			require.True(t, ok, "%s is not in the specification", fd.FullName())
			require.Contains(t, row.names, string(fd.Name()))
			require.Equal(t, hex.EncodeToString(refTag(fd)), row.tag, "%s", fd.FullName())
			require.Contains(t, row.presence, presence(fd), "%s", fd.FullName())
		}
	}
}

func presence(fd protoreflect.FieldDescriptor) string {
	switch one := fd.ContainingOneof(); {
	case one != nil && !one.IsSynthetic():
		return "oneof"
	case fd.IsPacked():
		return "packed"
	case fd.IsList():
		return "rep"
	case fd.Message() != nil:
		return "msg"
	case fd.HasPresence():
		return "exp"
	default:
		return "imp"
	}
}
