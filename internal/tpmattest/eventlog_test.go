package tpmattest_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"testing"

	"github.com/google/go-eventlog/testdata"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tpmattest"
)

var le = binary.LittleEndian

// logHeader is the specification event of a log with these algorithms.
func logHeader(algorithms ...uint16) []byte {
	spec := slices.Concat([]byte("Spec ID Event03\x00"), make([]byte, 4), []byte{0, 2, 0, 2}, le.AppendUint32(nil, uint32(len(algorithms)/2)))
	for _, a := range algorithms {
		spec = le.AppendUint16(spec, a)
	}
	spec = append(spec, 0)
	return slices.Concat(make([]byte, 4), le.AppendUint32(nil, 3), make([]byte, 20), le.AppendUint32(nil, uint32(len(spec))), spec)
}

// logEvent is an event with one SHA-256 digest.
func logEvent(pcr, typ uint32, digest []byte, data string) []byte {
	return slices.Concat(le.AppendUint32(nil, pcr), le.AppendUint32(nil, typ), le.AppendUint32(nil, 1), le.AppendUint16(nil, 11), digest,
		le.AppendUint32(nil, uint32(len(data))), []byte(data))
}

func extended(value []byte, digests ...[]byte) []byte {
	for _, d := range digests {
		sum := sha256.Sum256(slices.Concat(value, d))
		value = sum[:]
	}
	return value
}

const evAction, evNoAction = 5, 3

var zero = make([]byte, 32)

func TestEventLogReplays(t *testing.T) {
	a, b := question("a"), question("b")
	log := slices.Concat(logHeader(11, 32), logEvent(0, evNoAction, zero, "StartupLocality\x00\x03"),
		logEvent(0, evAction, a, "first"), logEvent(7, evAction, b, ""), logEvent(0, evAction, b, "second"), logEvent(0xFFFFFFFF, evNoAction, zero, "note"))
	good := map[uint][]byte{
		0: extended(append(make([]byte, 31), 3), a, b), 7: extended(zero, b), 8: zero, 17: bytes.Repeat([]byte{0xFF}, 32), 23: zero,
	}
	require.NoError(t, tpmattest.VerifyEventLog(log, good))
	for n := range good {
		bad := map[uint][]byte{n: extended(good[n], a)} // something was measured that the log hides
		refusedFor(t, api.EventLogMismatch, tpmattest.VerifyEventLog(log, bad))
	}
	refusedFor(t, api.EventLogMismatch, tpmattest.VerifyEventLog(log, map[uint][]byte{24: zero}))
}

// An empty log, or one with nothing for a register, proves nothing of it.
func TestEventLogThatSaysNothingIsRefused(t *testing.T) {
	refusedFor(t, api.EventLogMalformed, tpmattest.VerifyEventLog(nil, map[uint][]byte{0: zero}))
	refusedFor(t, api.EventLogMismatch, tpmattest.VerifyEventLog(logHeader(11, 32), map[uint][]byte{0: question("value")}))
}

func TestMalformedEventLogIsRefused(t *testing.T) {
	header, event := logHeader(11, 32), logEvent(0, evAction, question("a"), "data")
	old := slices.Concat(make([]byte, 4), le.AppendUint32(nil, 8), make([]byte, 20), le.AppendUint32(nil, 0))
	locality := logEvent(0, evNoAction, zero, "StartupLocality\x00\x03")
	both := slices.Concat(le.AppendUint16(nil, 11), question("a"))
	twice := slices.Concat(make([]byte, 4), le.AppendUint32(nil, evAction), le.AppendUint32(nil, 2), both, both, make([]byte, 4))
	for name, log := range map[string][]byte{
		"SHA-1 form":             old,
		"SHA-1 only":             logHeader(4, 20),
		"SHA-256 of 20 bytes":    logHeader(11, 20),
		"an algorithm twice":     logHeader(11, 32, 11, 32),
		"a digest of no size":    logHeader(11, 32, 12, 0),
		"nine algorithms":        logHeader(1, 1, 2, 1, 3, 1, 4, 1, 5, 1, 6, 1, 7, 1, 8, 1, 11, 32),
		"another signature":      patched(header, 32, 'X'),
		"version 1":              patched(header, 32+16+4+1, 1),
		"header of another PCR":  patched(header, 0, 1),
		"header with a digest":   patched(header, 8, 1),
		"header longer":          patched(header, 28, byte(len(header)-32+1)),
		"header cut":             header[:40],
		"vendor info too long":   patched(header, len(header)-1, 200),
		"event cut":              append(slices.Clone(header), event[:len(event)-1]...),
		"trailing zero":          append(slices.Concat(header, event), 0),
		"padding":                append(slices.Concat(header, event), make([]byte, 64)...),
		"event of 4 GiB":         slices.Concat(header, event[:len(event)-8], []byte{255, 255, 255, 255}),
		"4 G digests":            slices.Concat(header, event[:8], []byte{255, 255, 255, 255}),
		"digest not announced":   slices.Concat(header, patched(event, 12, 12)),
		"no digest":              slices.Concat(header, make([]byte, 4), le.AppendUint32(nil, evAction), make([]byte, 8)),
		"a digest twice":         slices.Concat(logHeader(11, 32, 12, 48), twice),
		"register 24":            slices.Concat(header, logEvent(24, evAction, zero, "")),
		"locality said too late": slices.Concat(header, event, locality),
		"locality said twice":    slices.Concat(header, locality, locality),
		"locality of two bytes":  slices.Concat(header, logEvent(0, evNoAction, zero, "StartupLocality\x00\x03\x00")),
		"larger than any":        make([]byte, api.MaxEventLog+1),
		"text":                   []byte("not an event log, but long enough to be read as one"),
	} {
		t.Run(name, func(t *testing.T) {
			refusedFor(t, api.EventLogMalformed, tpmattest.VerifyEventLog(log, map[uint][]byte{1: zero}))
		})
	}
}

// The logs of real machines are read, and give the registers that were read on
// the machine.
func TestEventLogsOfRealMachines(t *testing.T) {
	for name, log := range map[string][]byte{
		"rhel 8": testdata.Rhel8EventLog, "ubuntu 18.04": testdata.Ubuntu1804AmdSevEventLog,
		"ubuntu 21.04": testdata.Ubuntu2104NoDbxEventLog, "ubuntu 21.04 without secure boot": testdata.Ubuntu2104NoSecureBootEventLog,
		"ubuntu 24.04": testdata.Ubuntu2404AmdSevSnpEventLog, "cos 85": testdata.Cos85AmdSevEventLog, "cos 101": testdata.Cos101AmdSevEventLog,
		"glinux": testdata.GlinuxAlexEventLog, "arch": testdata.ArchLinuxWorkstationEventLog,
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, tpmattest.VerifyEventLog(log, nil))
		})
	}
	pcrs := map[uint][]byte{}
	for n, digits := range map[uint]string{
		0:  "24af52a4f429b71a3184a6d64cddad17e54ea030e2aa6576bf3a5a3d8bd3328f",
		1:  "454220afaa80c83c3839f6cccd8b3c88bf4f562316a9dda1121c578c9e005a53",
		4:  "758a3d35f1b0ff5b135dacd07db0c8132c0ac665d944090d4bf96e66447a245c",
		7:  "5fd54361d580eb7592adb8deb236ff35444ceeac7148f24b3de63c041f12b3da",
		8:  "25c3874041ebd4e9a21b6ed71b624a7bfa99907a8dcea7f129a4c64cbaf5829a",
		14: "d8f57ebcc1a23cc46832696e1a657f720e1be8f5b405bb7204682114e363b455",
	} {
		var err error
		pcrs[n], err = hex.DecodeString(digits)
		require.NoError(t, err)
	}
	require.NoError(t, tpmattest.VerifyEventLog(testdata.Rhel8EventLog, pcrs))
	refusedFor(t, api.EventLogMismatch, tpmattest.VerifyEventLog(testdata.Ubuntu2104NoDbxEventLog, pcrs))
	refusedFor(t, api.EventLogMalformed, tpmattest.VerifyEventLog(testdata.Debian10EventLog, nil)) // of the SHA-1 form
}
