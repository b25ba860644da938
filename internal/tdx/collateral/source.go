package collateral

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tdx"
)

// Source gives collateral for a kind of platform. It verifies nothing. It ends
// when ctx does, and bounds what it reads. It is safe for concurrent use.
// fmspc has 12 lower-case hexadecimal digits; ca is platform or processor.
type Source interface {
	Get(ctx context.Context, fmspc, ca string) (*tdx.Collateral, error)
}

// Bounds of documents. Intel's have some ten kilobytes.
const (
	maxJSON  = 1 << 20
	maxCRL   = 4 << 20
	maxChain = 32 << 10
)

type platform struct{ fmspc, ca string }

// file is a document's place in a directory.
type file struct {
	name  string
	limit int64
	part  func(*tdx.Collateral) *[]byte
}

// files is the layout of a bundle and of the cache's directory:
//
//	tcbinfo-FMSPC.json  tcbinfo-FMSPC.pem   answer and issuer chain
//	qeidentity.json     qeidentity.pem
//	pckcrl-CA.der       pckcrl-CA.pem       CA is platform or processor
//	rootcrl.der
func (p platform) files() []file {
	return []file{
		{"tcbinfo-" + p.fmspc + ".json", maxJSON, func(c *tdx.Collateral) *[]byte { return &c.TCBInfo }},
		{"tcbinfo-" + p.fmspc + ".pem", maxChain, func(c *tdx.Collateral) *[]byte { return &c.TCBInfoChain }},
		{"qeidentity.json", maxJSON, func(c *tdx.Collateral) *[]byte { return &c.QEIdentity }},
		{"qeidentity.pem", maxChain, func(c *tdx.Collateral) *[]byte { return &c.QEIdentityChain }},
		{"pckcrl-" + p.ca + ".der", maxCRL, func(c *tdx.Collateral) *[]byte { return &c.PCKCRL }},
		{"pckcrl-" + p.ca + ".pem", maxChain, func(c *tdx.Collateral) *[]byte { return &c.PCKCRLChain }},
		{"rootcrl.der", maxCRL, func(c *tdx.Collateral) *[]byte { return &c.RootCRL }},
	}
}

// Bundle is a directory of collateral, for registries that reach no service.
// It is read again whenever the cache asks, so that files may be replaced.
type Bundle struct{ Dir string }

// Get implements Source.
func (b Bundle) Get(_ context.Context, fmspc, ca string) (*tdx.Collateral, error) {
	root, err := os.OpenRoot(b.Dir)
	if err != nil {
		return nil, &api.Error{Reason: api.CollateralUnavailable, Detail: "bundle directory", Err: err}
	}
	defer func() { _ = root.Close() }()
	c := &tdx.Collateral{}
	for _, f := range (platform{fmspc, ca}).files() {
		if *f.part(c), err = readFile(root, f); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func readFile(root *os.Root, f file) ([]byte, error) {
	in, err := root.Open(f.name)
	if err != nil {
		return nil, &api.Error{Reason: api.CollateralUnavailable, Detail: f.name, Err: err}
	}
	defer func() { _ = in.Close() }()
	b, err := readAll(in, f.limit)
	if errors.Is(err, errTooLarge) {
		return nil, api.Refuse(api.CollateralMalformed, "%s has more than %d bytes", f.name, f.limit)
	}
	if err != nil {
		return nil, &api.Error{Reason: api.CollateralUnavailable, Detail: f.name, Err: err}
	}
	return b, nil
}

var errTooLarge = errors.New("too large")

func readAll(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		return nil, errTooLarge
	}
	return b, err
}

// store writes collateral to a directory. A crash between two files leaves
// parts of two times together, each of which is verified when it is read.
func (p platform) store(dir string, c *tdx.Collateral) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, f := range p.files() {
		if err := replace(filepath.Join(dir, f.name), *f.part(c)); err != nil {
			return fmt.Errorf("keep %s: %w", f.name, err)
		}
	}
	return nil
}

// replace writes a file so that after a crash the old content stands there or
// the new.
func replace(path string, content []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
