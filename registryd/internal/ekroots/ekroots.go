// Package ekroots reads a directory of TPM vendors' certificates, as PEM or DER:
// self-signed ones are roots, the others intermediates, which lead to a root or
// to nothing. Names that begin with a dot are left alone, subdirectories are
// read (vendors ship trees), symbolic links to files are followed. What it
// leaves out: revocation lists, which most vendors do not publish.
package ekroots

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Bounds of a directory.
const (
	maxFiles = 10_000
	maxFile  = 4 << 20
)

// Set is what a directory holds.
type Set struct {
	Roots, Intermediates       *x509.CertPool
	NumRoots, NumIntermediates int
	hash                       [sha256.Size]byte
	seen                       map[[sha256.Size]byte]bool
}

// Same reports whether both sets were read from the same files.
func (s *Set) Same(other *Set) bool { return other != nil && s.hash == other.hash }

// Load reads dir; "" is the empty set. A file that holds no certificate is an
// error that names it: a root that is silently missing is worse.
func Load(dir string) (*Set, error) {
	s := &Set{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), seen: map[[sha256.Size]byte]bool{}}
	if dir == "" {
		return s, nil
	}
	all, files := sha256.New(), 0
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if strings.HasPrefix(d.Name(), ".") && name != dir {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := os.Stat(name)
		if err != nil || info.IsDir() {
			return err
		}
		if files++; files > maxFiles {
			return fmt.Errorf("there are more than %d files", maxFiles)
		}
		if !info.Mode().IsRegular() || info.Size() > maxFile {
			return fmt.Errorf("%s is not a certificate file", name)
		}
		content, err := os.ReadFile(name) //nolint:gosec // whoever changes the directory decides who is trusted anyway
		if err != nil {
			return err
		}
		sum := sha256.Sum256(content)
		all.Write([]byte(name + "\x00"))
		all.Write(sum[:])
		if err := s.add(content); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read EK roots: %w", err)
	}
	if s.NumRoots == 0 {
		return nil, fmt.Errorf("read EK roots: %s holds no self-signed certificate, so that no EK certificate could be trusted", dir)
	}
	s.hash = [sha256.Size]byte(all.Sum(nil))
	return s, nil
}

func (s *Set) add(content []byte) error {
	if !bytes.Contains(content, []byte("-----BEGIN ")) {
		return s.addDER(content)
	}
	found := false
	for rest := content; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("holds a PEM block of type %.32q; only certificates belong here", block.Type)
		}
		if err := s.addDER(block.Bytes); err != nil {
			return err
		}
		found = true
	}
	if !found {
		return errors.New("holds no certificate")
	}
	return nil
}

func (s *Set) addDER(der []byte) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("not a certificate: %w", err)
	}
	sum := sha256.Sum256(cert.Raw)
	if s.seen[sum] {
		return nil
	}
	s.seen[sum] = true
	if bytes.Equal(cert.RawIssuer, cert.RawSubject) && cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil {
		s.Roots.AddCert(cert)
		s.NumRoots++
		return nil
	}
	s.Intermediates.AddCert(cert)
	s.NumIntermediates++
	return nil
}
