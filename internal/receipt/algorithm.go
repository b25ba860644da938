package receipt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"math/big"
	"sync"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
)

// Algorithm is a COSE algorithm identifier (RFC 9053, RFC 8230).
type Algorithm int64

// The algorithms. ES256 is the one of Profile; the others are of ProfileAgile,
// for TPMs without P-256.
const (
	// ES256 is ECDSA on P-256 with SHA-256; its signature is r | s.
	ES256 Algorithm = -7
	// ES384 is ECDSA on P-384 with SHA-384; its signature is r | s.
	ES384 Algorithm = -35
	// PS256 is RSASSA-PSS by a key of 2048 bits, with SHA-256. RFC 8230 wants a
	// salt of 32 bytes, TPMs take as long a one as fits (TPM 2.0 Library part 1,
	// B.7), so that one of any length verifies.
	PS256 Algorithm = -37
)

// algorithm is one row of the table of what verifiers know.
type algorithm struct {
	name    string
	profile string
	hash    crypto.Hash
	size    int // of a signature, bytes
	// takes returns curve_mismatch when the key is not of the kind and curve that
	// the algorithm demands.
	takes func(pub crypto.PublicKey) error
	// identify returns bytes that name a key that the algorithm takes.
	identify func(pub crypto.PublicKey) ([]byte, error)
	// verify does the arithmetic, after identify.
	verify func(pub crypto.PublicKey, digest, sig []byte) bool
}

var algorithms = map[Algorithm]algorithm{
	ES256: {
		name: "ES256", profile: Profile, hash: crypto.SHA256, size: 64,
		takes:    func(pub crypto.PublicKey) error { return takesECDSA(pub, elliptic.P256()) },
		identify: identifyECDSA, verify: verifyECDSA,
	},
	ES384: {
		name: "ES384", profile: ProfileAgile, hash: crypto.SHA384, size: 96,
		takes:    func(pub crypto.PublicKey) error { return takesECDSA(pub, elliptic.P384()) },
		identify: identifyECDSA, verify: verifyECDSA,
	},
	PS256: {
		name: "PS256", profile: ProfileAgile, hash: crypto.SHA256, size: 256,
		takes:    takesRSA,
		identify: identifyRSA, verify: verifyPSS,
	},
}

// Digest returns what the TPM signs of a Sig_structure; nil for an algorithm
// that is not known.
func (a Algorithm) Digest(sigStructure []byte) []byte {
	row, ok := algorithms[a]
	if !ok {
		return nil
	}
	h := row.hash.New()
	h.Write(sigStructure)
	return h.Sum(nil)
}

// SignatureSize is the length of a signature, in bytes; 0 for an algorithm that
// is not known.
func (a Algorithm) SignatureSize() int { return algorithms[a].size }

// Takes returns curve_mismatch when the key is not of the kind and curve that the
// algorithm demands, and algorithm_unknown. It does no arithmetic: that a point is
// on its curve shows when it verifies.
func (a Algorithm) Takes(pub crypto.PublicKey) error {
	row, ok := algorithms[a]
	if !ok {
		return reason.New(reason.AlgorithmUnknown, "COSE algorithm %d", int64(a))
	}
	return row.takes(pub)
}

// String returns the name that COSE and JSON key files use.
func (a Algorithm) String() string {
	if row, ok := algorithms[a]; ok {
		return row.name
	}
	return fmt.Sprintf("COSE algorithm %d", int64(a))
}

// ParseAlgorithm is the inverse of [Algorithm.String] for known algorithms.
func ParseAlgorithm(name string) (Algorithm, error) {
	for a, row := range algorithms {
		if row.name == name {
			return a, nil
		}
	}
	return 0, fmt.Errorf("algorithm %.32q is not known, want ES256, ES384 or PS256", name)
}

// VerifySignature checks sig over sigStructure. alg comes from the key record,
// never from the receipt. Errors: algorithm_unknown, curve_mismatch,
// signature_invalid.
func VerifySignature(alg Algorithm, pub crypto.PublicKey, sigStructure, sig []byte) error {
	row, ok := algorithms[alg]
	if !ok {
		return reason.New(reason.AlgorithmUnknown, "COSE algorithm %d", alg)
	}
	if _, err := row.identified(pub); err != nil {
		return err
	}
	if len(sig) != row.size || !row.verify(pub, alg.Digest(sigStructure), sig) {
		return reason.New(reason.SignatureInvalid, "%s", row.name)
	}
	return nil
}

// identified is identify after takes.
func (row *algorithm) identified(pub crypto.PublicKey) ([]byte, error) {
	if err := row.takes(pub); err != nil {
		return nil, err
	}
	return row.identify(pub)
}

func takesECDSA(pub crypto.PublicKey, curve elliptic.Curve) error {
	key, ok := pub.(*ecdsa.PublicKey)
	if !ok {
		return reason.New(reason.CurveMismatch, "a key of type %T, want ECDSA on %s", pub, curve.Params().Name)
	}
	if key == nil || key.Curve != curve {
		return reason.New(reason.CurveMismatch, "want %s", curve.Params().Name)
	}
	return nil
}

func identifyECDSA(pub crypto.PublicKey) ([]byte, error) {
	b, err := pub.(*ecdsa.PublicKey).Bytes() // refuses points off the curve
	if err != nil {
		return nil, reason.Wrap(reason.CurveMismatch, err)
	}
	return b, nil
}

// verifyECDSA takes r | s.
func verifyECDSA(pub crypto.PublicKey, digest, sig []byte) bool {
	key, ok := pub.(*ecdsa.PublicKey)
	if !ok {
		return false
	}
	half := len(sig) / 2
	r, s := new(big.Int).SetBytes(sig[:half]), new(big.Int).SetBytes(sig[half:])
	return ecdsa.Verify(key, digest, r, s)
}

// rsaBits and rsaExponent are those of TPM keys that PS256 takes.
const (
	rsaBits     = 2048
	rsaExponent = 65537
)

func takesRSA(pub crypto.PublicKey) error {
	key, ok := pub.(*rsa.PublicKey)
	if !ok {
		return reason.New(reason.CurveMismatch, "a key of type %T, want RSA", pub)
	}
	if key == nil || key.N == nil || key.N.BitLen() != rsaBits || key.E != rsaExponent {
		return reason.New(reason.CurveMismatch, "want RSA of %d bits with the exponent %d", rsaBits, rsaExponent)
	}
	return nil
}

func identifyRSA(pub crypto.PublicKey) ([]byte, error) {
	return x509.MarshalPKCS1PublicKey(pub.(*rsa.PublicKey)), nil
}

func verifyPSS(pub crypto.PublicKey, digest, sig []byte) bool {
	key, ok := pub.(*rsa.PublicKey)
	return ok && rsa.VerifyPSS(key, crypto.SHA256, digest, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto}) == nil
}

// SignatureCache remembers signatures that verified, so that the many blocks
// of one group cost one computation. It holds only that the arithmetic came
// out: keys, nonces and policy are judged anew for each block. Signatures that
// are wrong are not remembered, so that nobody without a key can push others
// out. It is safe for concurrent use.
type SignatureCache struct {
	verified *generations[block.Digest, block.Digest] // statement hashes
	names    *generations[keyHandle, []byte]
}

// keyHandle finds the name of a key again, whose point need not be checked to be
// on the curve once more. Keys are not changed once they are in use.
type keyHandle struct {
	alg Algorithm
	key crypto.PublicKey // a pointer
}

const cachedKeys = 4096

// NewSignatureCache returns a cache that holds at most entries signatures.
func NewSignatureCache(entries int) *SignatureCache {
	return &SignatureCache{
		verified: newGenerations[block.Digest, block.Digest](entries),
		names:    newGenerations[keyHandle, []byte](cachedKeys),
	}
}

const cacheDomain = "telemark-sigcache-v1\x00"

// keySpaces are buffers for cacheKey, whose goroutines mostly live for one
// request: the room would make the stack of each of them grow.
var keySpaces = sync.Pool{New: func() any { return new([keySpace]byte) }}

const keySpace = len(cacheDomain) + 8 + 8 + maxKeyName + 8 + MaxSigStructure + maxSignature

// maxKeyName is above the longest name of a key, PKCS #1 of RSA.
const maxKeyName = 320

// Verify is [VerifySignature], remembered with the [StatementHash] of what was
// signed, which it returns.
func (c *SignatureCache) Verify(alg Algorithm, pub crypto.PublicKey, sigStructure, sig []byte) (statement block.Digest, err error) {
	id, err := c.identify(alg, pub)
	if err != nil {
		return block.Digest{}, err
	}
	key := cacheKey(alg, id, sigStructure, sig)
	if statement, ok := c.verified.get(key); ok {
		return statement, nil
	}
	if err := VerifySignature(alg, pub, sigStructure, sig); err != nil {
		return block.Digest{}, err
	}
	statement = StatementHash(sigStructure)
	c.verified.put(key, statement)
	return statement, nil
}

// identify returns the name of a key, after it was found once to be one that
// the algorithm can take.
func (c *SignatureCache) identify(alg Algorithm, pub crypto.PublicKey) ([]byte, error) {
	row, ok := algorithms[alg]
	if !ok {
		return nil, reason.New(reason.AlgorithmUnknown, "COSE algorithm %d", alg)
	}
	switch pub.(type) {
	case *ecdsa.PublicKey, *rsa.PublicKey:
	default:
		return row.identified(pub)
	}
	if id, ok := c.names.get(keyHandle{alg, pub}); ok {
		return id, nil
	}
	id, err := row.identified(pub)
	if err == nil {
		c.names.put(keyHandle{alg, pub}, id)
	}
	return id, err
}

// cacheKey names one computation:
//
//	SHA-256( "telemark-sigcache-v1" 00 | algorithm 8 | length 8 | public key
//	       | length 8 | Sig_structure | signature )
func cacheKey(alg Algorithm, id, sigStructure, sig []byte) block.Digest {
	space := keySpaces.Get().(*[keySpace]byte)
	defer keySpaces.Put(space)
	b := append(space[:0], cacheDomain...)
	b = binary.BigEndian.AppendUint64(b, uint64(alg))
	b = append(binary.BigEndian.AppendUint64(b, uint64(len(id))), id...)
	b = append(binary.BigEndian.AppendUint64(b, uint64(len(sigStructure))), sigStructure...)
	return sha256.Sum256(append(b, sig...))
}
