package statement

import (
	"crypto/sha512"
	"encoding/binary"
)

// AttestData is what a quote for a reader's nonce carries:
//
//	SHA-512("telemark-identity-attest-v1\0" | u32 len, nonce | u32 len, statement)
//
// The nonce is empty in certificates (RA-TLS), 16 to 64 bytes otherwise.
func AttestData(nonce, raw []byte) [64]byte {
	return sha512.Sum512(appendPart(appendPart([]byte("telemark-identity-attest-v1\x00"), nonce), raw))
}

// Digest is what is extended into the register for an event:
//
//	SHA-384("telemark-event-v1\0" | u32 len, name | u32 len, data)
func (e Event) Digest() [48]byte {
	return sha512.Sum384(appendPart(appendPart([]byte("telemark-event-v1\x00"), []byte(e.Name)), []byte(e.Data)))
}

// Replay returns what the register holds after the events:
//
//	R = SHA-384(R | digest) for each
func Replay(base [48]byte, events []Event) [48]byte {
	for _, e := range events {
		base = Extend(base, e.Digest())
	}
	return base
}

// Extend is what the register does with one digest.
func Extend(register, digest [48]byte) [48]byte {
	return sha512.Sum384(append(register[:], digest[:]...))
}

// LinkMessage is what the key that an identity began with signs to go on as
// instance, with the counter that the state had when the VM was started:
//
//	"telemark-identity-link-v1\0" | u32 32 | instance | u32 8 | u64 counter
func LinkMessage(instance []byte, counter uint64) []byte {
	b := appendPart([]byte("telemark-identity-link-v1\x00"), instance)
	return appendPart(b, binary.BigEndian.AppendUint64(nil, counter))
}

func appendPart(to, part []byte) []byte {
	to = binary.BigEndian.AppendUint32(to, uint32(len(part)))
	return append(to, part...)
}
