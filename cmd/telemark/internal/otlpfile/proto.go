package otlpfile

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
)

// A framed file:
//
//	| u32 big endian: n | n bytes: protobuf, JSON or zstd | u32 | …
//
// The exporter writes no header, so the first frame is recognised by what its
// message begins with: field 1 of a request, a zstd frame or a JSON document.
func framed(head []byte) bool {
	if len(head) < 5 || binary.BigEndian.Uint32(head) > MaxRecord {
		return false
	}
	return head[4] == 0x0a || head[4] == '{' || bytes.HasPrefix(head[4:], magicZstd)
}

func readFramed(r *bufio.Reader, opts Options, to Reader) error {
	for n := 1; ; n++ {
		where := fmt.Sprintf("message %d", n)
		var length [4]byte
		if _, err := io.ReadFull(r, length[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			to.Damaged(Damage{where, errCutOff})
			return nil
		}
		size := binary.BigEndian.Uint32(length[:])
		if size > MaxRecord {
			return fmt.Errorf("%s: %w", where, ErrTooLarge)
		}
		message, err := io.ReadAll(io.LimitReader(r, int64(size)))
		if err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
		if len(message) < int(size) {
			to.Damaged(Damage{where, errCutOff})
			return nil
		}
		batch, err := parseFrame(message, opts)
		if err != nil {
			to.Damaged(Damage{where, err})
			continue
		}
		if err := to.Record(Record{batch, where}); err != nil {
			return err
		}
	}
}

func parseFrame(message []byte, opts Options) (digest.Batch, error) {
	if !bytes.HasPrefix(message, magicZstd) {
		return parse(message, opts)
	}
	z, err := newZstd(bytes.NewReader(message))
	if err != nil {
		return digest.Batch{}, err
	}
	defer z.Close()
	plain, err := io.ReadAll(io.LimitReader(z, MaxRecord+1))
	if err != nil {
		return digest.Batch{}, fmt.Errorf("zstd: %w", err)
	}
	if len(plain) > MaxRecord {
		return digest.Batch{}, ErrTooLarge
	}
	return parse(plain, opts)
}

// parseProto reads one ExportServiceRequest. The three signals have the same
// outer shape and differ in their items, whose wire types and lengths hardly
// ever fit another signal's.
func parseProto(b []byte, signal block.Signal) (digest.Batch, error) {
	if signal != 0 {
		return parseProtoOf(signal, b)
	}
	var found []digest.Batch
	var errs []error
	for _, s := range []block.Signal{block.Metrics, block.Logs, block.Traces} {
		batch, err := parseProtoOf(s, b)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("as %s: %w", s, err))
		case faithful(batch, b):
			found = append(found, batch)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return digest.Batch{}, notOTLP(b, errs)
	default:
		return digest.Batch{}, ErrAmbiguous
	}
}

func parseProtoOf(s block.Signal, b []byte) (digest.Batch, error) {
	if err := strictProto(b, request(s), 1); err != nil {
		return digest.Batch{}, err
	}
	return digest.UnmarshalBatch(s, b)
}

// notOTLP says why b is none of the three signals; errs are those of reading it as such.
func notOTLP(b []byte, errs []error) error {
	switch {
	case len(b) > 0 && !bytes.ContainsFunc(b[:min(len(b), sniffLen)], func(r rune) bool { return !unicode.IsPrint(r) && !unicode.IsSpace(r) }):
		return fmt.Errorf("%w: it is text, and no JSON object", ErrNotOTLP)
	case len(errs) == 0:
		return fmt.Errorf("%w: it holds fields that belong to none of the signals", ErrNotOTLP)
	}
	all := errs[0]
	for _, err := range errs[1:] {
		all = fmt.Errorf("%w; %w", all, err)
	}
	return fmt.Errorf("%w: %w", ErrNotOTLP, all)
}

// faithful reports whether all of the message was understood: reading it as
// another signal leaves unknown fields out.
func faithful(batch digest.Batch, b []byte) bool { return batch.Size() == len(b) && batch.Len() > 0 }
