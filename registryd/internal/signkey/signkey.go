// Package signkey keeps the registry's signing key: Ed25519 (RFC 8032) as
// PKCS #8 (RFC 5958) in PEM, and beside it, as FILE.pub, the public half that
// verifiers pin. It leaves out encrypted keys and hardware tokens; the file's
// mode and its file system protect the key.
package signkey

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const maxFile = 16 << 10

// Load reads the key.
func Load(name string) (ed25519.PrivateKey, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("key file %s has mode %#o: others could sign as this registry; run chmod 600 on it, and replace the key if they may have read it",
			name, info.Mode().Perm())
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("key file %s is larger than %d bytes", name, maxFile)
	}
	content, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	block, rest := pem.Decode(content)
	if block == nil || block.Type != "PRIVATE KEY" || len(rest) > 0 {
		return nil, fmt.Errorf("key file %s: want one PEM block of type PRIVATE KEY, as `openssl genpkey -algorithm ed25519` writes it", name)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("key file %s: not a PKCS #8 key", name) // the cause could quote the key
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("key file %s: the key is not an Ed25519 key", name)
	}
	return key, nil
}

// LoadOrCreate reads the key, or makes it when the file is not there. It also
// writes the public half when that is missing. Of several processes that begin
// at once with one file, all get the same key.
func LoadOrCreate(name string) (key ed25519.PrivateKey, created bool, err error) {
	key, err = Load(name)
	if errors.Is(err, fs.ErrNotExist) {
		if created, err = create(name); err != nil {
			return nil, false, err
		}
		key, err = Load(name)
	}
	if err != nil {
		return nil, false, err
	}
	if _, err := os.Stat(name + ".pub"); errors.Is(err, fs.ErrNotExist) {
		pub, err := Public(key)
		if err != nil {
			return nil, false, err
		}
		if err := write(name+".pub", pub, 0o644, os.Rename); err != nil {
			return nil, false, err
		}
	}
	return key, created, nil
}

func create(name string) (bool, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return false, fmt.Errorf("make a signing key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return false, fmt.Errorf("make a signing key: %w", err)
	}
	// A link, unlike a rename, fails when somebody else was faster.
	err = write(name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600, os.Link)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	return err == nil, err
}

// write puts content in place under its name as a whole, durably.
func write(name string, content []byte, mode fs.FileMode, place func(from, to string) error) (err error) {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, ".key-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer os.Remove(f.Name()) //nolint:errcheck // gone after a rename
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := place(f.Name(), name); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// Public is the public half, as PEM of type PUBLIC KEY.
func Public(key ed25519.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("write the public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// Fingerprint names the key: SHA-256 of its SubjectPublicKeyInfo, in hexadecimal.
func Fingerprint(key ed25519.PrivateKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return "", fmt.Errorf("hash the public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// SealKey is what sessions and the keys of join tokens are encrypted with, the
// same on all replicas: HKDF-SHA-256 (RFC 5869) of the key's seed.
func SealKey(key ed25519.PrivateKey) ([]byte, error) {
	seal, err := hkdf.Key(sha256.New, key.Seed(), nil, "telemark-registry-seal-v1", 32)
	if err != nil {
		return nil, fmt.Errorf("derive the sealing key: %w", err)
	}
	return seal, nil
}
