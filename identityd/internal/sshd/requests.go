package sshd

import (
	"encoding/binary"
	"regexp"
	"strings"
)

// Payloads of channel requests, RFC 4254 section 6. A string is a length (4
// bytes, big endian) and as many bytes; every number has 4 bytes. Nothing may
// follow.
//
//	pty-req        string TERM · cols · rows · width · height · string modes
//	window-change  cols · rows · width · height
//	env            string name · string value
//	exec           string command
//	subsystem      string name
//	signal         string name
//	exit-status    code

const (
	maxCommand = 64 << 10
	maxTerm    = 64
	maxEnv     = 32
	maxValue   = 1024
	maxSide    = 4096 // columns or rows
)

// reader takes fields from a payload. After one that is not there, ok is false
// and everything else is empty.
type reader struct {
	rest []byte
	ok   bool
}

func read(payload []byte) *reader { return &reader{payload, true} }

func (r *reader) number() uint32 {
	if len(r.rest) < 4 {
		r.rest, r.ok = nil, false
		return 0
	}
	n := binary.BigEndian.Uint32(r.rest)
	r.rest = r.rest[4:]
	return n
}

func (r *reader) text() string {
	n := r.number()
	if uint64(n) > uint64(len(r.rest)) {
		r.rest, r.ok = nil, false
		return ""
	}
	s := string(r.rest[:n])
	r.rest = r.rest[n:]
	return s
}

// done reports whether all fields were there and nothing else.
func (r *reader) done() bool { return r.ok && len(r.rest) == 0 }

func (r *reader) size() Size {
	cols, rows := r.number(), r.number()
	r.number() // in pixels
	r.number()
	return Size{side(cols), side(rows)}
}

// side bounds what a client may say; 0 is what it says when it does not know.
func side(n uint32) uint16 { return uint16(min(n, maxSide)) }

var termShape = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9+._-]*$`)

// parsePty returns the terminal's type and size. Its modes are left to the
// container's terminal.
func parsePty(payload []byte) (term string, size Size, ok bool) {
	r := read(payload)
	term, size = r.text(), r.size()
	r.text()
	if !r.done() {
		return "", Size{}, false
	}
	if len(term) > maxTerm || !termShape.MatchString(term) {
		term = "dumb"
	}
	return term, size, true
}

func parseWindow(payload []byte) (Size, bool) {
	r := read(payload)
	size := r.size()
	return size, r.done()
}

// parseText reads a payload of one string.
func parseText(payload []byte, limit int) (string, bool) {
	r := read(payload)
	s := r.text()
	if !r.done() || len(s) > limit || strings.ContainsRune(s, 0) {
		return "", false
	}
	return s, true
}

// parseEnv takes variables that say what the owner's terminal and language are.
// Others could change what programs in the container load.
func parseEnv(payload []byte) (string, bool) {
	r := read(payload)
	name, value := r.text(), r.text()
	if !r.done() || len(value) > maxValue || strings.ContainsFunc(value, func(c rune) bool { return c < 0x20 || c == 0x7f }) {
		return "", false
	}
	switch name {
	case "LANG", "LANGUAGE", "TZ", "COLORTERM", "NO_COLOR":
	default:
		if !localeShape.MatchString(name) {
			return "", false
		}
	}
	return name + "=" + value, true
}

var localeShape = regexp.MustCompile(`^LC_[A-Z]{1,32}$`)
