// Package audit is the registry's log of who changed what: entries chained by
// SHA-256, their end signed. registryd appends, `telemark audit verify` checks.
//
//	hash(n) = SHA-256("telemark-audit-v1\0" | hash(n-1), 32 bytes | u64 seq | u64 at, Unix ms |
//	                  u32 len, actor | action | subject | detail, each with its u32 len)
//
// Numbers are big endian. hash(0) is 32 zero bytes. It does no I/O.
//
// The chain shows what was changed inside a log, and a signed head what is
// missing from its end. It cannot show that somebody who holds the signing key
// wrote another log from the start: for that, heads have to be kept elsewhere.
package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"time"
)

const domain = "telemark-audit-v1\x00"

// Entry is one line of the log.
type Entry struct {
	Seq     uint64          `json:"seq"` // from 1
	At      time.Time       `json:"at"`  // milliseconds
	Actor   string          `json:"actor"`
	Action  string          `json:"action"`
	Subject string          `json:"subject"`
	Detail  json.RawMessage `json:"detail,omitempty"` // compact JSON, hashed as it stands
	Hash    []byte          `json:"hash"`
}

// Head is the signed end of the log: an answer.AuditHead, encoded.
type Head struct {
	Seq    uint64    `json:"seq"`
	Hash   []byte    `json:"hash"`
	At     time.Time `json:"at"`
	Signed []byte    `json:"signed"`
}

// Hash returns the hash of e behind the entry with hash prev, which is nil or
// 32 zero bytes for the first one.
func Hash(prev []byte, e *Entry) []byte {
	h := sha256.New()
	h.Write([]byte(domain))
	var first [sha256.Size]byte
	if prev == nil {
		prev = first[:]
	}
	h.Write(prev)
	var number [8]byte
	binary.BigEndian.PutUint64(number[:], e.Seq)
	h.Write(number[:])
	binary.BigEndian.PutUint64(number[:], uint64(e.At.UnixMilli()))
	h.Write(number[:])
	for _, part := range [][]byte{[]byte(e.Actor), []byte(e.Action), []byte(e.Subject), e.Detail} {
		binary.BigEndian.PutUint32(number[:4], uint32(len(part)))
		h.Write(number[:4])
		h.Write(part)
	}
	return h.Sum(nil)
}
