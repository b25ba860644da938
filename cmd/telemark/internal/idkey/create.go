package idkey

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"
)

// Format of a key's file.
type Format string

// The formats.
const (
	OpenSSH Format = "openssh"
	PKCS8   Format = "pkcs8"
)

// Create makes a key and writes it into a new file of mode 0600. A passphrase is
// for OpenSSH only; empty: none.
func Create(path string, f Format, comment string, passphrase []byte) (ed25519.PublicKey, error) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := encode(key, f, comment, passphrase)
	if err != nil {
		return nil, err
	}
	return public, write(path, pem.EncodeToMemory(block))
}

func encode(key ed25519.PrivateKey, f Format, comment string, passphrase []byte) (*pem.Block, error) {
	switch {
	case f == OpenSSH && len(passphrase) != 0:
		return ssh.MarshalPrivateKeyWithPassphrase(key, comment, passphrase)
	case f == OpenSSH:
		return ssh.MarshalPrivateKey(key, comment)
	case f == PKCS8 && len(passphrase) != 0:
		return nil, errors.New("a passphrase goes with OpenSSH's format only")
	case f == PKCS8:
		der, err := x509.MarshalPKCS8PrivateKey(key)
		return &pem.Block{Type: "PRIVATE KEY", Bytes: der}, err
	default:
		return nil, fmt.Errorf("format %.32q: want openssh or pkcs8", f)
	}
}

// write never replaces a file: the key that it holds may be the only one that
// opens something.
func write(path string, content []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(path)
		}
	}()
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
