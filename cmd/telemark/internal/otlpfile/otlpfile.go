// Package otlpfile reads files of OTLP data: what the collector's file
// exporter writes, and what people save by hand. It follows the OTLP file
// exporter specification (JSON lines) and the file exporter of collector-contrib
// v0.159.0:
//
//	JSON lines       one document per line                         (format: json)
//	JSON             one document, or several one after the other
//	framed           u32 big endian length, message, …             (format: proto, or any with compression: zstd)
//	protobuf         one ExportServiceRequest
//
// A file may be compressed as a whole with zstd or gzip, a framed message with
// zstd. What stands before the place where a compressed file is cut off or
// damaged is read. Profiles are left out.
package otlpfile

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
)

const (
	// MaxRecord bounds one document or message, in bytes after decompression.
	MaxRecord = 64 << 20

	sniffLen = 8
)

// Errors of Read.
var (
	ErrTooLarge  = fmt.Errorf("a record is larger than %d MiB", MaxRecord>>20)
	ErrNotOTLP   = errors.New("this is neither OTLP JSON nor OTLP protobuf")
	ErrAmbiguous = errors.New("the protobuf message can be read as several signals; say which with --signal")
)

// Record is one request of the file.
type Record struct {
	digest.Batch
	Where string // "line 3", "message 3", "document 3"
}

// Damage is a part of the file that cannot be read.
type Damage struct {
	Where string
	Err   error
}

// Options say what the bytes do not.
type Options struct {
	// Signal of protobuf messages; 0 = find out.
	Signal block.Signal
}

// Reader takes what Read finds. An error from Record ends reading.
type Reader interface {
	Record(Record) error
	// Damaged is told of records that cannot be read, and reading goes on
	// behind them if that is possible.
	Damaged(Damage)
}

var (
	magicZstd = []byte{0x28, 0xb5, 0x2f, 0xfd}
	magicGzip = []byte{0x1f, 0x8b}

	// byteOrderMark is what some editors put before text.
	byteOrderMark = []byte{0xef, 0xbb, 0xbf}
)

// Read reads a file and hands its records to to, one at a time.
func Read(r io.Reader, opts Options, to Reader) error {
	buffered := bufio.NewReaderSize(r, 1<<16)
	head, err := buffered.Peek(sniffLen)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch {
	case len(head) == 0:
		return nil
	case bytes.HasPrefix(head, magicGzip):
		z, err := gzip.NewReader(buffered)
		if err != nil {
			return fmt.Errorf("gzip: %w", err)
		}
		return readCompressed(z, "gzip", opts, to)
	case bytes.HasPrefix(head, magicZstd):
		z, err := newZstd(buffered)
		if err != nil {
			return err
		}
		defer z.Close()
		return readCompressed(z, "zstd", opts, to)
	default:
		return readPlain(buffered, opts, to)
	}
}

// readCompressed reads what r decompresses, up to where that cannot go on.
func readCompressed(r io.Reader, format string, opts Options, to Reader) error {
	in := &decompressed{r: r}
	seen := &lastSeen{Reader: to}
	err := readPlain(bufio.NewReaderSize(in, 1<<16), opts, seen)
	switch {
	case err == nil || in.err == nil || !errors.Is(err, in.err):
		return err
	case seen.where == "":
		return fmt.Errorf("%s: the file is cut off or damaged: %w", format, err)
	default:
		to.Damaged(Damage{"behind " + seen.where, fmt.Errorf("%s: the file is cut off or damaged here: %w", format, err)})
		return nil
	}
}

// decompressed remembers why reading ended before the end.
type decompressed struct {
	r   io.Reader
	err error
}

func (d *decompressed) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		d.err = err
	}
	return n, err
}

// lastSeen remembers the place of what was read last.
type lastSeen struct {
	Reader
	where string
}

func (l *lastSeen) Record(r Record) error {
	l.where = r.Where
	return l.Reader.Record(r)
}

func (l *lastSeen) Damaged(d Damage) {
	l.where = d.Where
	l.Reader.Damaged(d)
}

func newZstd(r io.Reader) (*zstd.Decoder, error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(MaxRecord), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return z, nil
}

func readPlain(r *bufio.Reader, opts Options, to Reader) error {
	if mark, err := r.Peek(len(byteOrderMark)); err == nil && bytes.Equal(mark, byteOrderMark) {
		_, _ = r.Discard(len(mark)) // it is there
	}
	head, err := r.Peek(sniffLen)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	trimmed := bytes.TrimLeft(head, " \t\r\n")
	switch {
	case len(head) == 0:
		return nil
	case len(trimmed) == 0 || trimmed[0] == '{':
		return readJSON(r, to)
	case head[0] < byte(MaxRecord>>24)+1 && framed(head):
		return readFramed(r, opts, to)
	default:
		return readMessage(r, opts, to)
	}
}

// readMessage reads the whole rest as one protobuf message.
func readMessage(r io.Reader, opts Options, to Reader) error {
	b, err := io.ReadAll(io.LimitReader(r, MaxRecord+1))
	if err != nil {
		return err
	}
	if len(b) > MaxRecord {
		return ErrTooLarge
	}
	batch, err := parseProto(b, opts.Signal)
	if err != nil {
		return err
	}
	return to.Record(Record{batch, "message 1"})
}

// parse reads one message, JSON or protobuf.
func parse(b []byte, opts Options) (digest.Batch, error) {
	// Protobuf may begin like JSON: 0a 7b is a block of 123 bytes.
	if t := bytes.TrimLeft(b, " \t\r\n"); len(t) > 0 && t[0] == '{' && (b[0] != 0x0a || validJSON(b)) {
		return parseJSON(b)
	}
	return parseProto(b, opts.Signal)
}

// validJSON reports whether b is one JSON document.
func validJSON(b []byte) bool { return json.Valid(b) }
