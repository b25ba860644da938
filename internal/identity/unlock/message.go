package unlock

import (
	"crypto/ed25519"
)

const (
	messageTag   = "telemark-storage-key-v1\x00"
	signatureTag = "telemark-storage-sign-v1\x00"

	maxTranscript = 4096
	maxCiphertext = 2048
	// MaxMessage bounds what Wrap makes and Open reads.
	MaxMessage = len(messageTag) + 4 + maxTranscript + 4 + maxCiphertext + ed25519.SignatureSize
)

// message is what the owner's tool sends:
//
//	"telemark-storage-key-v1" 00 | P(T) | P(ciphertext) | signature (64)
//
//	ciphertext = HPKE base mode, single shot: encapsulated key | AEAD of the 32-byte key; info = T, aad empty
//	signature  = the owner's Ed25519 over "telemark-storage-sign-v1" 00 | P(T) | P(ciphertext)
//
// The transcript travels along so that a VM can say what differs from its own.
type message struct {
	transcript *Transcript
	raw        []byte // T
	ciphertext []byte
	signature  []byte
}

func (m *message) signed() []byte {
	return part(part([]byte(signatureTag), m.raw), m.ciphertext)
}

func (m *message) bytes() []byte {
	return append(part(part([]byte(messageTag), m.raw), m.ciphertext), m.signature...)
}

func parseMessage(b []byte) (*message, error) {
	if len(b) > MaxMessage || len(b) < len(messageTag) || string(b[:len(messageTag)]) != messageTag {
		return nil, refuse(Malformed, "not a message of version 1")
	}
	raw, rest, err := cut(b[len(messageTag):], 1, maxTranscript)
	if err != nil {
		return nil, err
	}
	ciphertext, signature, err := cut(rest, 1, maxCiphertext)
	if err != nil {
		return nil, err
	}
	if len(signature) != ed25519.SignatureSize {
		return nil, refuse(Malformed, "signature of %d bytes", len(signature))
	}
	t, err := ParseTranscript(raw)
	if err != nil {
		return nil, err
	}
	return &message{transcript: t, raw: raw, ciphertext: ciphertext, signature: signature}, nil
}
