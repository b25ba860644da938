package tpm

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/telemark-otel/telemark/internal/tpm/private"
)

// A key's directory, mode 0700, holds:
//
//	lock              locked while a Key is open
//	signing-key.json  the record below; written once, before the key is used
//	key.json          {"keys": [KeyInfo]}, derived from the record, for people
const (
	lockFile   = "lock"
	recordFile = "signing-key.json"
	infoFile   = "key.json"
)

// Versions of the record. Who knows only the first refuses the second, which
// has a member more.
const (
	recordVersion   = 1 // a key that was made here, child of the storage root key
	importedVersion = 2 // a key that was made by others
)

const maxFileSize = 64 << 10

// record is what the signing key is loaded from. Private is wrapped by the
// key's parent and Auth is of no use without the TPM, but whoever can use this TPM
// and reads Auth can sign.
type record struct {
	Version       int         `json:"version"`
	Public        []byte      `json:"public"`         // TPMT_PUBLIC of the signing key
	Private       []byte      `json:"private"`        // TPM2B_PRIVATE, without its size; null for an adopted key
	Auth          []byte      `json:"auth"`           // no zero bytes; empty only in version 2
	StoragePublic []byte      `json:"storage_public"` // TPMT_PUBLIC of the storage root key, pinned
	Name          string      `json:"name,omitempty"` // of the machine, as in key.json
	From          *provenance `json:"from,omitempty"` // version 2

	// From Public.
	key *object
	pub crypto.PublicKey
	alg Algorithm
}

// readRecord returns nil when dir is new.
func readRecord(dir string) (*record, error) {
	b, err := private.ReadSecret(filepath.Join(dir, recordFile), maxFileSize)
	if errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(dir, infoFile)); err == nil {
			return nil, fmt.Errorf("%w: %s has %s but not %s; restore it, or empty the directory for a new key", ErrKeyDamaged, dir, infoFile, recordFile)
		}
		return nil, nil //nolint:nilnil // a new directory is no error
	}
	if err != nil {
		return nil, err
	}
	var r record
	if err := decodeStrictly(b, &r); err != nil {
		return nil, damaged(dir, recordFile, err)
	}
	if err := r.derive(); err != nil {
		return nil, damaged(dir, recordFile, err)
	}
	return &r, nil
}

func damaged(dir, file string, err error) error {
	return fmt.Errorf("%w: %s: %w", ErrKeyDamaged, filepath.Join(dir, file), err)
}

func decodeStrictly(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON value")
	}
	return nil
}

// derive checks the record and fills in what follows from it.
func (r *record) derive() error {
	if err := checkAuth("signing key's", r.Auth); err != nil {
		return err
	}
	if err := r.parse(); err != nil {
		return err
	}
	if _, err := parseObject(r.StoragePublic); err != nil {
		return err
	}
	switch {
	case r.Version == recordVersion && r.From == nil:
		if len(r.Private) == 0 || len(r.Auth) == 0 {
			return errors.New("private area or auth value is missing")
		}
		if !r.key.madeBy(r.alg.signingTemplate()) {
			return errors.New("the public area is not that of a signing key that was made here")
		}
		return nil
	case r.Version == importedVersion && r.From != nil:
		return r.From.check(r.Private)
	default:
		return fmt.Errorf("version %d is not known, want %d, or %d with the member from", r.Version, recordVersion, importedVersion)
	}
}

// parse reads the public area, which is that of a key that can sign telemetry.
func (r *record) parse() (err error) {
	if r.key, err = parseObject(r.Public); err != nil {
		return err
	}
	if r.alg, err = r.key.signsWith(); err != nil {
		return fmt.Errorf("the public area is not that of a signing key: %w", err)
	}
	r.pub, err = publicKey(&r.key.public)
	return err
}

// KeyInfo is one entry of a keys.file: what a verifier has to know of a key.
type KeyInfo struct {
	KID       string `json:"kid"` // TPM Name of the key, hex
	Name      string `json:"name,omitempty"`
	Alg       string `json:"alg"`        // ES256, ES384 or PS256
	PublicKey string `json:"public_key"` // PEM
	TPMPublic []byte `json:"tpm_public"` // TPMT_PUBLIC, whose digest is in KID
}

type infoDocument struct {
	Keys []KeyInfo `json:"keys"`
}

// info makes the public description of the record's key.
func (r *record) info() (KeyInfo, error) {
	der, err := x509.MarshalPKIXPublicKey(r.pub)
	if err != nil {
		return KeyInfo{}, err
	}
	return KeyInfo{
		KID:       hex.EncodeToString(r.key.name.Buffer),
		Name:      r.Name,
		Alg:       string(r.alg),
		PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		TPMPublic: r.Public,
	}, nil
}

// write makes the record durable, and then key.json.
func (r *record) write(dir string) error {
	if err := writeJSON(filepath.Join(dir, recordFile), r); err != nil {
		return err
	}
	return r.writeInfo(dir)
}

// writeInfo writes key.json when it is not what it should be: it may have been
// lost in a crash, or edited.
func (r *record) writeInfo(dir string) error {
	info, err := r.info()
	if err != nil {
		return err
	}
	if have, err := ReadKeyInfo(dir); err == nil && have.KID == info.KID && have.Name == info.Name {
		return nil
	}
	return writeJSON(filepath.Join(dir, infoFile), infoDocument{Keys: []KeyInfo{info}})
}

func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return private.WriteFile(path, append(b, '\n'))
}

// ReadKeyInfo reads the public part of a key's directory, and checks that kid
// and public key are those of the TPM's public area. It needs no TPM and reads
// no secret. For a directory that holds no key yet, or is not there, the error is fs.ErrNotExist.
func ReadKeyInfo(dir string) (KeyInfo, error) {
	path := filepath.Join(dir, infoFile)
	f, err := os.Open(path)
	if err != nil {
		if _, there := os.Stat(filepath.Join(dir, recordFile)); there == nil && errors.Is(err, os.ErrNotExist) {
			return KeyInfo{}, damaged(dir, infoFile, errors.New("it is missing, and is written again when the key is opened"))
		}
		return KeyInfo{}, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxFileSize))
	if err != nil {
		return KeyInfo{}, err
	}
	var doc infoDocument
	if err := decodeStrictly(b, &doc); err != nil {
		return KeyInfo{}, damaged(dir, infoFile, err)
	}
	if len(doc.Keys) != 1 {
		return KeyInfo{}, damaged(dir, infoFile, fmt.Errorf("%d keys, want 1", len(doc.Keys)))
	}
	have := doc.Keys[0]
	r := record{Public: have.TPMPublic, Name: have.Name}
	if err := r.parse(); err != nil {
		return KeyInfo{}, damaged(dir, infoFile, err)
	}
	want, err := r.info()
	if err != nil {
		return KeyInfo{}, err
	}
	if have.KID != want.KID || have.Alg != want.Alg || have.PublicKey != want.PublicKey {
		return KeyInfo{}, damaged(dir, infoFile, errors.New("kid, alg or public_key are not those of tpm_public"))
	}
	return have, nil
}
