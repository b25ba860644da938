// Package idkey opens the Ed25519 keys of operators and owners: from files in
// PKCS#8 (RFC 5958, PEM), OpenSSH's format (PROTOCOL.key) or as the 32 bytes of
// the seed in hexadecimal, and from an ssh-agent
// (draft-ietf-sshm-ssh-agent), whose signatures for ssh-ed25519 are plain Ed25519
// over the message (RFC 8709).
//
// It leaves out encrypted PKCS#8, keys in security chips (sk-ssh-ed25519 signs
// something else than the message) and certificates.
package idkey

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/ssh"

	"github.com/telemark-otel/telemark/internal/tpm/private"
)

const maxKeyFile = 16 << 10

// Source says where a key is. Exactly one of File and Agent is given.
type Source struct {
	File string
	// Agent names a key in the ssh-agent: its fingerprint (SHA256:…) or comment.
	Agent  string
	Socket string // of the agent
	// Passphrase is asked for where a file needs one.
	Passphrase func() ([]byte, error)
}

// Key signs as crypto.Signer says for Ed25519. Close it.
type Key struct {
	crypto.Signer
	// File is where it was read from, in a format that OpenSSH reads; empty
	// otherwise.
	File string

	close io.Closer
}

// Public returns the key's public half.
func (k *Key) Public() crypto.PublicKey { return k.Signer.Public() }

// Bytes returns it as bytes.
func (k *Key) Bytes() ed25519.PublicKey {
	public, _ := k.Signer.Public().(ed25519.PublicKey) // Open opens no other
	return public
}

// Close ends the connection with the agent.
func (k *Key) Close() error {
	if k.close == nil {
		return nil
	}
	return k.close.Close()
}

// Open opens a key.
func Open(s Source) (*Key, error) {
	switch {
	case s.File != "" && s.Agent != "":
		return nil, errors.New("a key is in a file or in an agent, not in both")
	case s.File != "":
		return openFile(s)
	case s.Agent != "":
		return openAgent(s)
	default:
		return nil, errors.New("no key is named")
	}
}

func openFile(s Source) (*Key, error) {
	content, err := private.ReadSecret(s.File, maxKeyFile)
	if err != nil {
		return nil, err
	}
	defer clear(content)
	key, openssh, err := parse(content, s.Passphrase)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.File, err)
	}
	k := &Key{Signer: key}
	if openssh {
		k.File = s.File
	}
	return k, nil
}

var errKind = errors.New("it holds no Ed25519 key")

// parse finds out which format it is.
func parse(content []byte, passphrase func() ([]byte, error)) (key ed25519.PrivateKey, openssh bool, err error) {
	text := bytes.TrimSpace(content)
	if len(text) == 2*ed25519.SeedSize {
		seed := make([]byte, ed25519.SeedSize)
		if _, err := hex.Decode(seed, text); err == nil {
			return ed25519.NewKeyFromSeed(seed), false, nil
		}
	}
	block, rest := pem.Decode(text)
	if block == nil {
		return nil, false, errors.New("neither PEM nor 64 hexadecimal digits: want a key in PKCS#8 or OpenSSH's format, or the digits of a seed")
	}
	if len(bytes.TrimSpace(rest)) != 0 {
		return nil, false, errors.New("something follows the key; one key stands in a file")
	}
	switch block.Type {
	case "PRIVATE KEY":
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, false, fmt.Errorf("read PKCS#8: %w", err)
		}
		key, ok := parsed.(ed25519.PrivateKey)
		if !ok {
			return nil, false, fmt.Errorf("%w, but a %T", errKind, parsed)
		}
		return key, false, nil
	case "OPENSSH PRIVATE KEY":
		key, err := parseOpenSSH(text, passphrase)
		return key, true, err
	case "ENCRYPTED PRIVATE KEY":
		return nil, false, errors.New("encrypted PKCS#8 is not read: convert it to OpenSSH's format (ssh-keygen -p -f FILE), which knows passphrases too")
	default:
		return nil, false, fmt.Errorf("%w, but a %.32q", errKind, block.Type)
	}
}

func parseOpenSSH(text []byte, passphrase func() ([]byte, error)) (ed25519.PrivateKey, error) {
	parsed, err := ssh.ParseRawPrivateKey(text)
	if _, locked := errors.AsType[*ssh.PassphraseMissingError](err); locked {
		if passphrase == nil {
			return nil, errors.New("the key has a passphrase, and nobody to ask for it")
		}
		words, err := passphrase()
		if err != nil {
			return nil, fmt.Errorf("ask for the passphrase: %w", err)
		}
		defer clear(words)
		if parsed, err = ssh.ParseRawPrivateKeyWithPassphrase(text, words); err != nil {
			return nil, fmt.Errorf("open it with the passphrase: %w", err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("read OpenSSH's format: %w", err)
	}
	switch key := parsed.(type) {
	case *ed25519.PrivateKey:
		return *key, nil
	case ed25519.PrivateKey:
		return key, nil
	default:
		return nil, fmt.Errorf("%w, but a %T", errKind, parsed)
	}
}

// ParsePublic reads a public key: 64 hexadecimal digits, a line of OpenSSH's, or
// PEM.
func ParsePublic(content []byte) (ed25519.PublicKey, error) {
	text := bytes.TrimSpace(content)
	if len(text) == 2*ed25519.PublicKeySize {
		key := make([]byte, ed25519.PublicKeySize)
		if _, err := hex.Decode(key, text); err == nil {
			return key, nil
		}
	}
	if block, rest := pem.Decode(text); block != nil && block.Type == "PUBLIC KEY" && len(rest) == 0 {
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("read the public key: %w", err)
		}
		if key, ok := parsed.(ed25519.PublicKey); ok {
			return key, nil
		}
		return nil, errKind
	}
	line, _, _, rest, err := ssh.ParseAuthorizedKey(text)
	if err != nil || len(bytes.TrimSpace(rest)) != 0 {
		return nil, errors.New("want 64 hexadecimal digits, a line like \"ssh-ed25519 AAAA…\", or PEM")
	}
	if line, ok := line.(ssh.CryptoPublicKey); ok {
		if key, ok := line.CryptoPublicKey().(ed25519.PublicKey); ok {
			return key, nil
		}
	}
	return nil, errKind
}

// Line returns the public key as OpenSSH writes it, without a comment.
func Line(key ed25519.PublicKey) (line, fingerprint string, err error) {
	k, err := ssh.NewPublicKey(key)
	if err != nil {
		return "", "", err
	}
	return string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(k))), ssh.FingerprintSHA256(k), nil
}
