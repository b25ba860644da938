package receipt

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/merkle"
	"github.com/telemark-otel/telemark/internal/reason"
)

// The EAT profiles (label 265). They differ in their algorithms only: each
// algorithm belongs to one.
const (
	Profile      = "tag:telemark-otel.github.io,2026:receipt-v1"       // ES256
	ProfileAgile = "tag:telemark-otel.github.io,2026:receipt-v1-agile" // ES384, PS256
)

// Bounds. Together they keep every receipt that [Receipt.Append] makes under
// MaxSize.
const (
	MaxSize      = 16 << 10         // bytes of an encoded receipt
	MaxProtected = 1 << 10          // bytes of its protected header
	MaxTreeSize  = merkle.MaxLeaves // leaves of a group
	MaxKeys      = 512              // names in the key list of an enrichable block
	MaxKeysSize  = 12 << 10         // bytes of that list as CBOR
	MaxAudience  = 128              // bytes
	MaxSource    = 32               // bytes
	MaxCounter   = math.MaxInt64    // of epochs, sequence and block numbers
	MaxItems     = math.MaxInt32    // of a block
)

const (
	maxSignature = 256 // of PS256
	kidSize      = 34  // TPM Name: algorithm 000b and a SHA-256
	ueidSize     = 33  // type 01 and 32 bytes
)

// Receipt is a decoded telemark.receipt. Its slices are its own: they stay
// when the bytes that it was decoded from go. A receipt from a [Decoder] shares
// its Statement and Protected with others: do not change them.
type Receipt struct {
	Protected []byte // as signed
	Statement *Statement
	Signature []byte // of the statement's algorithm
	TreeSize  uint64
	LeafIndex uint64
	Path      []block.Digest // from the leaf up
	Stream    string
	BlockNo   uint64       // 1 to MaxCounter
	Digest    block.Digest // "d": the block digest as signed
	Items     uint64       // "i": 1 to MaxItems, the items of the block as signed
	Keys      []string     // "k": nil unless the signer tolerates enriching (may be empty then)
}

// Root computes the tree's root from a leaf hash and the path. The error is
// proof_malformed.
func (r *Receipt) Root(leaf block.Digest) (block.Digest, error) {
	root, err := merkle.RootFromPath(leaf, r.LeafIndex, r.TreeSize, r.Path)
	if err != nil {
		return block.Digest{}, reason.Wrap(reason.ProofMalformed, err)
	}
	return root, nil
}

// check holds what Decode accepts and Encode writes to the bounds that CBOR
// types alone do not express, in the order of the specification.
func (r *Receipt) check(size uint64) error {
	if err := block.CheckStream(r.Stream); err != nil {
		return reason.Wrap(reason.StreamInvalid, err)
	}
	if r.BlockNo == 0 || r.BlockNo > MaxCounter {
		return reason.New(reason.StreamInvalid, "block number %d", r.BlockNo)
	}
	if r.Items == 0 || r.Items > MaxItems {
		return reason.New(reason.ReceiptMalformed, "a block of %d items", r.Items)
	}
	if err := CheckKeys(r.Keys); err != nil {
		return reason.Wrap(reason.ReceiptMalformed, err)
	}
	if r.TreeSize != size {
		return reason.New(reason.TreeSizeMismatch, "proof in a tree of %d, signed were %d", r.TreeSize, size)
	}
	if r.LeafIndex >= r.TreeSize || len(r.Path) != merkle.PathLen(r.LeafIndex, r.TreeSize) {
		return reason.New(reason.ProofMalformed, "leaf %d of %d with a path of %d", r.LeafIndex, r.TreeSize, len(r.Path))
	}
	return nil
}

// Leaf is what a block contributes to its group's tree.
type Leaf struct {
	Signal     block.Signal
	Tolerances block.Tolerance
	Stream     string // at most block.MaxStreamLen bytes
	BlockNo    uint64
	Items      uint64        // of the whole block
	Keys       *block.Digest // KeyListDigest, with Enrich and only then
	Digest     block.Digest
}

const leafDomain = "\x00telemark-leaf-v1\x00"

// Hash returns the leaf hash:
//
//	SHA-256( 00 | "telemark-leaf-v1" 00 | signal 1 | tolerances 1
//	       | length of stream 1 | stream | block number 8 | items 8
//	       | key list digest 32, with Enrich only | block digest 32 )
//
// The first 00 is the prefix of a leaf in RFC 9162 §2.1.1, the rest its entry.
func (l *Leaf) Hash() block.Digest {
	var space [len(leafDomain) + 3 + 255 + 16 + 64]byte
	b := append(space[:0], leafDomain...)
	b = append(b, byte(l.Signal), byte(l.Tolerances), byte(len(l.Stream)))
	b = append(b, l.Stream...)
	b = binary.BigEndian.AppendUint64(b, l.BlockNo)
	b = binary.BigEndian.AppendUint64(b, l.Items)
	if l.Keys != nil {
		b = append(b, l.Keys[:]...)
	}
	b = append(b, l.Digest[:]...)
	return sha256.Sum256(b)
}

const keysDomain = "telemark-keys-v1\x00"

// KeyListDigest returns what a leaf binds of the signer's resource keys:
//
//	SHA-256( "telemark-keys-v1" 00 | for each key: varint length | key )
func KeyListDigest(keys []string) block.Digest {
	n := len(keysDomain)
	for _, k := range keys {
		n += binary.MaxVarintLen32 + len(k)
	}
	b := append(make([]byte, 0, n), keysDomain...)
	for _, k := range keys {
		b = binary.AppendUvarint(b, uint64(len(k)))
		b = append(b, k...)
	}
	return sha256.Sum256(b)
}

// CheckKeys says whether a key list fits into a receipt.
func CheckKeys(keys []string) error {
	if len(keys) > MaxKeys {
		return fmt.Errorf("%d resource keys, a receipt holds at most %d", len(keys), MaxKeys)
	}
	if n := keysSize(keys); n > MaxKeysSize {
		return fmt.Errorf("resource keys take %d bytes, a receipt holds at most %d", n, MaxKeysSize)
	}
	for i, k := range keys {
		if !utf8.ValidString(k) {
			return fmt.Errorf("resource key %d is not UTF-8", i)
		}
	}
	return nil
}

const ueidDomain = "telemark-ueid-v1\x00"

// UEID returns the EAT UEID (RFC 9711 §4.2.1, label 256) of a key in a
// deployment, so that one machine has unlinkable ids in two deployments:
//
//	01 | SHA-256( "telemark-ueid-v1" 00 | length 8 | deployment | length 8 | kid )
func UEID(deployment string, kid []byte) []byte {
	b := append([]byte(nil), ueidDomain...)
	b = binary.BigEndian.AppendUint64(b, uint64(len(deployment)))
	b = append(b, deployment...)
	b = binary.BigEndian.AppendUint64(b, uint64(len(kid)))
	b = append(b, kid...)
	sum := sha256.Sum256(b)
	return append([]byte{1}, sum[:]...)
}
