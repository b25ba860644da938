package state

import (
	"crypto/hkdf"
	"crypto/sha256"
)

// derivedSize is the bytes of a derived key.
const derivedSize = 32

// Derive returns a key of this boot for one purpose:
//
//	HKDF-SHA-256(seed of the instance key, no salt, "telemark-identityd-" | purpose)
//
// It is the same after a restart of the service and another one after a reboot,
// and says nothing about the instance key or about the key for another purpose.
func (m *Machine) Derive(purpose string) [derivedSize]byte {
	key, err := hkdf.Key(sha256.New, m.key.Seed(), nil, "telemark-identityd-"+purpose, derivedSize)
	if err != nil {
		panic("derive a key: " + err.Error()) // only a length out of bounds is an error
	}
	return [derivedSize]byte(key)
}
