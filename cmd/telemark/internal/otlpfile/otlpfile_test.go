package otlpfile

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/signtest"
)

// collected is a Reader that keeps everything.
type collected struct {
	records []Record
	damages []Damage
}

func (c *collected) Record(r Record) error { c.records = append(c.records, r); return nil }
func (c *collected) Damaged(d Damage)      { c.damages = append(c.damages, d) }

func read(t testing.TB, content []byte, opts Options) *collected {
	t.Helper()
	var c collected
	require.NoError(t, Read(bytes.NewReader(content), opts, &c))
	return &c
}

func toJSON(t testing.TB, b digest.Batch) (out []byte) {
	t.Helper()
	var err error
	switch b.Signal() {
	case block.Metrics:
		out, err = (&pmetric.JSONMarshaler{}).MarshalMetrics(b.Metrics())
	case block.Logs:
		out, err = (&plog.JSONMarshaler{}).MarshalLogs(b.Logs())
	case block.Traces:
		out, err = (&ptrace.JSONMarshaler{}).MarshalTraces(b.Traces())
	}
	require.NoError(t, err)
	return out
}

func toProto(t testing.TB, b digest.Batch) []byte {
	t.Helper()
	out, err := b.Marshal()
	require.NoError(t, err)
	return out
}

func frame(messages ...[]byte) []byte {
	var out []byte
	for _, m := range messages {
		out = binary.BigEndian.AppendUint32(out, uint32(len(m)))
		out = append(out, m...)
	}
	return out
}

func lines(docs ...[]byte) []byte { return append(bytes.Join(docs, []byte{'\n'}), '\n') }

func zstded(t testing.TB, b []byte) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	out := e.EncodeAll(b, nil)
	require.NoError(t, e.Close())
	return out
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, err := z.Write(b)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return out.Bytes()
}

func indented(t testing.TB, doc []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, json.Indent(&out, doc, "", "  "))
	return out.Bytes()
}

// What the file exporter writes in each of its forms, and what people keep.
func TestEveryFormIsRead(t *testing.T) {
	for _, s := range []block.Signal{block.Metrics, block.Logs, block.Traces} {
		t.Run(s.String(), func(t *testing.T) {
			b := signtest.Data(s, "edge-a", 3)
			j, p := toJSON(t, b), toProto(t, b)
			for name, form := range map[string]struct {
				content []byte
				records int
			}{
				"JSON":                        {j, 1},
				"JSON indented":               {indented(t, j), 1},
				"JSON indented twice":         {append(indented(t, j), indented(t, j)...), 2},
				"JSON lines":                  {lines(j, j, j), 3},
				"JSON lines, blank lines":     {lines(j, nil, j), 2},
				"JSON lines, Windows":         {bytes.ReplaceAll(lines(j, j), []byte("\n"), []byte("\r\n")), 2},
				"JSON lines, zstd":            {zstded(t, lines(j, j)), 2},
				"JSON lines, gzip":            {gzipped(t, lines(j, j)), 2},
				"framed JSON, zstd messages":  {frame(zstded(t, j), zstded(t, j)), 2},
				"framed protobuf":             {frame(p, p), 2},
				"framed protobuf, zstd":       {frame(zstded(t, p), zstded(t, p)), 2},
				"framed protobuf, zstd whole": {zstded(t, frame(p, p)), 2},
				"JSON lines, byte order mark": {append([]byte("\ufeff"), lines(j, j)...), 2},
				"protobuf":                    {p, 1},
				"protobuf, gzip":              {gzipped(t, p), 1},
			} {
				t.Run(name, func(t *testing.T) {
					c := read(t, form.content, Options{})
					require.Empty(t, c.damages)
					require.Len(t, c.records, form.records)
					for _, r := range c.records {
						require.Equal(t, s, r.Signal())
						require.Equal(t, 3, r.Items())
						require.Equal(t, p, toProto(t, r.Batch), "what was read is what was written")
					}
				})
			}
		})
	}
}

// Field 1 and a length of 123 are a line feed and a brace.
func TestABlockOf123BytesIsNoJSON(t *testing.T) {
	ld := plog.NewLogs()
	lr := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	for n := 123; ; n-- {
		lr.SetSeverityText(strings.Repeat("x", n))
		if p := toProto(t, digest.FromLogs(ld)); len(p) == 2+123 {
			require.Equal(t, "\n{", string(p[:2]))
			c := read(t, frame(toProto(t, signtest.Data(block.Logs, "edge-a", 1)), p), Options{})
			require.Empty(t, c.damages)
			require.Len(t, c.records, 2)
			return
		}
	}
}

func TestEmptyFileHoldsNothing(t *testing.T) {
	for _, content := range [][]byte{nil, []byte("\n"), gzipped(t, nil)} {
		require.Empty(t, read(t, content, Options{}).records)
	}
}

func TestReadingGoesOnBehindALineCutOffByACrash(t *testing.T) {
	j := toJSON(t, signtest.Data(block.Logs, "edge-a", 1))
	c := read(t, bytes.Join([][]byte{j, j[:len(j)/2], j, j[:20]}, []byte{'\n'}), Options{})
	require.Len(t, c.records, 2)
	require.Equal(t, []string{"line 2", "line 4"}, []string{c.damages[0].Where, c.damages[1].Where})

	c = read(t, bytes.Join([][]byte{j[:len(j)/2], j, j}, []byte{'\n'}), Options{})
	require.Len(t, c.records, 2)
	require.Equal(t, "line 1", c.damages[0].Where)

	// The process that came after wrote on behind the cut.
	c = read(t, bytes.Join([][]byte{j, append(j[:len(j)/2:len(j)/2], j...)}, []byte{'\n'}), Options{})
	require.Len(t, c.records, 2)
	require.Len(t, c.damages, 1)
}

func TestAFileThatIsOneLineCutOffByACrashIsDamage(t *testing.T) {
	j := toJSON(t, signtest.Data(block.Logs, "edge-a", 1))
	c := read(t, j[:len(j)/2], Options{})
	require.Empty(t, c.records)
	require.Equal(t, []Damage{{"line 1", errCutOff}}, c.damages)
}

func TestALineThatIsNoDocumentIsNotCalledCutOff(t *testing.T) {
	j := toJSON(t, signtest.Data(block.Logs, "edge-a", 1))
	c := read(t, lines(j, []byte("garbage"), j), Options{})
	require.Len(t, c.records, 2)
	require.Len(t, c.damages, 1)
	require.NotErrorIs(t, c.damages[0].Err, errCutOff)
	require.ErrorContains(t, c.damages[0].Err, "no JSON document")
}

func TestACompressedFileIsReadUpToWhereItIsCutOff(t *testing.T) {
	// Large enough for the zstd decoder to hand out some of it.
	j := toJSON(t, signtest.Data(block.Logs, "edge-a", 200))
	const docs = 200
	many := lines(slices.Repeat([][]byte{j}, docs)...)
	for name, packed := range map[string][]byte{"zstd": zstded(t, many), "gzip": gzipped(t, many)} {
		t.Run(name, func(t *testing.T) {
			c := read(t, packed[:len(packed)*9/10], Options{})
			require.NotEmpty(t, c.records)
			require.Less(t, len(c.records), docs)
			require.Len(t, c.damages, 1)
			require.Equal(t, fmt.Sprintf("behind line %d", len(c.records)), c.damages[0].Where)

			require.ErrorContains(t, Read(bytes.NewReader(packed[:20]), Options{}, &collected{}), "cut off or damaged", "nothing is left of it")
		})
	}
}

func TestAFrameCutOffByACrashIsDamage(t *testing.T) {
	p := toProto(t, signtest.Data(block.Logs, "edge-a", 1))
	for _, cut := range []int{1, 3, 4, 9, len(p)} {
		content := frame(p, p)
		c := read(t, content[:len(content)-cut], Options{})
		require.Len(t, c.records, 1, cut)
		require.Len(t, c.damages, 1, cut)
	}
}

func TestOtherFilesAreRefused(t *testing.T) {
	for name, content := range map[string]string{
		"text":           "hello",
		"other JSON":     `{"a": 1}`,
		"two signals":    `{"resourceLogs":[],"resourceSpans":[]}`,
		"cut off":        `{"resourceLogs":[`,
		"huge frame":     "\x7f\xff\xff\xff\x0a",
		"protobuf text":  "\x0a\x05hello",
		"unknown fields": "\x0a\x00\x7a\x01a",
	} {
		t.Run(name, func(t *testing.T) {
			var c collected
			err := Read(bytes.NewReader([]byte(content)), Options{}, &c)
			require.Empty(t, c.records)
			require.True(t, err != nil || len(c.damages) == 1, "neither error nor damage")
			if err != nil {
				require.NotRegexp(t, `\n|%!`, err.Error())
			}
		})
	}
}

func TestADecompressionBombIsBounded(t *testing.T) {
	// Both formats may be concatenated, which saves packing so much.
	const times = MaxRecord>>20 + 1
	bomb := bytes.Repeat(gzipped(t, bytes.Repeat([]byte{' '}, 1<<20)), times)
	require.Less(t, len(bomb), 1<<20)
	require.ErrorIs(t, Read(bytes.NewReader(bomb), Options{}, &collected{}), ErrTooLarge)

	c := read(t, frame(bytes.Repeat(zstded(t, bytes.Repeat([]byte{0x0a}, 1<<20)), times)), Options{})
	require.Len(t, c.damages, 1)
}

func TestAnErrorOfTheReaderEndsReading(t *testing.T) {
	j := toJSON(t, signtest.Data(block.Logs, "edge-a", 1))
	stop := errors.New("stop")
	require.ErrorIs(t, Read(bytes.NewReader(lines(j, j)), Options{}, stopping{stop}), stop)
}

type stopping struct{ err error }

func (s stopping) Record(Record) error { return s.err }
func (stopping) Damaged(Damage)        {}

func FuzzRead(f *testing.F) {
	for _, s := range []block.Signal{block.Metrics, block.Logs, block.Traces} {
		b := signtest.Data(s, "edge-a", 1)
		j, p := toJSON(f, b), toProto(f, b)
		for _, seed := range [][]byte{j, indented(f, j), lines(j, j), p, frame(p, p), frame(zstded(f, j)), gzipped(f, lines(j))} {
			f.Add(seed)
		}
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		var c collected
		if err := Read(bytes.NewReader(content), Options{}, &c); err != nil {
			return
		}
		for _, r := range c.records {
			require.LessOrEqual(t, r.Len(), r.Items()+len(content), "no more blocks than bytes")
			_, err := r.Marshal()
			require.NoError(t, err)
		}
	})
}

func TestCommittedCorpusIsNotEmpty(t *testing.T) {
	files, err := os.ReadDir(filepath.Join("testdata", "fuzz", "FuzzRead"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
}

func TestLineOfManyHalfDocumentsIsReadInBoundedTime(t *testing.T) {
	half := strings.Repeat(`{"resourceLogs":[{"a":`, 5000) // nearly as deep as JSON may be, over and over
	line := strings.Repeat(half, 50)
	good := toJSON(t, signtest.Data(block.Logs, "edge-a", 1))
	c := read(t, lines(good, []byte(line), good), Options{})
	require.Len(t, c.records, 2)
	require.Len(t, c.damages, 1) // after minutes, were each of them looked at
}
