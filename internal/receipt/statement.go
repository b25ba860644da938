package receipt

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
)

// Statement is what the TPM signs, but for the root.
type Statement struct {
	Algorithm Algorithm
	KID       []byte // TPM Name: 000b and 32 bytes
	Audience  string // 1 to MaxAudience bytes
	IssuedAt  int64  // Unix seconds, the agent's word
	Nonce     []byte // empty = absent (freshness "sequence")
	UEID      []byte // 33 bytes, see the function UEID
	Location  *Location
	Epoch     uint64       // 1 to MaxCounter
	Seq       uint64       // 1 to MaxCounter, group number in the epoch
	Size      uint64       // 1 to MaxTreeSize, leaves
	Prev      block.Digest // StatementHash of the statement before, zero when there is none
}

// Location is the EAT location claim (RFC 9711 §4.2.10); its Source stands in
// the claim "src", 1 to MaxSource bytes of printable ASCII.
type Location = block.Location

// Shapes of the protected header for the CBOR library. Everything is a
// pointer, so that what is absent differs from what is zero.
//
//	{ 1: alg, 4: kid, 15: claims, 395: 1 }
type protectedHeader struct {
	Alg    *int64           `cbor:"1,keyasint"`
	KID    *cbor.ByteString `cbor:"4,keyasint"`
	Claims *claimsSet       `cbor:"15,keyasint"`
	VDS    *int64           `cbor:"395,keyasint"`
}

// { 3: aud, 6: iat, ?10: nonce, 256: ueid, ?264: location, 265: profile,
//
//	"seq": n, ?"src": source, "prev": hash, "size": n, "epoch": n }
type claimsSet struct {
	Audience *string          `cbor:"3,keyasint"`
	IssuedAt *int64           `cbor:"6,keyasint"`
	Nonce    *cbor.ByteString `cbor:"10,keyasint,omitempty"`
	UEID     *cbor.ByteString `cbor:"256,keyasint"`
	Location *locationClaim   `cbor:"264,keyasint,omitempty"`
	Profile  *string          `cbor:"265,keyasint"`
	Seq      *uint64          `cbor:"seq"`
	Source   *string          `cbor:"src,omitempty"`
	Prev     *cbor.ByteString `cbor:"prev"`
	Size     *uint64          `cbor:"size"`
	Epoch    *uint64          `cbor:"epoch"`
}

// { 1: latitude, 2: longitude, ?3: altitude, ?4: accuracy, ?8: timestamp, ?9: age }
type locationClaim struct {
	Latitude  *float64 `cbor:"1,keyasint"`
	Longitude *float64 `cbor:"2,keyasint"`
	Altitude  *float64 `cbor:"3,keyasint,omitempty"`
	Accuracy  *float64 `cbor:"4,keyasint,omitempty"`
	Timestamp *int64   `cbor:"8,keyasint,omitempty"`
	Age       *int64   `cbor:"9,keyasint,omitempty"`
}

const (
	vdsRFC9162  = 1
	maxUnixTime = 253402300799 // the last second of the year 9999
	minNonce    = 8            // RFC 9711 §4.1; package nonce asks for more
	maxNonce    = 64
)

// EncodeProtected returns the protected header bytes, deterministic CBOR. The
// error names what is out of bounds.
func (s *Statement) EncodeProtected() ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("statement cannot be encoded: %w", err)
	}
	b, err := encMode.Marshal(s.header())
	if err != nil {
		return nil, fmt.Errorf("encode the protected header: %w", err)
	}
	return b, nil
}

func (s *Statement) header() *protectedHeader {
	c := &claimsSet{
		Audience: &s.Audience, IssuedAt: &s.IssuedAt, UEID: bstr(s.UEID), Profile: new(string),
		Seq: &s.Seq, Prev: bstr(s.Prev[:]), Size: &s.Size, Epoch: &s.Epoch,
	}
	*c.Profile = algorithms[s.Algorithm].profile
	if len(s.Nonce) > 0 {
		c.Nonce = bstr(s.Nonce)
	}
	if l := s.Location; l != nil {
		c.Location = &locationClaim{
			Latitude: &l.Latitude, Longitude: &l.Longitude,
			Altitude: l.Altitude, Accuracy: l.Accuracy, Timestamp: l.Timestamp, Age: l.Age,
		}
		c.Source = &l.Source
	}
	alg, vds := int64(s.Algorithm), int64(vdsRFC9162)
	return &protectedHeader{Alg: &alg, KID: bstr(s.KID), Claims: c, VDS: &vds}
}

func bstr(b []byte) *cbor.ByteString {
	s := cbor.ByteString(b)
	return &s
}

// decodeStatement reads protected header bytes: well-formed CBOR, this profile,
// exactly its labels, deterministic, values within their bounds.
func decodeStatement(b []byte) (*Statement, error) {
	var h protectedHeader
	if err := strict.Unmarshal(b, &h); err != nil {
		// Another profile may have other labels, so its name counts first.
		if p, ok := profileOf(b); ok && !knownProfile(p) {
			return nil, reason.New(reason.ProfileUnknown, "%.64q", p)
		}
		return nil, refuseCBOR("protected header", err)
	}
	c := h.Claims
	if c != nil && c.Profile != nil && !knownProfile(*c.Profile) {
		return nil, reason.New(reason.ProfileUnknown, "%.64q", *c.Profile)
	}
	if !h.complete() {
		return nil, reason.New(reason.ReceiptLabels, "a label of the protected header is missing")
	}
	if again, err := encMode.Marshal(&h); err != nil || !bytes.Equal(again, b) {
		return nil, reason.New(reason.ReceiptNotDeterministic, "protected header")
	}
	if *h.VDS != vdsRFC9162 {
		return nil, reason.New(reason.AlgorithmUnknown, "tree algorithm %d", *h.VDS)
	}
	if row, ok := algorithms[Algorithm(*h.Alg)]; !ok || row.profile != *c.Profile {
		return nil, reason.New(reason.AlgorithmUnknown, "COSE algorithm %d in the profile %q", *h.Alg, *c.Profile)
	}
	if len(*c.Prev) != len(block.Digest{}) {
		return nil, reason.New(reason.ReceiptMalformed, "prev has %d bytes", len(*c.Prev))
	}
	if c.Nonce != nil && len(*c.Nonce) == 0 {
		return nil, reason.New(reason.NonceMalformed, "empty")
	}
	s := &Statement{
		Algorithm: Algorithm(*h.Alg), KID: h.KID.Bytes(),
		Audience: *c.Audience, IssuedAt: *c.IssuedAt, UEID: c.UEID.Bytes(),
		Epoch: *c.Epoch, Seq: *c.Seq, Size: *c.Size, Prev: block.Digest(c.Prev.Bytes()),
	}
	if c.Nonce != nil {
		s.Nonce = c.Nonce.Bytes()
	}
	if l := c.Location; l != nil {
		s.Location = &Location{
			Latitude: *l.Latitude, Longitude: *l.Longitude,
			Altitude: l.Altitude, Accuracy: l.Accuracy, Timestamp: l.Timestamp, Age: l.Age,
			Source: *c.Source,
		}
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	return s, nil
}

func knownProfile(p string) bool { return p == Profile || p == ProfileAgile }

// complete reports whether all labels are there; the decoder has refused those
// that do not belong. Location and its source come together.
func (h *protectedHeader) complete() bool {
	c := h.Claims
	if h.Alg == nil || h.KID == nil || c == nil || h.VDS == nil {
		return false
	}
	if c.Audience == nil || c.IssuedAt == nil || c.UEID == nil || c.Profile == nil ||
		c.Seq == nil || c.Prev == nil || c.Size == nil || c.Epoch == nil {
		return false
	}
	if (c.Location == nil) != (c.Source == nil) {
		return false
	}
	return c.Location == nil || c.Location.Latitude != nil && c.Location.Longitude != nil
}

// check holds the values to their bounds, in the order of the specification.
func (s *Statement) check() error {
	if _, ok := algorithms[s.Algorithm]; !ok {
		return reason.New(reason.AlgorithmUnknown, "COSE algorithm %d", s.Algorithm)
	}
	if n := len(s.Nonce); n != 0 && (n < minNonce || n > maxNonce) {
		return reason.New(reason.NonceMalformed, "%d bytes", n)
	}
	if err := s.checkValues(); err != nil {
		return reason.Wrap(reason.ReceiptMalformed, err)
	}
	return nil
}

func (s *Statement) checkValues() error {
	switch {
	case len(s.KID) != kidSize || s.KID[0] != 0x00 || s.KID[1] != 0x0b:
		return fmt.Errorf("kid of %d bytes is not a TPM Name with SHA-256", len(s.KID))
	case s.Audience == "" || len(s.Audience) > MaxAudience || !utf8.ValidString(s.Audience):
		return fmt.Errorf("audience of %d bytes, want 1 to %d of UTF-8", len(s.Audience), MaxAudience)
	case s.IssuedAt < 0 || s.IssuedAt > maxUnixTime:
		return fmt.Errorf("iat %d is no time", s.IssuedAt)
	case len(s.UEID) != ueidSize || s.UEID[0] != 1:
		return fmt.Errorf("ueid of %d bytes, want 33 of type 01", len(s.UEID))
	case s.Epoch == 0 || s.Epoch > MaxCounter:
		return fmt.Errorf("epoch %d", s.Epoch)
	case s.Seq == 0 || s.Seq > MaxCounter:
		return fmt.Errorf("seq %d", s.Seq)
	case s.Size == 0 || s.Size > MaxTreeSize:
		return fmt.Errorf("size %d, want 1 to %d", s.Size, MaxTreeSize)
	case s.Location != nil:
		return checkLocation(s.Location)
	}
	return nil
}

func checkLocation(l *Location) error {
	switch {
	case !(math.Abs(l.Latitude) <= 90) || !(math.Abs(l.Longitude) <= 180): // so that NaN is caught
		return errors.New("location is not on the globe")
	case l.Altitude != nil && !finite(*l.Altitude):
		return errors.New("altitude is not a number")
	case l.Accuracy != nil && (!finite(*l.Accuracy) || *l.Accuracy < 0):
		return errors.New("accuracy is not a distance")
	case l.Timestamp != nil && (*l.Timestamp < 0 || *l.Timestamp > maxUnixTime):
		return fmt.Errorf("location timestamp %d is no time", *l.Timestamp)
	case l.Age != nil && *l.Age < 0:
		return fmt.Errorf("location age %d is negative", *l.Age)
	case l.Source == "" || len(l.Source) > MaxSource:
		return fmt.Errorf("location source of %d bytes, want 1 to %d", len(l.Source), MaxSource)
	}
	for i := range len(l.Source) {
		if l.Source[i] < 0x21 || l.Source[i] > 0x7e {
			return errors.New("location source is not printable ASCII")
		}
	}
	return nil
}

func finite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }

const sigContext = "Signature1"

// SigStructure returns the COSE Sig_structure (RFC 9052 §4.4) whose hash is
// signed, with the root as the detached payload:
//
//	84 | 6a "Signature1" | bstr protected | 40 | 58 20 root
func SigStructure(protected []byte, root block.Digest) []byte {
	return AppendSigStructure(make([]byte, 0, MaxSigStructure-MaxProtected+len(protected)), protected, root)
}

// MaxSigStructure is the length of the longest Sig_structure of a receipt.
const MaxSigStructure = 1 + 1 + len(sigContext) + 3 + MaxProtected + 1 + 2 + len(block.Digest{})

// AppendSigStructure appends [SigStructure] to b.
func AppendSigStructure(b, protected []byte, root block.Digest) []byte {
	b = appendHead(b, majorArray, 4)
	b = appendText(b, sigContext)
	b = appendBytes(b, protected)
	b = appendBytes(b, nil)
	return appendBytes(b, root[:])
}

const prevDomain = "telemark-prev-v1\x00"

// StatementHash is the value that the next statement carries as prev:
//
//	SHA-256( "telemark-prev-v1" 00 | Sig_structure )
func StatementHash(sigStructure []byte) block.Digest {
	var space [len(prevDomain) + MaxSigStructure]byte
	b := append(space[:0], prevDomain...)
	return sha256.Sum256(append(b, sigStructure...))
}
