package harness

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/receipt"
)

// HeartbeatScope is the scope in which tpmsign puts its heartbeats.
const HeartbeatScope = "github.com/telemark-otel/telemark/heartbeat"

// ArchivedBlock is one block of an archive, as the receiving collector wrote it.
type ArchivedBlock struct {
	Signal  block.Signal
	Request int    // counts the requests of the archive; blocks of one came together
	Name    string // telemark.name
	Verdict string // telemark.verdict
	Marked  bool   // telemark.redelivery
	Receipt *receipt.Receipt
	Items   int     // heartbeats left out
	IDs     []int64 // the attribute ItemID of each item that has one
	Block   digest.Block
}

// ItemID is the attribute by which the load generator numbers its items.
const ItemID = "item.id"

// ID names the block among all blocks, or is "" without receipt.
func (b *ArchivedBlock) ID() string {
	if b.Receipt == nil {
		return ""
	}
	return fmt.Sprintf("%x/%d/%s/%d", b.Receipt.Statement.KID, b.Receipt.Statement.Epoch, b.Receipt.Stream, b.Receipt.BlockNo)
}

// ReadArchive reads the OTLP JSON lines that the file exporter wrote to path,
// rotated files too. A last line that is still being written is left out.
func ReadArchive(path string, signal block.Signal) ([]ArchivedBlock, error) {
	var out []ArchivedBlock
	err := EachArchived(path, signal, func(b *ArchivedBlock) error {
		out = append(out, *b)
		return nil
	})
	return out, err
}

// EachArchived calls f with each block of an archive, as ReadArchive reads it,
// without holding more than one request of it.
func EachArchived(path string, signal block.Signal, f func(*ArchivedBlock) error) error {
	ext := filepath.Ext(path)
	files, err := filepath.Glob(path[:len(path)-len(ext)] + "*" + ext)
	if err != nil {
		return err
	}
	request := 0
	for _, file := range files {
		if err := eachInFile(file, signal, &request, f); err != nil {
			return fmt.Errorf("archive %s: %w", file, err)
		}
	}
	return nil
}

func eachInFile(path string, signal block.Signal, request *int, f func(*ArchivedBlock) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	r := bufio.NewReaderSize(file, 1<<20)
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, document := range documents(bytes.TrimSpace(line)) {
			batch, err := unmarshalJSON(signal, document)
			if err != nil {
				return err
			}
			*request++
			for i := range batch.Len() {
				b, err := archived(batch.At(i))
				if err != nil {
					return err
				}
				b.Request = *request
				if err := f(&b); err != nil {
					return err
				}
			}
		}
	}
}

// documentStart is how every line of the file exporter begins.
var documentStart = []byte(`{"resource`)

// documents returns the whole documents of a line. There is one, unless the
// writer was killed before it had ended its line: the next one has gone on
// behind what was written, be that whole or cut off.
func documents(line []byte) [][]byte {
	if json.Valid(line) {
		return [][]byte{line}
	}
	var out [][]byte
	end := len(line)
	for at := bytes.LastIndex(line, documentStart); at >= 0; at = bytes.LastIndex(line[:at], documentStart) {
		if json.Valid(line[at:end]) {
			out = append(out, line[at:end])
			end = at
		}
	}
	return out
}

func unmarshalJSON(signal block.Signal, line []byte) (digest.Batch, error) {
	switch signal {
	case block.Metrics:
		md, err := (&pmetric.JSONUnmarshaler{}).UnmarshalMetrics(line)
		return digest.FromMetrics(md), err
	case block.Logs:
		ld, err := (&plog.JSONUnmarshaler{}).UnmarshalLogs(line)
		return digest.FromLogs(ld), err
	case block.Traces:
		td, err := (&ptrace.JSONUnmarshaler{}).UnmarshalTraces(line)
		return digest.FromTraces(td), err
	default:
		return digest.Batch{}, fmt.Errorf("%v is not a signal", signal)
	}
}

func archived(b digest.Block) (ArchivedBlock, error) {
	a := ArchivedBlock{Signal: b.Signal(), Block: b}
	attrs := b.Attributes()
	if v, ok := attrs.Get(block.AttrName); ok {
		a.Name = v.Str()
	}
	if v, ok := attrs.Get(block.AttrVerdict); ok {
		a.Verdict = v.Str()
	}
	_, a.Marked = attrs.Get("telemark.redelivery")
	proof, err := b.Proof()
	if err != nil {
		return a, err
	}
	if proof.Receipt != nil {
		if a.Receipt, err = receipt.Decode(proof.Receipt); err != nil {
			return a, err
		}
	}
	eachItem(b, func(attrs pcommon.Map) {
		a.Items++
		if v, ok := attrs.Get(ItemID); ok {
			a.IDs = append(a.IDs, v.Int())
		}
	})
	return a, nil
}
