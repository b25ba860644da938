package instance

import (
	"crypto/ed25519"
	"encoding/hex"
)

// lowOrder are the encodings, sign left out, of the points of edwards25519
// whose order divides 8, the two that are not reduced among them. RFC 8032 does
// not have verifiers refuse such keys, and crypto/ed25519 does not: a signature
// over one message is then good for many others, and anybody can make it.
var lowOrder = func() (out [7][32]byte) {
	for i, s := range [len(out)]string{
		"0000000000000000000000000000000000000000000000000000000000000000", // order 4
		"0100000000000000000000000000000000000000000000000000000000000000", // order 1
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", // order 8
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", // order 8
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // order 2
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // order 4, not reduced
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // order 1, not reduced
	} {
		b, err := hex.DecodeString(s)
		if err != nil {
			panic(err) // a constant of this file
		}
		out[i] = [32]byte(b)
	}
	return out
}()

// isKey reports whether b can be a key whose signatures say something.
func isKey(b []byte) bool {
	if len(b) != ed25519.PublicKeySize {
		return false
	}
	y := [32]byte(b)
	y[31] &^= 0x80 // the sign
	for _, low := range lowOrder {
		if y == low {
			return false
		}
	}
	return true
}
