package enrol

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
)

const sealKeySize = 32

// The purposes for which something is sealed. Each is the info of the key's
// derivation, and begins the additional data.
const (
	sealSession = "telemark-session-v1"
	sealToken   = "telemark-token-v1"
)

var errSealed = errors.New("not sealed by this registry, or changed")

// seal encrypts with AES-256-GCM:
//
//	12 bytes random | ciphertext | 16 bytes tag       key = HKDF-SHA-256(sealKey, info = purpose)
func seal(sealKey []byte, purpose string, data, plain []byte) ([]byte, error) {
	aead, err := sealer(sealKey, purpose)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(plain)+aead.Overhead())
	_, _ = rand.Read(nonce) // never fails
	return aead.Seal(nonce, nonce, plain, data), nil
}

// unseal is the reverse; it says errSealed for what seal did not make.
func unseal(sealKey []byte, purpose string, data, sealed []byte) ([]byte, error) {
	aead, err := sealer(sealKey, purpose)
	if err != nil {
		return nil, err
	}
	if len(sealed) < aead.NonceSize() {
		return nil, errSealed
	}
	plain, err := aead.Open(nil, sealed[:aead.NonceSize()], sealed[aead.NonceSize():], data)
	if err != nil {
		return nil, errSealed
	}
	return plain, nil
}

func sealer(sealKey []byte, purpose string) (cipher.AEAD, error) {
	if len(sealKey) != sealKeySize {
		return nil, fmt.Errorf("the seal key has %d bytes, %d are needed", len(sealKey), sealKeySize)
	}
	key, err := hkdf.Key(sha256.New, sealKey, nil, purpose, sealKeySize)
	if err != nil {
		return nil, fmt.Errorf("derive a sealing key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("derive a sealing key: %w", err)
	}
	return cipher.NewGCM(block)
}

// SealTokenKey encrypts a token's key for the store. It is bound to the token,
// so that nobody who writes to the store gives one token the key of another.
//
//	additional data: "telemark-token-v1" | id
func SealTokenKey(sealKey []byte, id string, key []byte) ([]byte, error) {
	return seal(sealKey, sealToken, []byte(sealToken+id), key)
}

func openTokenKey(sealKey []byte, id string, sealed []byte) ([]byte, error) {
	return unseal(sealKey, sealToken, []byte(sealToken+id), sealed)
}
