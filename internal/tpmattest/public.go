package tpmattest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha256" // the hashes that names and schemes use
	_ "crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// Algorithms and curves (part 2, sections 6.3 and 6.4).
const (
	algRSA    uint16 = 0x0001
	algAES    uint16 = 0x0006
	algSHA256 uint16 = 0x000B
	algSHA384 uint16 = 0x000C
	algNull   uint16 = 0x0010
	algRSASSA uint16 = 0x0014
	algRSAES  uint16 = 0x0015
	algRSAPSS uint16 = 0x0016
	algOAEP   uint16 = 0x0017
	algECDSA  uint16 = 0x0018
	algECDH   uint16 = 0x0019
	algECC    uint16 = 0x0023
	algCFB    uint16 = 0x0043

	curveP256 uint16 = 0x0003
	curveP384 uint16 = 0x0004
)

// attributes are TPMA_OBJECT (part 2, section 8.3).
type attributes uint32

const (
	fixedTPM             attributes = 1 << 1
	stClear              attributes = 1 << 2
	fixedParent          attributes = 1 << 4
	sensitiveDataOrigin  attributes = 1 << 5
	userWithAuth         attributes = 1 << 6
	adminWithPolicy      attributes = 1 << 7
	noDA                 attributes = 1 << 10
	encryptedDuplication attributes = 1 << 11
	restricted           attributes = 1 << 16
	decrypt              attributes = 1 << 17
	signEncrypt          attributes = 1 << 18
	x509Sign             attributes = 1 << 19

	definedAttributes = fixedTPM | stClear | fixedParent | sensitiveDataOrigin | userWithAuth | adminWithPolicy |
		noDA | encryptedDuplication | restricted | decrypt | signEncrypt | x509Sign
)

func (a attributes) has(want attributes) bool { return a&want == want }

var (
	errMalformed   = errors.New("the public area is cut short, too long, or not well formed")
	errUnsupported = errors.New("an algorithm, curve or scheme that is not accepted")
)

// scheme is TPMT_RSA_SCHEME or TPMT_ECC_SCHEME: an algorithm and, but for
// null and RSAES, a hash.
type scheme struct {
	alg  uint16
	hash uint16
}

// public is a TPMT_PUBLIC (part 2, section 12.2.4) of type RSA or ECC:
//
//	u16 type | u16 nameAlg | u32 objectAttributes | TPM2B authPolicy | parameters | unique
//
//	parameters, RSA: symmetric | scheme | u16 keyBits | u32 exponent     unique: TPM2B modulus
//	parameters, ECC: symmetric | scheme | u16 curveID | u16 kdf (null)   unique: TPM2B x | TPM2B y
//	symmetric: u16 null, or u16 AES | u16 keyBits | u16 mode
//	scheme:    u16 null, or u16 algorithm | u16 hash
type public struct {
	typ        uint16
	nameAlg    uint16
	attributes attributes
	policy     []byte
	symAlg     uint16
	symBits    uint16
	symMode    uint16
	scheme     scheme
	rsaBits    uint16
	curve      uint16
	key        crypto.PublicKey // *rsa.PublicKey or *ecdsa.PublicKey
	name       []byte
}

const maxDigest = 64 // SHA-512, of any digest in a structure

// parsePublic reads a public area, whole and nothing behind it, and computes
// its Name. The error is errMalformed or errUnsupported.
func parsePublic(b []byte) (*public, error) {
	if len(b) > api.MaxPublic {
		return nil, errMalformed
	}
	c := &cursor{rest: b}
	p := &public{typ: c.u16(), nameAlg: c.u16(), attributes: attributes(c.u32()), policy: c.sized(maxDigest)}
	if c.bad || p.attributes&^definedAttributes != 0 {
		return nil, errMalformed
	}
	var err error
	switch p.typ {
	case algRSA:
		err = p.readRSA(c)
	case algECC:
		err = p.readECC(c)
	default:
		return nil, fmt.Errorf("%w: type %#04x", errUnsupported, p.typ)
	}
	if err != nil {
		return nil, err
	}
	p.name, err = nameOf(p.nameAlg, b)
	return p, err
}

// readSymmetricAndScheme reads what RSA and ECC have in common.
func (p *public) readSymmetricAndScheme(c *cursor) error {
	switch p.symAlg = c.u16(); p.symAlg {
	case algNull:
	case algAES:
		p.symBits, p.symMode = c.u16(), c.u16()
	default:
		return unreadable(c, "symmetric algorithm", p.symAlg)
	}
	switch p.scheme.alg = c.u16(); p.scheme.alg {
	case algNull, algRSAES:
	case algRSASSA, algRSAPSS, algOAEP, algECDSA, algECDH:
		p.scheme.hash = c.u16()
	default:
		return unreadable(c, "scheme", p.scheme.alg)
	}
	return nil
}

// unreadable tells bytes that are missing from an algorithm that is not known.
func unreadable(c *cursor, what string, alg uint16) error {
	if c.bad {
		return errMalformed
	}
	return fmt.Errorf("%w: %s %#04x", errUnsupported, what, alg)
}

func (p *public) readRSA(c *cursor) error {
	if err := p.readSymmetricAndScheme(c); err != nil {
		return err
	}
	p.rsaBits = c.u16()
	exponent := c.u32()
	modulus := c.sized(api.MaxPublic)
	if !c.done() {
		return errMalformed
	}
	if exponent != 0 { // zero stands for 65537
		return fmt.Errorf("%w: exponent %d", errUnsupported, exponent)
	}
	switch p.rsaBits {
	case 2048, 3072, 4096:
	default:
		return fmt.Errorf("%w: RSA with %d bits", errUnsupported, p.rsaBits)
	}
	if len(modulus) != int(p.rsaBits)/8 || modulus[0]&0x80 == 0 || modulus[len(modulus)-1]&1 == 0 {
		return errMalformed
	}
	p.key = &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: 65537}
	return nil
}

func (p *public) readECC(c *cursor) error {
	if err := p.readSymmetricAndScheme(c); err != nil {
		return err
	}
	p.curve = c.u16()
	if kdf := c.u16(); kdf != algNull {
		return unreadable(c, "key derivation", kdf)
	}
	x, y := c.sized(maxDigest+2), c.sized(maxDigest+2) // P-521 has 66 bytes
	if !c.done() {
		return errMalformed
	}
	curve, size := curveOf(p.curve)
	if curve == nil {
		return fmt.Errorf("%w: curve %#04x", errUnsupported, p.curve)
	}
	// 04 | X | Y; a TPM may leave out leading zeros.
	if len(x) > size || len(y) > size {
		return errMalformed
	}
	point := make([]byte, 1+2*size)
	point[0] = 4
	copy(point[1+size-len(x):], x)
	copy(point[1+2*size-len(y):], y)
	key, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil { // not on the curve, or a template without a key
		return errMalformed
	}
	p.key = key
	return nil
}

// curveOf returns a curve and the length of its coordinates.
func curveOf(id uint16) (elliptic.Curve, int) {
	switch id {
	case curveP256:
		return elliptic.P256(), 32
	case curveP384:
		return elliptic.P384(), 48
	default:
		return nil, 0
	}
}

// hashOf returns a hash, 0 for one that is not accepted.
func hashOf(alg uint16) crypto.Hash {
	switch alg {
	case algSHA256:
		return crypto.SHA256
	case algSHA384:
		return crypto.SHA384
	default:
		return 0
	}
}

// nameOf computes the Name of a public area (part 1, section 16):
//
//	u16 nameAlg | H(TPMT_PUBLIC)
func nameOf(nameAlg uint16, b []byte) ([]byte, error) {
	h := hashOf(nameAlg)
	if h == 0 {
		return nil, fmt.Errorf("%w: name algorithm %#04x", errUnsupported, nameAlg)
	}
	hash := h.New()
	hash.Write(b)
	name := binary.BigEndian.AppendUint16(make([]byte, 0, 2+h.Size()), nameAlg)
	return hash.Sum(name), nil
}

// isName reports whether b has the form of a Name of an object.
func isName(b []byte) bool {
	if len(b) < 2 {
		return false
	}
	switch binary.BigEndian.Uint16(b) {
	case 0x0004: // SHA-1: a parent's choice, which nothing rests on
		return len(b) == 2+20
	case algSHA256:
		return len(b) == 2+32
	case algSHA384:
		return len(b) == 2+48
	case 0x000D: // SHA-512
		return len(b) == 2+64
	default:
		return false
	}
}

// samePolicy is for authPolicy, of which nothing is secret.
func samePolicy(a, b []byte) bool { return bytes.Equal(a, b) }
