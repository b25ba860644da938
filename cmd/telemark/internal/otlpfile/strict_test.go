package otlpfile

import (
	"bytes"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/signtest"
)

// What no digest sees must not stand in a file whose blocks are called verified:
// somebody else may read it.
func TestWhatDecodersPassOverIsSaid(t *testing.T) {
	const whole = `{"resourceLogs":[{"resource":{"attributes":[{"key":"a","value":{"stringValue":"s"}}]},` +
		`"scopeLogs":[{"logRecords":[{"timeUnixNano":"1","severityText":"ERROR","body":{"arrayValue":{"values":[{},{"intValue":"1"}]}}}]}]}]}`
	require.Len(t, read(t, []byte(whole), Options{}).records, 1)
	for name, change := range map[string][2]string{
		"member of no message":         {`"severityText":"ERROR"`, `"severityText":"ERROR","note":"forged"`},
		"member in another case":       {`"severityText":"ERROR"`, `"severityText":"ERROR","SeverityText":"INFO"`},
		"member twice, the same":       {`"severityText":"ERROR"`, `"severityText":"ERROR","severityText":"ERROR"`},
		"member twice, other before":   {`"severityText":"ERROR"`, `"severityText":"INFO","severityText":"ERROR"`},
		"member under both names":      {`"severityText":"ERROR"`, `"severity_text":"INFO","severityText":"ERROR"`},
		"member twice, one escaped":    {`"severityText":"ERROR"`, `"severity\u0054ext":"INFO","severityText":"ERROR"`},
		"two kinds of value":           {`{"stringValue":"s"}`, `{"intValue":"0","stringValue":"s"}`},
		"deep in a value":              {`{"intValue":"1"}`, `{"intValue":"1","x":1}`},
		"in the value that is not set": {`[{},`, `[{"x":1},`},
		"object for a text":            {`"severityText":"ERROR"`, `"severityText":{"x":"y"}`},
		"list for a text":              {`"severityText":"ERROR"`, `"severityText":["ERROR"]`},
		"text for a message":           {`"resource":{`, `"scope":"x","resource":{`},
		"beside the blocks":            {`{"resourceLogs"`, `{"x":1,"resourceLogs"`},
		"blocks twice":                 {`{"resourceLogs"`, `{"resourceLogs":[],"resourceLogs"`},
	} {
		t.Run(name, func(t *testing.T) {
			doc := bytes.Replace([]byte(whole), []byte(change[0]), []byte(change[1]), 1)
			require.NotEqual(t, whole, string(doc))
			for _, content := range [][]byte{doc, indented(t, doc), frame(zstded(t, doc))} {
				c := read(t, content, Options{})
				require.Empty(t, c.records)
				require.Len(t, c.damages, 1)
			}
		})
	}
	null := bytes.Replace([]byte(whole), []byte(`"severityText":"ERROR"`), []byte(`"severity_text":"ERROR","droppedAttributesCount":0,"eventName":null`), 1)
	require.Len(t, read(t, null, Options{}).records, 1)
}

func TestWhatDecodersOfProtobufPassOverIsSaid(t *testing.T) {
	for _, s := range []block.Signal{block.Metrics, block.Logs, block.Traces} {
		p := toProto(t, signtest.Data(s, "edge-a", 3))
		blk, n := protowire.ConsumeBytes(p[1:])
		require.Equal(t, len(p)-1, n)
		in := func(more ...byte) []byte {
			return protowire.AppendBytes([]byte{0x0a}, append(slices.Clone(blk), more...))
		}
		require.Len(t, read(t, frame(p), Options{Signal: s}).records, 1)
		for name, doc := range map[string][]byte{
			"unknown field":     in(0x9a, 0x06, 1, 'x'),
			"deprecated field":  in(0xc2, 0x3e, 0),
			"another wire type": in(0x18, 1),
			"group":             in(0x23, 0x24),
			"message twice":     in(0x0a, 0),
			"text twice":        in(0x1a, 1, 'x', 0x1a, 1, 'y'),
			"beside the blocks": append(slices.Clone(p), 0x12, 1, 'x'),
			"cut off":           p[:len(p)-1],
		} {
			for _, opts := range []Options{{}, {Signal: s}} {
				c := read(t, frame(doc), opts)
				require.Empty(t, c.records, "%s, %s", s, name)
				require.Len(t, c.damages, 1)
			}
		}
	}
}
