package tpmattest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// The event log is read here and not with google/go-eventlog v0.0.2, since
// that takes an empty log for a good one, and a register without events for
// proven whatever its value; it falls back to SHA-1 when the log says so, and
// retries with events left out that firmware of some makers logged wrongly.

// Event types and sizes (PC Client Platform Firmware Profile 1.05, section 10).
const (
	evNoAction          uint32 = 3
	maxAlgorithms              = 8
	specIDSignature            = "Spec ID Event03\x00"
	startupLocality            = "StartupLocality\x00"
	firstDRTM, lastDRTM        = 17, 22 // registers that start as ones
)

// logReader reads the log's little-endian structures.
type logReader struct{ cursor }

func (r *logReader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *logReader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

// counted reads u32 size | size bytes.
func (r *logReader) counted() []byte {
	n := r.u32()
	if n > math.MaxInt32 {
		r.bad = true
		return nil
	}
	return r.take(int(n))
}

// replay is the state of the SHA-256 bank while events are put into it.
type replay struct {
	sizes   map[uint16]int // of digests, by algorithm
	values  [maxPCR + 1][pcrSize]byte
	touched [maxPCR + 1]bool
	located bool
}

// VerifyEventLog replays a crypto-agile event log and checks that it gives
// these registers. A register without events has the value that it starts
// with. The log has to have SHA-256 digests and to end with its last event.
func VerifyEventLog(log []byte, pcrs map[uint][]byte) error {
	if len(log) > api.MaxEventLog {
		return api.Refuse(api.EventLogMalformed, "%d bytes, at most %d are possible", len(log), api.MaxEventLog)
	}
	r := &logReader{cursor{rest: log}}
	var s replay
	for n := firstDRTM; n <= lastDRTM; n++ {
		s.values[n] = [pcrSize]byte(bytes.Repeat([]byte{0xFF}, pcrSize))
	}
	if err := s.header(r); err != nil {
		return err
	}
	for count := 1; len(r.rest) > 0; count++ {
		if err := s.event(r, count); err != nil {
			return err
		}
	}
	for n, value := range pcrs {
		if n > maxPCR {
			return api.Refuse(api.EventLogMismatch, "register %d does not exist", n)
		}
		if !bytes.Equal(s.values[n][:], value) {
			return api.Refuse(api.EventLogMismatch, "register %d", n)
		}
	}
	return nil
}

// header reads the first event, which is of the old form TCG_PCClientPCREvent
// and holds a TCG_EfiSpecIDEvent (sections 10.2.1 and 10.4.5.1):
//
//	u32 pcr | u32 type | 20 bytes digest | u32 size |
//	    16 bytes signature | u32 platformClass | u8 minor | u8 major | u8 errata | u8 uintnSize |
//	    u32 count | count x (u16 algorithm | u16 size) | u8 size | size bytes vendorInfo
func (s *replay) header(r *logReader) error {
	pcr, typ := r.u32(), r.u32()
	digest := r.take(20)
	id := &logReader{cursor{rest: r.counted()}}
	if r.bad || pcr != 0 || typ != evNoAction || !bytes.Equal(digest, make([]byte, 20)) {
		return api.Refuse(api.EventLogMalformed, "it does not begin with a specification event of the crypto agile form")
	}
	signature := id.take(len(specIDSignature))
	id.take(4)
	minor, major := id.u8(), id.u8()
	id.take(2)
	count := id.u32()
	if id.bad || string(signature) != specIDSignature || major != 2 || minor != 0 || count > maxAlgorithms {
		return api.Refuse(api.EventLogMalformed, "the specification event is not one of version 2.0")
	}
	s.sizes = make(map[uint16]int, count)
	for range count {
		algorithm, size := id.u16(), int(id.u16())
		if _, twice := s.sizes[algorithm]; twice || size == 0 || size > maxDigest {
			return api.Refuse(api.EventLogMalformed, "algorithm %#04x with %d bytes", algorithm, size)
		}
		s.sizes[algorithm] = size
	}
	id.take(int(id.u8()))
	if !id.done() || s.sizes[algSHA256] != pcrSize {
		return api.Refuse(api.EventLogMalformed, "the specification event does not name SHA-256, or is not well formed")
	}
	return nil
}

// event reads a TCG_PCR_EVENT2 (section 10.2.2) and extends its register:
//
//	u32 pcr | u32 type | u32 count | count x (u16 algorithm | digest) | u32 size | event
func (s *replay) event(r *logReader, index int) error {
	pcr, typ, count := r.u32(), r.u32(), r.u32()
	if r.bad || int64(count) > int64(len(s.sizes)) {
		return api.Refuse(api.EventLogMalformed, "event %d is cut short or has too many digests", index)
	}
	var digest []byte
	seen := make([]uint16, 0, maxAlgorithms)
	for range count {
		algorithm := r.u16()
		size, ok := s.sizes[algorithm]
		for _, other := range seen {
			ok = ok && other != algorithm
		}
		if !ok {
			return api.Refuse(api.EventLogMalformed, "event %d has a digest that the log did not announce, or one twice", index)
		}
		seen = append(seen, algorithm)
		if b := r.take(size); algorithm == algSHA256 {
			digest = b
		}
	}
	data := r.counted()
	if r.bad {
		return api.Refuse(api.EventLogMalformed, "event %d is cut short", index)
	}
	if typ == evNoAction { // is not measured
		return s.locality(pcr, data)
	}
	if pcr > maxPCR || digest == nil {
		return api.Refuse(api.EventLogMalformed, "event %d is of register %d, or has no SHA-256 digest", index, pcr)
	}
	h := sha256.New()
	h.Write(s.values[pcr][:])
	h.Write(digest)
	h.Sum(s.values[pcr][:0])
	s.touched[pcr] = true
	return nil
}

// locality takes the locality that the TPM was started from, which is the
// value that register 0 starts with (section 10.4.5.3):
//
//	"StartupLocality\0" | u8 locality
func (s *replay) locality(pcr uint32, data []byte) error {
	if pcr != 0 || !bytes.HasPrefix(data, []byte(startupLocality)) {
		return nil
	}
	if len(data) != len(startupLocality)+1 || s.touched[0] || s.located {
		return api.Refuse(api.EventLogMalformed, "the startup locality is said twice, or after register 0 was used")
	}
	s.values[0][pcrSize-1] = data[len(data)-1]
	s.located = true
	return nil
}
