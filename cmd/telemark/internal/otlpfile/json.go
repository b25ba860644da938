package otlpfile

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
)

// errCutOff says that a line ends within a document, as after a crash.
var errCutOff = errors.New("the document is cut off")

// readJSON reads JSON lines, and documents that are written over several lines.
// It takes the file for lines when its first or second line is a document of
// its own, or the first, cut off by a crash, is all there is.
func readJSON(r *bufio.Reader, to Reader) error {
	first, err := readLine(r)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	alone := errors.Is(err, io.EOF) && bytes.HasPrefix(first, docStart)
	if validJSON(first) || alone {
		return readLines(io.MultiReader(bytes.NewReader(lined(first)), r), to)
	}
	second, err := readLine(r)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	whole := io.MultiReader(bytes.NewReader(lined(first)), bytes.NewReader(lined(second)), r)
	if validJSON(second) && bytes.HasPrefix(second, docStart) {
		return readLines(whole, to)
	}
	return readDocuments(whole, to)
}

func lined(b []byte) []byte { return append(b, '\n') }

func readLines(from io.Reader, to Reader) error {
	r := bufio.NewReaderSize(from, 1<<16)
	for n := 1; ; n++ {
		line, err := readLine(r)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if takeErr := takeLine(line, fmt.Sprintf("line %d", n), to); takeErr != nil {
			return takeErr
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
	}
}

// readLine returns the next line without its end; io.EOF comes with the last.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > MaxRecord {
			return nil, ErrTooLarge
		}
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return bytes.TrimRight(line, "\r\n"), err
		}
	}
}

// docStart is how every OTLP JSON document of the collector begins; behind a
// line that was cut off by a crash the next document follows on the same line.
var docStart = []byte(`{"resource`)

func takeLine(line []byte, where string, to Reader) error {
	if len(bytes.TrimSpace(line)) == 0 {
		return nil
	}
	if !validJSON(line) {
		behind := behindCut(line)
		to.Damaged(Damage{where, whyNot(line, behind)})
		if line = behind; line == nil {
			return nil
		}
	}
	batch, err := parseJSON(line)
	if err != nil {
		to.Damaged(Damage{where, err})
		return nil
	}
	return to.Record(Record{batch, where})
}

// whyNot says what is wrong with a line that is no document, of which behind is
// the one at its end.
func whyNot(line, behind []byte) error {
	if behind != nil || bytes.HasPrefix(line, docStart) {
		return errCutOff
	}
	var document struct{}
	return fmt.Errorf("the line is no JSON document: %w", json.Unmarshal(line, &document))
}

// maxStarts bounds the places at which a document is looked for in a line: an
// honest one has a start or two, a hostile one must not be read once for each.
const maxStarts = 8

// behindCut returns the document at the end of a line that is not one, or nil.
func behindCut(line []byte) []byte {
	for end, n := len(line), 0; n < maxStarts; n++ {
		i := bytes.LastIndex(line[:end], docStart)
		for ; i > 0 && !namesSignal(line[i:]); i = bytes.LastIndex(line[:i], docStart) {
		}
		if i <= 0 {
			return nil
		}
		if validJSON(line[i:]) {
			return line[i:]
		}
		end = i
	}
	return nil
}

// namesSignal tells a document from one of the resources in it.
func namesSignal(doc []byte) bool {
	for _, member := range []string{"Metrics\"", "Logs\"", "Spans\""} {
		if bytes.HasPrefix(doc[len(docStart):], []byte(member)) {
			return true
		}
	}
	return false
}

func readDocuments(r io.Reader, to Reader) error {
	bounded := &io.LimitedReader{R: r, N: MaxRecord}
	dec := json.NewDecoder(bounded)
	for n := 1; ; n++ {
		bounded.N = MaxRecord
		where := fmt.Sprintf("document %d", n)
		var raw json.RawMessage
		switch err := dec.Decode(&raw); {
		case errors.Is(err, io.EOF):
			return nil
		case bounded.N <= 0:
			return ErrTooLarge
		case err != nil && n == 1:
			return fmt.Errorf("%w: %w", ErrNotOTLP, err)
		case err != nil:
			to.Damaged(Damage{where, err})
			return nil
		}
		batch, err := parseJSON(raw)
		if err != nil {
			to.Damaged(Damage{where, err})
			continue
		}
		if err := to.Record(Record{batch, where}); err != nil {
			return err
		}
	}
}

// parseJSON reads one OTLP JSON document; its one member names the signal.
func parseJSON(b []byte) (digest.Batch, error) {
	var doc struct {
		Metrics json.RawMessage `json:"resourceMetrics"`
		Logs    json.RawMessage `json:"resourceLogs"`
		Spans   json.RawMessage `json:"resourceSpans"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return digest.Batch{}, fmt.Errorf("%w: %w", ErrNotOTLP, err)
	}
	switch {
	case doc.Metrics != nil && doc.Logs == nil && doc.Spans == nil:
		return parseJSONOf(block.Metrics, b)
	case doc.Logs != nil && doc.Metrics == nil && doc.Spans == nil:
		return parseJSONOf(block.Logs, b)
	case doc.Spans != nil && doc.Metrics == nil && doc.Logs == nil:
		return parseJSONOf(block.Traces, b)
	default:
		return digest.Batch{}, fmt.Errorf("%w: want one of resourceMetrics, resourceLogs, resourceSpans", ErrNotOTLP)
	}
}

func parseJSONOf(s block.Signal, b []byte) (digest.Batch, error) {
	if err := strictJSON(b, request(s)); err != nil {
		return digest.Batch{}, err
	}
	switch s {
	case block.Metrics:
		md, err := (&pmetric.JSONUnmarshaler{}).UnmarshalMetrics(b)
		return digest.FromMetrics(md), err
	case block.Logs:
		ld, err := (&plog.JSONUnmarshaler{}).UnmarshalLogs(b)
		return digest.FromLogs(ld), err
	default:
		td, err := (&ptrace.JSONUnmarshaler{}).UnmarshalTraces(b)
		return digest.FromTraces(td), err
	}
}
