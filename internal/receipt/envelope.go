package receipt

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
)

// The envelope, all of it but the key list of fixed shape:
//
//	d2 84                                    18([
//	   58 xx protected                         bstr .cbor protected header,
//	   a5 (a6 with "k")                        {
//	      19 018c  a1 20 81 58 xx proof          396: {-1: [bstr .cbor proof]},
//	      61 64  58 20 digest                    "d": block digest,
//	      61 69  items                           "i": uint,
//	     (61 6b  8x keys)                        "k": [key…],
//	      61 6e  block number                    "n": uint,
//	      61 73  stream                          "s": tstr },
//	   f6                                      null,
//	   58 40 r s                               signature ]): 58 60 with ES384, 59 0100 with PS256
//
//	proof = 83 tree_size leaf_index 8x (58 20 hash)…
const (
	labelProofs    = 396
	labelInclusion = -1

	prefix   = "\xd2\x84"
	nullByte = "\xf6"
)

// Encode returns the COSE_Sign1. Protected is encoded from Statement when nil.
// The error names what is out of bounds.
func (r *Receipt) Encode() ([]byte, error) {
	c := *r
	if c.Protected == nil {
		if c.Statement == nil {
			return nil, errors.New("receipt without statement")
		}
		var err error
		if c.Protected, err = c.Statement.EncodeProtected(); err != nil {
			return nil, err
		}
	}
	if c.Statement != nil && c.Statement.Size != c.TreeSize {
		return nil, fmt.Errorf("tree size %d, in the statement %d", c.TreeSize, c.Statement.Size)
	}
	return c.Append(make([]byte, 0, c.Size()))
}

// Append appends the COSE_Sign1 to dst without looking at Statement: Protected
// holds its bytes. It allocates nothing when dst has room for Size.
func (r *Receipt) Append(dst []byte) ([]byte, error) {
	if len(r.Protected) == 0 || len(r.Protected) > MaxProtected || !anySize(len(r.Signature)) {
		return dst, fmt.Errorf("receipt with %d bytes of protected header and %d of signature",
			len(r.Protected), len(r.Signature))
	}
	if r.TreeSize == 0 || r.TreeSize > MaxTreeSize {
		return dst, fmt.Errorf("receipt in a tree of %d", r.TreeSize)
	}
	if err := r.check(r.TreeSize); err != nil {
		return dst, fmt.Errorf("receipt cannot be encoded: %w", err)
	}
	return r.append(dst), nil
}

func (r *Receipt) append(b []byte) []byte {
	b = appendBytes(append(b, prefix...), r.Protected)
	pairs := uint64(5)
	if r.Keys != nil {
		pairs = 6
	}
	b = appendHead(b, majorMap, pairs)
	b = appendHead(b, majorUint, labelProofs)
	b = append(b, majorMap<<5|1, 0x20, majorArray<<5|1) // {-1: [
	b = appendHead(b, majorBytes, uint64(r.proofSize()))
	b = appendHead(b, majorArray, 3)
	b = appendHead(b, majorUint, r.TreeSize)
	b = appendHead(b, majorUint, r.LeafIndex)
	b = appendHead(b, majorArray, uint64(len(r.Path)))
	for i := range r.Path {
		b = appendBytes(b, r.Path[i][:])
	}
	b = appendBytes(appendText(b, "d"), r.Digest[:])
	b = appendHead(appendText(b, "i"), majorUint, r.Items)
	if r.Keys != nil {
		b = appendHead(appendText(b, "k"), majorArray, uint64(len(r.Keys)))
		for _, k := range r.Keys {
			b = appendText(b, k)
		}
	}
	b = appendHead(appendText(b, "n"), majorUint, r.BlockNo)
	b = appendText(appendText(b, "s"), r.Stream)
	return appendBytes(append(b, null), r.Signature)
}

// anySize says whether a signature of some algorithm has n bytes.
func anySize(n int) bool {
	return n == ES256.SignatureSize() || n == ES384.SignatureSize() || n == PS256.SignatureSize()
}

func (r *Receipt) proofSize() int {
	return 1 + headSize(r.TreeSize) + headSize(r.LeafIndex) +
		headSize(uint64(len(r.Path))) + len(r.Path)*(2+len(block.Digest{}))
}

// Size is the length of the encoded receipt.
func (r *Receipt) Size() int {
	proof := r.proofSize()
	n := len(prefix) + headSize(uint64(len(r.Protected))) + len(r.Protected) +
		1 + 3 + 3 + headSize(uint64(proof)) + proof + // map, 396, {-1: [proof]}
		2 + 2 + len(r.Digest) + // "d"
		2 + headSize(r.Items) + // "i"
		2 + headSize(r.BlockNo) + // "n"
		2 + headSize(uint64(len(r.Stream))) + len(r.Stream) + // "s"
		len(nullByte) + headSize(uint64(len(r.Signature))) + len(r.Signature)
	if r.Keys != nil {
		n += 2 + keysSize(r.Keys) // "k"
	}
	return n
}

func keysSize(keys []string) int {
	n := headSize(uint64(len(keys)))
	for _, k := range keys {
		n += headSize(uint64(len(k))) + len(k)
	}
	return n
}

// unprotectedHeader is the shape of the unprotected bucket for the CBOR library.
type unprotectedHeader struct {
	Proofs  proofs   `cbor:"396,keyasint"`
	Digest  hash     `cbor:"d"`
	Items   uint64   `cbor:"i"`
	Keys    []string `cbor:"k"`
	BlockNo uint64   `cbor:"n"`
	Stream  string   `cbor:"s"`
}

type proofs struct {
	Inclusion []alias `cbor:"-1,keyasint"`
}

type inclusion struct {
	_         struct{} `cbor:",toarray"`
	TreeSize  uint64
	LeafIndex uint64
	Path      []hash
}

// Decode is strict: what it accepts, Encode turns into the same bytes. Its
// errors are *reason.Error of the decode group, or nonce_malformed. Whoever
// decodes many takes a [Decoder].
func Decode(b []byte) (*Receipt, error) { return decode(b, decodeStatement) }

func decode(b []byte, statement func(protected []byte) (*Statement, error)) (*Receipt, error) {
	if len(b) > MaxSize {
		return nil, reason.New(reason.ReceiptTooLarge, "%d bytes", len(b))
	}
	if len(b) < len(prefix) || string(b[:len(prefix)]) != prefix {
		return nil, reframe(b)
	}
	protected, rest, ok := cutBytes(b[len(prefix):])
	if !ok {
		return nil, reframe(b)
	}
	if len(protected) > MaxProtected {
		return nil, reason.New(reason.ReceiptTooLarge, "protected header of %d bytes", len(protected))
	}
	unprotected := rest
	var h unprotectedHeader
	rest, err := strict.UnmarshalFirst(unprotected, &h)
	// A frame that is broken further on is no receipt, whatever stands in it.
	signature, framed := cutSignature(rest, protected)
	if err == nil && !framed {
		return nil, reframe(b)
	}
	if err != nil {
		if frame := reframe(b); reason.Of(frame) == reason.ReceiptMalformed {
			return nil, frame
		}
	}
	stmt, stmtErr := statement(protected)
	switch {
	case stmtErr != nil:
		return nil, stmtErr
	case err != nil:
		return nil, refuseCBOR("unprotected header", err)
	case len(signature) != stmt.Algorithm.SignatureSize():
		return nil, reason.New(reason.ReceiptMalformed, "a signature of %d bytes with %s", len(signature), stmt.Algorithm)
	}
	r := &Receipt{
		Protected: protected, Statement: stmt, Signature: signature,
		Stream: h.Stream, BlockNo: h.BlockNo, Digest: block.Digest(h.Digest), Items: h.Items,
		Keys: h.Keys,
	}
	if err := h.complete(unprotected[0]); err != nil {
		return nil, err
	}
	if err := r.decodeProof(h.Proofs.Inclusion); err != nil {
		return nil, err
	}
	if err := r.own(b); err != nil {
		return nil, err
	}
	return r, nil
}

// cutSignature cuts null and the signature, in their shortest forms, and says
// whether nothing follows and the length is possible in the receipt's profile.
func cutSignature(b, protected []byte) (signature []byte, ok bool) {
	if len(b) == 0 || b[0] != null {
		return nil, false
	}
	signature, rest, ok := cutBytes(b[1:])
	if !ok || len(rest) > 0 || len(b) != 1+headSize(uint64(len(signature)))+len(signature) {
		return nil, false
	}
	return signature, possible(protected, len(signature))
}

// complete reports missing labels: with unknown and repeated ones refused by
// the decoder, the number of pairs tells.
func (h *unprotectedHeader) complete(head byte) error {
	want := byte(5)
	if h.Keys != nil {
		want = 6
	}
	switch head {
	case majorMap<<5 | want:
		return nil
	case majorMap<<5 | 24, majorMap<<5 | 25, majorMap<<5 | 26, majorMap<<5 | 27:
		return reason.New(reason.ReceiptNotDeterministic, "unprotected header")
	default:
		return reason.New(reason.ReceiptLabels, "a label of the unprotected header is missing")
	}
}

func (r *Receipt) decodeProof(proofs []alias) error {
	if len(proofs) != 1 {
		return reason.New(reason.ProofCount, "%d inclusion proofs", len(proofs))
	}
	var p inclusion
	if err := strict.Unmarshal(proofs[0], &p); err != nil {
		if _, ok := errors.AsType[*cbor.IndefiniteLengthError](err); ok {
			return reason.New(reason.ReceiptNotDeterministic, "inclusion proof")
		}
		return reason.Wrap(reason.ProofMalformed, err)
	}
	r.TreeSize, r.LeafIndex = p.TreeSize, p.LeafIndex
	r.Path = make([]block.Digest, len(p.Path))
	for i := range p.Path {
		r.Path[i] = block.Digest(p.Path[i])
	}
	return nil
}

// own encodes r again, compares with what it was decoded from, judges its
// values and lets r keep the copy instead of the caller's bytes.
func (r *Receipt) own(b []byte) error {
	again := r.append(make([]byte, 0, len(b)))
	if !bytes.Equal(again, b) {
		return reason.New(reason.ReceiptNotDeterministic, "envelope")
	}
	if err := r.check(r.Statement.Size); err != nil {
		return err
	}
	start := len(prefix) + headSize(uint64(len(r.Protected)))
	r.Protected = again[start : start+len(r.Protected) : start+len(r.Protected)]
	r.Signature = again[len(again)-len(r.Signature):]
	return nil
}
