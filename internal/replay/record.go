package replay

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
)

// Records. Every value in the Persister has this frame:
//
//	 0        1      2                   L-4      L
//	+--------+------+----------- - - ---+--------+
//	| format | kind | body              | CRC-32C|
//	+--------+------+----------- - - ---+--------+
//
// The checksum covers the record's key and all bytes before it, so a value
// that stands under another key is noticed, too. It is against damage, not against
// malice: who can write the storage directory owns the windows.
//
// In bodies, uv is an unsigned varint (minimal, 10 bytes at most), string is uv
// length and bytes, times are uv Unix ms. Trailing bytes are refused.
//
//	replay/head         kindHeader   one per store
//	EPOCH/i/PAGE        kindIndex    scopes and keys, pageSize per page
//	EPOCH/k/ID          kindKey      one per scope and key
//	EPOCH/w/ID          kindWindow   one per scope, key, epoch and stream
//	EPOCH/c/ID          kindChain    one per key and epoch
//	EPOCH/t/ID          kindTrack    one per scope and key that had to say where it is
//
// EPOCH is the store epoch in hex: what a lost store left behind never mixes
// with what its successor writes. ID is derived from what the record belongs to.
//
// Format 1 had no reservations: its windows list every claim. It is read, and
// replaced record by record as things change.
const (
	format    = 2
	formatOld = 1

	kindHeader byte = 'H'
	kindIndex  byte = 'I'
	kindKey    byte = 'K'
	kindWindow byte = 'W'
	kindChain  byte = 'C'
	kindTrack  byte = 'T'

	headerKey = "replay/head"
	frameLen  = 2 + 4
	idDomain  = "telemark-replay-record-v1\x00"
)

// ErrNewer is returned by Open for a store that a newer version wrote. It is
// left as it is.
var ErrNewer = errors.New("the windows were written by a newer version")

var errDamaged = errors.New("damaged record")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(key string, b []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte(key), castagnoli), castagnoli, b)
}

// seal frames a record.
func seal(key string, kind byte, body func([]byte) []byte) []byte {
	return sealAs(format, key, kind, body)
}

func sealAs(format byte, key string, kind byte, body func([]byte) []byte) []byte {
	b := body(append(make([]byte, 0, 128), format, kind))
	return binary.BigEndian.AppendUint32(b, checksum(key, b))
}

// unseal returns the body of a record.
func unseal(key string, kind byte, b []byte) (*reader, error) {
	switch {
	case b == nil:
		return nil, fmt.Errorf("%w: %s is missing", errDamaged, key)
	case len(b) < frameLen:
		return nil, fmt.Errorf("%w: %s has %d bytes", errDamaged, key, len(b))
	}
	head, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if checksum(key, head) != sum {
		return nil, fmt.Errorf("%w: %s has a wrong checksum", errDamaged, key)
	}
	if head[0] > format {
		return nil, fmt.Errorf("%w: %s has format %d, this version knows %d", ErrNewer, key, head[0], format)
	}
	if head[0] < formatOld || head[1] != kind {
		return nil, fmt.Errorf("%w: %s is of format %d, kind %q", errDamaged, key, head[0], head[1])
	}
	return &reader{key: key, format: head[0], b: head[2:]}, nil
}

// recordKey names the record of what these identify.
func (l *Local) recordKey(kind byte, id keyID, epoch uint64, stream string) string {
	h := sha256.New()
	b := append([]byte(idDomain), kind)
	b = appendString(b, id.scope)
	b = appendString(b, id.kid)
	b = binary.AppendUvarint(b, epoch)
	b = appendString(b, stream)
	_, _ = h.Write(b)
	sum := h.Sum(nil)
	return l.prefix() + string(kind|0x20) + "/" + base64.RawURLEncoding.EncodeToString(sum[:16])
}

func (l *Local) prefix() string { return hex.EncodeToString(l.storeEpoch[:]) + "/" }

func (l *Local) pageKey(p int) string { return fmt.Sprintf("%si/%d", l.prefix(), p) }

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// appendTime writes ms since 1970; times before it do not occur.
func appendTime(b []byte, ms int64) []byte {
	return binary.AppendUvarint(b, uint64(max(ms, 0)))
}

func appendFloat(b []byte, f float64) []byte {
	return binary.BigEndian.AppendUint64(b, math.Float64bits(f))
}

// reader reads a body. After the first error it returns zeros; finish tells.
type reader struct {
	key    string
	format byte
	b      []byte
	err    error
}

func (r *reader) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s: %s", errDamaged, r.key, what)
	}
	r.b = nil
}

func (r *reader) uv() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || n > 1 && r.b[n-1] == 0 {
		r.fail("bad number")
		return 0
	}
	r.b = r.b[n:]
	return v
}

// count reads a number of things of at least size bytes each.
func (r *reader) count(size int) int {
	n := r.uv()
	if n > uint64(len(r.b)/size) {
		r.fail("count larger than the record")
		return 0
	}
	return int(n)
}

func (r *reader) bytes(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.fail("truncated")
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) byte() byte {
	if b := r.bytes(1); len(b) == 1 {
		return b[0]
	}
	return 0
}

func (r *reader) string() string { return string(r.bytes(r.count(1))) }

func (r *reader) time() int64 {
	v := r.uv()
	if v > math.MaxInt64 {
		r.fail("time out of range")
		return 0
	}
	return int64(v)
}

func (r *reader) float() float64 {
	return math.Float64frombits(r.word())
}

// number reads the distance of a block number from the one before, at least 1.
func (r *reader) number(before uint64) uint64 {
	d := r.uv()
	if d == 0 || d >= maxNumber || before+d >= maxNumber {
		r.fail("number out of order")
		return 0
	}
	return before + d
}

func (r *reader) finish() error {
	if r.err == nil && len(r.b) > 0 {
		r.fail("trailing bytes")
	}
	return r.err
}
