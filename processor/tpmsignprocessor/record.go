package tpmsignprocessor

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/telemark-otel/telemark/internal/block"
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
	state   recordState
	signal  block.Signal
	blocks  int
	payload []byte // OTLP protobuf of the request, receipts included when signed
}

// A record as stored:
//
//	+----+-------+--------+--------+------------------------+---------------------+
//	| 01 | state | signal | blocks | payload                | SHA-256             |
//	|    | u/s   | M/L/T  | u32 BE | OTLP protobuf          | of all that precedes|
//	+----+-------+--------+--------+------------------------+---------------------+
//
// The hash finds accidents. It is no protection against somebody who may write
// the storage: what is unsigned there will be signed.
const (
	recordVersion = 1
	recordHeader  = 1 + 1 + 1 + 4
	recordMin     = recordHeader + sha256.Size
)

var errRecordCorrupt = errors.New("pending record is corrupt")

func (r record) encode() []byte {
	b := make([]byte, 0, recordMin+len(r.payload))
	b = append(b, recordVersion, byte(r.state), byte(r.signal))
	b = binary.BigEndian.AppendUint32(b, uint32(r.blocks))
	b = append(b, r.payload...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// decodeRecord checks and reads a record of one signal; payload aliases b.
func decodeRecord(b []byte, signal block.Signal) (record, error) {
	if len(b) < recordMin {
		return record{}, fmt.Errorf("%w: %d bytes are too few", errRecordCorrupt, len(b))
	}
	body, sum := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if got := sha256.Sum256(body); !bytes.Equal(got[:], sum) {
		return record{}, fmt.Errorf("%w: wrong checksum", errRecordCorrupt)
	}
	r := record{
		state:   recordState(body[1]),
		signal:  block.Signal(body[2]),
		blocks:  int(binary.BigEndian.Uint32(body[3:recordHeader])),
		payload: body[recordHeader:],
	}
	switch {
	case body[0] != recordVersion:
		return record{}, fmt.Errorf("%w: version %d is not known", errRecordCorrupt, body[0])
	case r.state != stateUnsigned && r.state != stateSigned:
		return record{}, fmt.Errorf("%w: state %#x is not known", errRecordCorrupt, byte(r.state))
	case r.signal != signal:
		return record{}, fmt.Errorf("%w: it holds %v and not %v", errRecordCorrupt, r.signal, signal)
	}
	return r, nil
}

// The index names the records that there may be: low ≤ id < high. It is
// written twice under two keys, so that one damaged value does not lose them.
//
//	+----+--------+--------+---------------------+
//	| 01 | low    | high   | SHA-256             |
//	|    | u64 BE | u64 BE | of all that precedes|
//	+----+--------+--------+---------------------+
const indexSize = 1 + 8 + 8 + sha256.Size

func encodeIndex(low, high uint64) []byte {
	b := make([]byte, 0, indexSize)
	b = append(b, recordVersion)
	b = binary.BigEndian.AppendUint64(b, low)
	b = binary.BigEndian.AppendUint64(b, high)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

func decodeIndex(b []byte) (low, high uint64, err error) {
	if len(b) != indexSize || b[0] != recordVersion {
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
