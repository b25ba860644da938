package tpmextension

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/tpm"
)

// ImportConfig names a signing key that was made by others, as tpm2-tools do. It is used
// once, when key::dir holds no key, and not looked at after. All empty means
// that a key is made.
type ImportConfig struct {
	// Context is a saved context (app.ctx), which is not read, or the stem of its
	// name: the key's blobs are app.pub and app.priv (or app.prv) beside it.
	Context string `mapstructure:"context"`

	// Public and Private are the blobs, where they have other names: tpm2_create
	// -u and -r. Both or none; not with context.
	Public  string `mapstructure:"public"`
	Private string `mapstructure:"private"`

	// Parent is the persistent handle of the key that the blobs were made under,
	// 0x81000000 to 0x81FFFFFF. 0 means a primary key, which is found if it is
	// one that tpm2_createprimary makes by itself or TCG's storage root key.
	Parent uint32 `mapstructure:"parent"`

	// AuthFile holds the key's auth value, in the form of key::auth_file. Empty means that
	// the key has none.
	AuthFile string `mapstructure:"auth_file"`

	// Adopt takes the key at key::handle, of which there are no blobs. Default
	// false: a foreign key at the handle is an error.
	Adopt bool `mapstructure:"adopt"`
}

var (
	errImportBlobs  = errors.New("`key::import` needs one of `key::import::context`, `key::import::public` with `key::import::private`, or `key::import::adopt`; leave all of them empty to have a key made")
	errImportParent = errors.New("`key::import::parent` must be a persistent handle from 0x81000000 to 0x81FFFFFF, and goes with blobs only; 0 finds a parent that is a primary key")
	errImportAdopt  = errors.New("`key::import::adopt` needs `key::handle`, where the key is")
	errImportAuth   = errors.New("`key::import::auth_file` must be a regular file that only its owner can read (chmod 0600), with 1 to 32 bytes and no zero among them")
)

func (c *ImportConfig) wanted() bool {
	return c.Context != "" || c.Public != "" || c.Private != "" || c.Adopt
}

func (c *ImportConfig) validate(handle uint32) error {
	ways := 0
	for _, way := range []bool{c.Context != "", c.Public != "" || c.Private != "", c.Adopt} {
		if way {
			ways++
		}
	}
	alone := !c.wanted() && (c.Parent != 0 || c.AuthFile != "")
	return errors.Join(
		check(errImportBlobs, ways <= 1 && !alone && (c.Public == "") == (c.Private == ""), ways),
		check(errImportParent, c.Parent == 0 || c.Parent>>24 == 0x81 && !c.Adopt, fmt.Sprintf("%#08x", c.Parent)),
		check(errImportAdopt, !c.Adopt || handle != 0, fmt.Sprintf("%#08x", handle)),
	)
}

// read reads what has to be read of the key, and refuses one that cannot sign
// telemetry. It returns nil when no key is to be imported.
func (c *ImportConfig) read() (*tpm.Import, error) {
	if !c.wanted() {
		return nil, nil //nolint:nilnil // a key is made
	}
	i := &tpm.Import{Parent: c.Parent, Adopt: c.Adopt}
	var err error
	if i.Blobs, err = c.blobs(); err != nil {
		return nil, err
	}
	i.Auth, err = readAuthFile(errImportAuth, c.AuthFile)
	return i, err
}

// blobs returns nil for a key that is adopted.
func (c *ImportConfig) blobs() (b *tpm.Blobs, err error) {
	public, private, what := c.Public, c.Private, "`key::import`"
	switch {
	case c.Adopt:
		return nil, nil //nolint:nilnil // there are none
	case c.Context != "":
		what = "`key::import::context`"
		if public, private, err = tpm.FindBlobs(c.Context); err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
	}
	if b, err = tpm.ReadBlobs(public, private); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return b, nil
}

// imports returns what a new directory is filled from, nil for a key of its own.
func (s *signer) imports(dir string) (*tpm.Import, error) {
	if _, err := tpm.ReadKeyInfo(dir); !errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // there is a key, or what is left of one
	}
	return s.cfg.Key.Import.read()
}

// describe says in the log what is to be known of a key that others made.
func (s *signer) describe(key *tpm.Key) {
	for _, caution := range key.Cautions() {
		s.logger.Warn("signing key: " + caution)
	}
	if b, err := s.cfg.Key.Import.blobs(); err == nil && b != nil && hex.EncodeToString(b.KID()) != key.Info().KID {
		s.logger.Warn("`key::import` names another key than the one that `key::dir` holds, which goes on signing; for the other one, name another directory",
			zap.String("kid", key.Info().KID), zap.String("import", hex.EncodeToString(b.KID())))
	}
}
