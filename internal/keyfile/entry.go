package keyfile

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/telemark-otel/telemark/internal/policy"
	"github.com/telemark-otel/telemark/internal/receipt"
	"github.com/telemark-otel/telemark/internal/verdict"
)

const (
	kidLen    = 34 // 000b, SHA-256
	maxName   = 256
	maxLabels = 64
)

// File is the whole file.
type File struct {
	Keys []Entry `json:"keys"`
	// Policies are demands on groups of keys.
	Policies []Policy `json:"policies,omitempty"`
	// Regions are areas that location policies may name, as GeoJSON, beside
	// those that the verifier was given.
	Regions map[string]json.RawMessage `json:"regions,omitempty"`
}

// Entry is one key. `telemark key show` prints it.
type Entry struct {
	KID       string `json:"kid"`                  // TPM Name in hexadecimal: 000b and 32 bytes
	Name      string `json:"name"`                 // of the machine
	Algorithm string `json:"alg"`                  // ES256, ES384 or PS256
	PublicKey string `json:"public_key"`           // PEM, PUBLIC KEY
	TPMPublic []byte `json:"tpm_public,omitempty"` // base64 of the TPMT_PUBLIC

	NotBefore *time.Time `json:"not_before,omitempty"` // RFC 3339
	NotAfter  *time.Time `json:"not_after,omitempty"`
	Revoked   string     `json:"revoked,omitempty"` // why; "superseded" keeps what was signed before not_after

	Labels map[string]string `json:"labels,omitempty"`

	// Evidence says how well it is known that the key is in a TPM: chain,
	// vouched or unproven_tpm. Absent it is vouched, since whoever writes a key
	// into a file vouches for it.
	Evidence string `json:"evidence,omitempty"`
	// RequireEvidence replaces the default when it is there: genuine refuses
	// what an unproven key signs, any lets it pass with that verdict.
	RequireEvidence string `json:"require_evidence,omitempty"`

	// Bind replaces the default bindings, as a whole, when it is there.
	Bind         map[string]string `json:"bind,omitempty"`
	BindRequired []string          `json:"bind_required,omitempty"`
	// Freshness replaces the default when it is there.
	Freshness string `json:"freshness,omitempty"`
	// Location replaces the default when it is there.
	Location *Location `json:"location,omitempty"`
}

// ParseEntry reads one key, as strictly as a whole file. What it does not say of
// its policy is taken from defaults.
func ParseEntry(content []byte, defaults *policy.Policy) (*verdict.Key, error) {
	if len(content) > MaxEntry {
		return nil, fmt.Errorf("a key has at most %d bytes", MaxEntry)
	}
	var e Entry
	if err := decodeStrictly(content, &e); err != nil {
		return nil, err
	}
	return e.key(defaults, nil)
}

// CheckPolicy judges what the entry says of its policy, and nothing else of it.
// Which regions there are, only a verifier knows.
func (e *Entry) CheckPolicy() error {
	d := e.own()
	_, err := d.over(&policy.Policy{Regions: policy.AnyRegions()})
	return err
}

func (e *Entry) key(defaults *policy.Policy, groups *groups) (*verdict.Key, error) {
	kid, err := hex.DecodeString(e.KID)
	if err != nil || len(kid) != kidLen || kid[0] != 0x00 || kid[1] != 0x0b {
		return nil, errors.New(`"kid" is not a TPM Name: 000b and 64 hexadecimal digits, as "telemark key show" prints it`)
	}
	if e.Name == "" || len(e.Name) > maxName {
		return nil, fmt.Errorf(`"name" needs 1 to %d bytes, it is what the machine is called`, maxName)
	}
	if len(e.Labels) > maxLabels {
		return nil, fmt.Errorf(`"labels" holds %d labels, at most %d are allowed`, len(e.Labels), maxLabels)
	}
	k := &verdict.Key{KID: string(kid), Name: e.Name, Labels: e.Labels, Revoked: e.Revoked}
	k.Evidence = policy.Vouched
	if e.Evidence != "" {
		if k.Evidence, err = policy.ParseEvidence(e.Evidence); err != nil {
			return nil, err
		}
	}
	if err := e.publicKey(k); err != nil {
		return nil, err
	}
	if err := e.validity(k); err != nil {
		return nil, err
	}
	if k.Policy, err = e.policy(defaults, groups); err != nil {
		return nil, err
	}
	return k, nil
}

func (e *Entry) publicKey(k *verdict.Key) error {
	if e.Algorithm == "" {
		return errors.New(`there is no "alg", take ES256 for a key on P-256`)
	}
	var err error
	if k.Algorithm, err = receipt.ParseAlgorithm(e.Algorithm); err != nil {
		return fmt.Errorf(`"alg" is %.32q, want ES256, ES384 or PS256`, e.Algorithm)
	}
	block, rest := pem.Decode([]byte(e.PublicKey))
	if block == nil || block.Type != "PUBLIC KEY" {
		return errors.New(`"public_key" is not PEM of type PUBLIC KEY, as "openssl pkey -pubout" writes it`)
	}
	if len(rest) > 0 {
		return errors.New(`"public_key" goes on behind the first PEM block, only one key may stand there`)
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return fmt.Errorf(`"public_key" cannot be read: %w`, err)
	}
	if err := k.Algorithm.Takes(public); err != nil {
		return fmt.Errorf(`"public_key" is not one of %s: %w`, e.Algorithm, err)
	}
	k.Public = public
	if len(e.TPMPublic) == 0 {
		return nil
	}
	return checkTPMPublic(e.TPMPublic, []byte(k.KID), public)
}

func (e *Entry) validity(k *verdict.Key) error {
	if e.NotBefore != nil {
		k.NotBefore = *e.NotBefore
	}
	if e.NotAfter != nil {
		k.NotAfter = *e.NotAfter
	}
	if !k.NotAfter.IsZero() && !k.NotAfter.After(k.NotBefore) {
		return fmt.Errorf(`"not_after" (%s) is not after "not_before" (%s)`, k.NotAfter.Format(time.RFC3339), k.NotBefore.Format(time.RFC3339))
	}
	if k.Revoked == verdict.Superseded && k.NotAfter.IsZero() {
		return errors.New(`"revoked" is "superseded" and there is no "not_after": say until when the key was used, or give another reason`)
	}
	return nil
}
