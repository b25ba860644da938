package tpmsignprocessor

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
)

// recordState says how far a pending request has come.
type recordState byte

const (
	// stateUnsigned: cleaned, and has to be signed before it may leave.
	stateUnsigned recordState = 'u'
	// stateSigned: carries its receipts, and may have been handed out already.
	// It is sent as it is, so that the verifier can tell what comes twice.
	stateSigned recordState = 's'
)

// record is one pending request.
type record struct {
	state      recordState
	signal     block.Signal
	tolerances block.Tolerance // that it was accepted under, and is signed with
	blocks     int
	payload    []byte // OTLP protobuf of the request, receipts included when signed

	// assumed: the record is of version 1, and tolerances are today's.
	assumed bool
}

// A record as stored:
//
//	+----+-------+--------+------------+--------+---------------+---------------------+
//	| 02 | state | signal | tolerances | blocks | payload       | SHA-256             |
//	|    | u/s   | M/L/T  | as signed  | u32 BE | OTLP protobuf | of all that precedes|
//	+----+-------+--------+------------+--------+---------------+---------------------+
//
// Version 1, which is read only, has no tolerances; those of the configuration are
// taken instead.
//
// The hash finds accidents. It is no protection against somebody who may write
// the storage: what is unsigned there will be signed.
const (
	recordVersion  = 2
	recordHeader   = 1 + 1 + 1 + 1 + 4
	recordVersion1 = 1
	recordHeader1  = 1 + 1 + 1 + 4
	recordMin      = recordHeader1 + sha256.Size
)

var errRecordCorrupt = errors.New("pending record is corrupt")

func (r record) encode() []byte {
	b := make([]byte, 0, recordHeader+len(r.payload)+sha256.Size)
	b = append(b, recordVersion, byte(r.state), byte(r.signal), byte(r.tolerances))
	b = binary.BigEndian.AppendUint32(b, uint32(r.blocks))
	b = append(b, r.payload...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// decodeRecord checks and reads a record of one signal; payload aliases b.
// today are the tolerances of a record that does not name its own.
func decodeRecord(b []byte, signal block.Signal, today block.Tolerance) (record, error) {
	if len(b) < recordMin {
		return record{}, fmt.Errorf("%w: %d bytes are too few", errRecordCorrupt, len(b))
	}
	body, sum := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if got := sha256.Sum256(body); !bytes.Equal(got[:], sum) {
		return record{}, fmt.Errorf("%w: wrong checksum", errRecordCorrupt)
	}
	r := record{state: recordState(body[1]), signal: block.Signal(body[2])}
	switch {
	case body[0] == recordVersion1:
		r.tolerances, r.assumed = today, true
		r.blocks, r.payload = int(binary.BigEndian.Uint32(body[3:])), body[recordHeader1:]
	case body[0] != recordVersion:
		return record{}, fmt.Errorf("%w: version %d is not known", errRecordCorrupt, body[0])
	case len(body) < recordHeader:
		return record{}, fmt.Errorf("%w: %d bytes are too few", errRecordCorrupt, len(b))
	default:
		r.tolerances = block.Tolerance(body[3])
		r.blocks, r.payload = int(binary.BigEndian.Uint32(body[4:])), body[recordHeader:]
	}
	switch {
	case r.state != stateUnsigned && r.state != stateSigned:
		return record{}, fmt.Errorf("%w: state %#x is not known", errRecordCorrupt, byte(r.state))
	case r.signal != signal:
		return record{}, fmt.Errorf("%w: it holds %v and not %v", errRecordCorrupt, r.signal, signal)
	case !r.tolerances.Valid():
		return record{}, fmt.Errorf("%w: tolerances %#x are not known", errRecordCorrupt, byte(r.tolerances))
	}
	return r, nil
}

// tolerancesFor returns what an accepted request is signed with. Tolerances that it
// was not accepted under do not make it unsignable: they are left out.
func (r record) tolerancesFor(b digest.Batch) block.Tolerance {
	if !r.assumed || !r.tolerances.Has(block.Enrich) {
		return r.tolerances
	}
	for i := range b.Len() {
		p, err := b.At(i).Prepare(r.tolerances)
		if err == nil && checkKeys(p.Keys) != nil {
			return r.tolerances &^ block.Enrich // the only one with a bound
		}
	}
	return r.tolerances
}

// The index names the records that there may be: low ≤ id < high. It is
// written twice under two keys, so that one damaged value does not lose them.
//
//	+----+--------+--------+---------------------+
//	| 01 | low    | high   | SHA-256             |
//	|    | u64 BE | u64 BE | of all that precedes|
//	+----+--------+--------+---------------------+
const (
	indexVersion = 1
	indexSize    = 1 + 8 + 8 + sha256.Size
)

func encodeIndex(low, high uint64) []byte {
	b := make([]byte, 0, indexSize)
	b = append(b, indexVersion)
	b = binary.BigEndian.AppendUint64(b, low)
	b = binary.BigEndian.AppendUint64(b, high)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

func decodeIndex(b []byte) (low, high uint64, err error) {
	if len(b) != indexSize || b[0] != indexVersion {
		return 0, 0, fmt.Errorf("%w: index of %d bytes", errRecordCorrupt, len(b))
	}
	body := b[:indexSize-sha256.Size]
	if got := sha256.Sum256(body); !bytes.Equal(got[:], b[len(body):]) {
		return 0, 0, fmt.Errorf("%w: wrong checksum of the index", errRecordCorrupt)
	}
	low, high = binary.BigEndian.Uint64(body[1:]), binary.BigEndian.Uint64(body[9:])
	if low > high {
		return 0, 0, fmt.Errorf("%w: index from %d to %d", errRecordCorrupt, low, high)
	}
	return low, high, nil
}
