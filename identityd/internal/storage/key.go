package storage

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// KeySize is the length of a volume's key.
const KeySize = 32

// ID names a volume. It is random, and public.
type ID [16]byte

// NewID returns the ID of a volume to be made.
func NewID() ID {
	var id ID
	rand.Read(id[:])
	return id
}

func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Key is a volume's key. It prints as nothing. Whoever holds it wipes it.
type Key struct{ b *[KeySize]byte }

// NewKey takes over b: the key is copied and b wiped.
func NewKey(b []byte) (*Key, error) {
	defer clear(b)
	if len(b) != KeySize || [KeySize]byte(b) == [KeySize]byte{} {
		return nil, refuse(KeyInvalid, "a volume's key is %d bytes, and not zero", KeySize)
	}
	return &Key{b: (*[KeySize]byte)(append([]byte(nil), b...))}, nil
}

func randomKey() *Key {
	k := &Key{b: new([KeySize]byte)}
	rand.Read(k.b[:])
	return k
}

// Wipe forgets the key. It may be called again, and on nil.
func (k *Key) Wipe() {
	if k != nil && k.b != nil {
		clear(k.b[:])
		k.b = nil
	}
}

// Format keeps the key out of every log.
func (Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[key]")) }

// MarshalText keeps it out of every document.
func (Key) MarshalText() ([]byte, error) { return []byte("[key]"), nil }

// derive makes a key for one purpose:
//
//	HKDF-SHA256(secret = volume key, salt = volume id, info = purpose), 32 bytes
func (k *Key) derive(id ID, purpose string) ([]byte, error) {
	if k == nil || k.b == nil {
		return nil, refuse(KeyInvalid, "the key was wiped")
	}
	return hkdf.Key(sha256.New, k.b[:], id[:], purpose, KeySize)
}

// password is what gocryptfs asks for: one line, 64 hexadecimal digits.
func (k *Key) password(id ID) ([]byte, error) {
	b, err := k.derive(id, "telemark-storage-password-v1")
	if err != nil {
		return nil, err
	}
	defer clear(b)
	line := make([]byte, 0, 2*KeySize+1)
	return append(hex.AppendEncode(line, b), '\n'), nil
}
