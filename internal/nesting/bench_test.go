package nesting

import (
	"fmt"
	"testing"

	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
)

// What looking costs for each log record, beside pdata's decoding of it.
func BenchmarkLogs(b *testing.B) {
	const records = 1000
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("service.name", "doors")
	sl := rl.ScopeLogs().AppendEmpty()
	for i := range records {
		lr := sl.LogRecords().AppendEmpty()
		lr.SetTimestamp(1_700_000_000_000_000_000)
		lr.SetSeverityText("INFO")
		lr.Body().SetStr(fmt.Sprintf("door %d was opened by the badge of somebody who works there", i))
		for j := range 6 {
			lr.Attributes().PutStr(fmt.Sprintf("key.%d", j), "some value of usual length")
		}
		lr.Attributes().PutInt("http.status_code", 200)
		lr.Attributes().PutEmptyMap("nested").PutEmptySlice("list").AppendEmpty().SetStr("x")
	}
	r := plogotlp.NewExportRequestFromLogs(ld)
	proto, err := r.MarshalProto()
	if err != nil {
		b.Fatal(err)
	}
	json, err := r.MarshalJSON()
	if err != nil {
		b.Fatal(err)
	}
	run := func(name string, size int, do func()) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				do()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/records, "ns/record")
		})
	}
	run("proto", len(proto), func() { Proto(proto, Logs, 128) })
	run("proto of any signal", len(proto), func() { Proto(proto, Any, 128) })
	run("proto, pdata", len(proto), func() { _ = plogotlp.NewExportRequest().UnmarshalProto(proto) })
	run("JSON", len(json), func() { JSON(json, 128) })
	run("JSON, pdata", len(json), func() { _ = plogotlp.NewExportRequest().UnmarshalJSON(json) })
}
