// Package seal encrypts what the registry gives away and gets back, or keeps in
// its store, under one key that all replicas derive from the registry's signing
// key. Each purpose has a key of its own:
//
//	12 bytes random | ciphertext | 16 bytes tag       AES-256-GCM, key = HKDF-SHA-256(seal key, info = purpose)
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
)

// KeySize is the length of the seal key in bytes.
const KeySize = 32

// ErrNotSealed says that something was not sealed under this key and purpose, or was
// changed since.
var ErrNotSealed = errors.New("not sealed by this registry, or changed")

// Seal encrypts. data is authenticated beside it.
func Seal(sealKey []byte, purpose string, data, plain []byte) ([]byte, error) {
	aead, err := sealer(sealKey, purpose)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(plain)+aead.Overhead())
	_, _ = rand.Read(nonce) // never fails
	return aead.Seal(nonce, nonce, plain, data), nil
}

// Open is the reverse; it says ErrNotSealed for what Seal did not make.
func Open(sealKey []byte, purpose string, data, sealed []byte) ([]byte, error) {
	aead, err := sealer(sealKey, purpose)
	if err != nil {
		return nil, err
	}
	if len(sealed) < aead.NonceSize() {
		return nil, ErrNotSealed
	}
	plain, err := aead.Open(nil, sealed[:aead.NonceSize()], sealed[aead.NonceSize():], data)
	if err != nil {
		return nil, ErrNotSealed
	}
	return plain, nil
}

func sealer(sealKey []byte, purpose string) (cipher.AEAD, error) {
	if len(sealKey) != KeySize {
		return nil, fmt.Errorf("the seal key has %d bytes, %d are needed", len(sealKey), KeySize)
	}
	key, err := hkdf.Key(sha256.New, sealKey, nil, purpose, KeySize)
	if err != nil {
		return nil, fmt.Errorf("derive a sealing key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("derive a sealing key: %w", err)
	}
	return cipher.NewGCM(block)
}
