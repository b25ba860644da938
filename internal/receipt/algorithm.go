package receipt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/big"
	"sync"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
)

// Algorithm is a COSE algorithm identifier (RFC 9053, RFC 9864).
type Algorithm int64

// The algorithms.
const (
	// ES256 is ECDSA on P-256 with SHA-256; its signature is r | s.
	ES256 Algorithm = -7
)

// algorithm is one row of the table of what verifiers know.
type algorithm struct {
	name string
	// identify returns bytes that name the key, or curve_mismatch when it is not
	// one of the kind and curve that the algorithm demands.
	identify func(pub crypto.PublicKey) ([]byte, error)
	// verify does the arithmetic, after identify.
	verify func(pub crypto.PublicKey, message, sig []byte) bool
}

var algorithms = map[Algorithm]algorithm{
	ES256: {
		name:     "ES256",
		identify: func(pub crypto.PublicKey) ([]byte, error) { return identifyECDSA(pub, elliptic.P256()) },
		verify: func(pub crypto.PublicKey, message, sig []byte) bool {
			sum := sha256.Sum256(message)
			return verifyECDSA(pub, sum[:], sig, 32)
		},
	},
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
	return 0, fmt.Errorf("algorithm %q is not known, want ES256", name)
}

// VerifySignature checks sig over sigStructure. alg comes from the key record,
// never from the receipt. Errors: algorithm_unknown, curve_mismatch,
// signature_invalid.
func VerifySignature(alg Algorithm, pub crypto.PublicKey, sigStructure, sig []byte) error {
	row, ok := algorithms[alg]
	if !ok {
		return reason.New(reason.AlgorithmUnknown, "COSE algorithm %d", alg)
	}
	if _, err := row.identify(pub); err != nil {
		return err
	}
	if !row.verify(pub, sigStructure, sig) {
		return reason.New(reason.SignatureInvalid, "%s", row.name)
	}
	return nil
}

func identifyECDSA(pub crypto.PublicKey, curve elliptic.Curve) ([]byte, error) {
	key, ok := pub.(*ecdsa.PublicKey)
	if !ok {
		return nil, reason.New(reason.CurveMismatch, "a key of type %T", pub)
	}
	if key == nil || key.Curve != curve {
		return nil, reason.New(reason.CurveMismatch, "want %s", curve.Params().Name)
	}
	b, err := key.Bytes() // refuses points off the curve
	if err != nil {
		return nil, reason.Wrap(reason.CurveMismatch, err)
	}
	return b, nil
}

func verifyECDSA(pub crypto.PublicKey, digest, sig []byte, width int) bool {
	key, ok := pub.(*ecdsa.PublicKey)
	if !ok || len(sig) != 2*width {
		return false
	}
	r, s := new(big.Int).SetBytes(sig[:width]), new(big.Int).SetBytes(sig[width:])
	return ecdsa.Verify(key, digest, r, s)
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
	key *ecdsa.PublicKey
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

const keySpace = len(cacheDomain) + 8 + 8 + 128 + 8 + MaxSigStructure + signatureSize

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
	key, isECDSA := pub.(*ecdsa.PublicKey)
	if isECDSA {
		if id, ok := c.names.get(keyHandle{alg, key}); ok {
			return id, nil
		}
	}
	row, ok := algorithms[alg]
	if !ok {
		return nil, reason.New(reason.AlgorithmUnknown, "COSE algorithm %d", alg)
	}
	id, err := row.identify(pub)
	if err == nil && isECDSA {
		c.names.put(keyHandle{alg, key}, id)
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
