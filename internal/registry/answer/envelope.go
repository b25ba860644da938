package answer

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"

	"github.com/telemark-otel/telemark/internal/strictjson"
)

// keyID names a key: the first bytes of SHA-256 of its SubjectPublicKeyInfo.
type keyID [8]byte

func idOf(public ed25519.PublicKey) (keyID, []byte, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return keyID{}, nil, fmt.Errorf("encode the registry's public key: %w", err)
	}
	digest := sha256.Sum256(der)
	return keyID(digest[:8]), der, nil
}

// contentType is what keeps the kinds apart.
func contentType(kind Kind) string { return "application/telemark-" + string(kind) + "+json" }

// header is the protected header. It is all that an answer of this kind, by
// this key, can have.
func header(kind Kind, id keyID) cose.ProtectedHeader {
	return cose.ProtectedHeader{
		cose.HeaderLabelAlgorithm:   cose.AlgorithmEdDSA,
		cose.HeaderLabelContentType: contentType(kind),
		cose.HeaderLabelKeyID:       id[:],
	}
}

// Signer signs answers. It is safe for concurrent use.
type Signer struct {
	signer cose.Signer
	id     keyID
	public []byte // PEM
}

// NewSigner returns a Signer with this key.
func NewSigner(key ed25519.PrivateKey) (*Signer, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, errors.New("the registry's key is not an Ed25519 key")
	}
	public, _ := key.Public().(ed25519.PublicKey)
	id, der, err := idOf(public)
	if err != nil {
		return nil, err
	}
	signer, err := cose.NewSigner(cose.AlgorithmEdDSA, key)
	if err != nil {
		return nil, fmt.Errorf("use the registry's key: %w", err)
	}
	return &Signer{signer: signer, id: id, public: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})}, nil
}

// Public returns the key that verifies, as PEM of type PUBLIC KEY.
func (s *Signer) Public() []byte { return bytes.Clone(s.public) }

// Sign encodes and signs v, a struct of this kind.
func (s *Signer) Sign(kind Kind, v any) ([]byte, error) {
	payload, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode the %s: %w", kind, err)
	}
	m := cose.Sign1Message{Headers: cose.Headers{Protected: header(kind, s.id)}, Payload: payload}
	if err := m.Sign(rand.Reader, nil, s.signer); err != nil {
		return nil, fmt.Errorf("sign the %s: %w", kind, err)
	}
	encoded, err := m.MarshalCBOR()
	if err != nil {
		return nil, fmt.Errorf("encode the %s: %w", kind, err)
	}
	if len(encoded) > MaxSize {
		return nil, fmt.Errorf("the %s has %d bytes, more than the %d that are read", kind, len(encoded), MaxSize)
	}
	return encoded, nil
}

// Verifier checks answers against pinned keys. It is immutable.
type Verifier struct {
	keys map[keyID]cose.Verifier
}

// NewVerifier reads pinned keys: one or more PEM blocks of type PUBLIC KEY, and
// nothing else but white space.
func NewVerifier(pinned []byte) (*Verifier, error) {
	v := &Verifier{keys: map[keyID]cose.Verifier{}}
	for rest := bytes.TrimSpace(pinned); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		if !bytes.HasPrefix(rest, []byte("-----BEGIN ")) {
			return nil, errors.New("a pinned key is PEM of type PUBLIC KEY, and there is something else; `registryd key show` prints it")
		}
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "PUBLIC KEY" {
			return nil, errors.New("a pinned key is PEM of type PUBLIC KEY; `registryd key show` prints it")
		}
		if err := v.add(block.Bytes); err != nil {
			return nil, err
		}
	}
	if len(v.keys) == 0 {
		return nil, errors.New("there is no pinned key; `registryd key show` prints it")
	}
	return v, nil
}

func (v *Verifier) add(der []byte) error {
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return fmt.Errorf("read a pinned key: %w", err)
	}
	public, ok := parsed.(ed25519.PublicKey)
	if !ok {
		return fmt.Errorf("a pinned key is %T, a registry has an Ed25519 key", parsed)
	}
	id, _, err := idOf(public)
	if err != nil {
		return err
	}
	v.keys[id], err = cose.NewVerifier(cose.AlgorithmEdDSA, public)
	if err != nil {
		return fmt.Errorf("use a pinned key: %w", err)
	}
	return nil
}

// envelope is the answer as it stands in CBOR.
type envelope struct {
	_           struct{} `cbor:",toarray"`
	Protected   []byte
	Unprotected struct{}
	Payload     []byte
	Signature   []byte
}

var decMode = must(cbor.DecOptions{
	DupMapKey:         cbor.DupMapKeyEnforcedAPF,
	IndefLength:       cbor.IndefLengthForbidden,
	ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
	MaxNestedLevels:   4,
}.DecMode())

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Open checks an answer and decodes it into a pointer to the struct of this
// kind. Nonce, revision and time are for the caller to judge.
func (v *Verifier) Open(kind Kind, encoded []byte, into any) error {
	if len(encoded) > MaxSize {
		return fmt.Errorf("%w: it has more than %d bytes", ErrMalformed, MaxSize)
	}
	var (
		tag cbor.RawTag
		e   envelope
	)
	if err := decMode.Unmarshal(encoded, &tag); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if tag.Number != cose.CBORTagSign1Message {
		return fmt.Errorf("%w: it is no COSE_Sign1", ErrMalformed)
	}
	if err := decMode.Unmarshal(tag.Content, &e); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	verifier, id, err := v.whose(kind, e.Protected)
	if err != nil {
		return err
	}
	m := cose.Sign1Message{Headers: cose.Headers{Protected: header(kind, id)}, Payload: e.Payload, Signature: e.Signature}
	if again, err := m.MarshalCBOR(); err != nil || !bytes.Equal(again, encoded) {
		return fmt.Errorf("%w: it is not in deterministic encoding", ErrMalformed)
	}
	if err := m.Verify(nil, verifier); err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	if err := strictjson.Unmarshal(e.Payload, into); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return nil
}

// whose finds the pinned key whose header of this kind these bytes are.
func (v *Verifier) whose(kind Kind, protected []byte) (cose.Verifier, keyID, error) {
	var h struct {
		Algorithm   int64  `cbor:"1,keyasint"`
		ContentType string `cbor:"3,keyasint"`
		KeyID       []byte `cbor:"4,keyasint"`
	}
	if err := decMode.Unmarshal(protected, &h); err != nil {
		return nil, keyID{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if h.ContentType != contentType(kind) {
		return nil, keyID{}, fmt.Errorf("%w: %.64q where a %s was asked for", ErrKind, h.ContentType, kind)
	}
	if len(h.KeyID) != len(keyID{}) {
		return nil, keyID{}, fmt.Errorf("%w: its key id has %d bytes", ErrMalformed, len(h.KeyID))
	}
	id := keyID(h.KeyID)
	verifier, ok := v.keys[id]
	if !ok {
		return nil, keyID{}, fmt.Errorf("%w (id %x)", ErrUnknownKey, id)
	}
	return verifier, id, nil
}

// PeekAuditHead reads the end of an audit log without checking who signed it:
// to know how far to read, never to trust it.
func PeekAuditHead(encoded []byte) (*AuditHead, error) {
	var m cose.Sign1Message
	if len(encoded) > MaxSize {
		return nil, fmt.Errorf("%w: it has more than %d bytes", ErrMalformed, MaxSize)
	}
	if err := m.UnmarshalCBOR(encoded); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	var head AuditHead
	if err := strictjson.Unmarshal(m.Payload, &head); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return &head, nil
}
