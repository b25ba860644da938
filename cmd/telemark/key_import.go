package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/internal/keyfile"
	"github.com/telemark-otel/telemark/internal/tpm"
)

const (
	keyImportLong = `Take over a signing key that tpm2-tools made in this machine's TPM, so that a
deployment goes on with it. DIR gets its blobs, its auth value and its public
part, as with 'key create'; the files of before are not needed any more.

The key is given by its blobs (tpm2_create -u key.pub -r key.priv), by name or
with --context: app.ctx finds app.pub and app.priv beside it. A saved context
itself ends with the TPM's next reset and cannot be imported. A key of which only
the one at a persistent handle is left (tpm2_evictcontrol) is taken with --adopt.

Blobs belong under the key that they were made under. A primary key as
tpm2_createprimary makes it without -a, in the owner or endorsement hierarchy, or
TCG's storage root key, is found; another one has to be at a persistent handle,
--parent. The agent does the same with key::import, at its first start.

Only a key that verifiers accept is taken: fixedtpm, fixedparent,
sensitivedataorigin, userwithauth and sign, not decrypt and not restricted, with
one of the schemes ecc256:ecdsa-sha256, ecc384:ecdsa-sha384 and
rsa2048:rsapss-sha256. What tpm2_create makes without -G decrypts too, and cannot
be taken: make a new key with 'key create', and enrol it. Warnings name what is
worse than with a new key: without noda, wrong auth values of any program can stop the
signing for a while; without an auth value, whoever can use the TPM and
has the blobs can sign.`

	keyImportExample = `  telemark key import --device /dev/tpmrm0 --dir /var/lib/telemark/keys --public key.pub --private key.priv --name edge-a
  telemark key import --device /dev/tpmrm0 --dir /var/lib/telemark/keys --context /etc/tpm/app.ctx --auth-file auth --name edge-a
  telemark key import --device /dev/tpmrm0 --dir /var/lib/telemark/keys --public key.pub --private key.priv --parent 0x81000001
  telemark key import --device /dev/tpmrm0 --dir /var/lib/telemark/keys --adopt --handle 0x81010042 --name edge-a`
)

type keyImportOptions struct {
	createOptions

	context, public, private string
	parent                   handleFlag
	authFile                 string
	adopt                    bool
}

func newKeyImport() *cobra.Command {
	var o keyImportOptions
	cmd := &cobra.Command{
		Use:     "import --device DEVICE --dir DIR {--public FILE --private FILE | --context FILE | --adopt --handle HANDLE}",
		Short:   "Take over a signing key that tpm2-tools made",
		Long:    keyImportLong,
		Example: keyImportExample,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			entry, cautions, err := importKey(cmd.Context(), &o)
			if err != nil {
				return err
			}
			for _, c := range cautions {
				say(cmd.ErrOrStderr(), "telemark: warning: %s", c)
			}
			if entry.Algorithm != string(tpm.ES256) {
				say(cmd.ErrOrStderr(), "telemark: the agent's key::algorithm has to say %s", entry.Algorithm)
			}
			return showKeys(cmd, []keyfile.Entry{entry}, o.next())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.device, "device", "", "the TPM")
	f.StringVar(&o.dir, "dir", "", "directory for the key, without one yet")
	f.StringVar(&o.name, "name", "", "name of the machine, for the key file")
	f.StringVar(&o.public, "public", "", "the key's public blob, of tpm2_create -u")
	f.StringVar(&o.private, "private", "", "the key's private blob, of tpm2_create -r")
	f.StringVar(&o.context, "context", "", "a saved context, or the stem of its name: the blobs beside it are taken")
	f.Var(&o.parent, "parent", "persistent handle of the key that the blobs were made under; without it a primary key is found")
	f.StringVar(&o.authFile, "auth-file", "", "file with the key's auth value, mode 0600; without it the key has none")
	f.BoolVar(&o.adopt, "adopt", false, "take the key at --handle, of which there are no blobs")
	f.Var(&o.handle, "handle", "with --adopt where the key is; otherwise keep the key in the TPM too, at this persistent handle (0x81000000 to 0x817FFFFF)")
	return cmd
}

func (o *keyImportOptions) validate() error {
	if o.device == "" || o.dir == "" {
		return errors.New("key import needs --device and --dir")
	}
	if err := tpm.ParseDevice(o.device); err != nil {
		return fmt.Errorf("--device: %w", err)
	}
	switch blobs := o.public != "" || o.private != ""; {
	case (o.public == "") != (o.private == ""):
		return errors.New("--public and --private go together: they are the two halves of one key")
	case blobs && o.context != "", (blobs || o.context != "") && o.adopt:
		return errors.New("--public with --private, --context and --adopt are three ways to name one key; give one of them")
	case !blobs && o.context == "" && !o.adopt:
		return errors.New("key import needs --public and --private, or --context, or --adopt")
	case o.adopt && o.handle == 0:
		return errors.New("--adopt needs --handle, where the key is")
	case o.adopt && o.parent != 0:
		return errors.New("--parent is for blobs; a key at a persistent handle needs none")
	}
	return machineName(o.name)
}

// read reads the files, before any TPM is asked.
func (o *keyImportOptions) read() (*tpm.Import, error) {
	i := &tpm.Import{Parent: uint32(o.parent), Adopt: o.adopt}
	var err error
	if o.authFile != "" {
		if i.Auth, err = tpm.ReadAuthFile(o.authFile); err != nil {
			return nil, fmt.Errorf("--auth-file: %w", err)
		}
	}
	if o.adopt {
		return i, nil
	}
	public, private := o.public, o.private
	if o.context != "" {
		if public, private, err = tpm.FindBlobs(o.context); err != nil {
			return nil, fmt.Errorf("--context: %w", err)
		}
	}
	i.Blobs, err = tpm.ReadBlobs(public, private)
	return i, err
}

// judged makes a refusal of what says something about the key.
func judged(err error) error {
	if errors.Is(err, tpm.ErrUnfit) {
		return refuse("%v", err)
	}
	return work(err)
}

func importKey(ctx context.Context, o *keyImportOptions) (keyfile.Entry, []string, error) {
	if err := o.validate(); err != nil {
		return keyfile.Entry{}, nil, err
	}
	if err := withoutKey(o.dir); err != nil {
		return keyfile.Entry{}, nil, err
	}
	from, err := o.read()
	if err != nil {
		return keyfile.Entry{}, nil, judged(err)
	}
	ctx, cancel := context.WithTimeout(ctx, tpmPatience)
	defer cancel()
	algorithm, err := o.algorithmOf(ctx, from)
	if err != nil {
		return keyfile.Entry{}, nil, judged(err)
	}
	dev, err := tpm.Open(ctx, o.device, tpm.Options{Algorithm: algorithm})
	if err != nil {
		return keyfile.Entry{}, nil, work(openHint(o.device, err))
	}
	defer func() { _ = dev.Close() }() // a second Close does nothing
	key, err := dev.OpenKey(ctx, tpm.KeyOptions{Dir: o.dir, Handle: uint32(o.handle), Name: o.name, Import: from})
	if err != nil {
		return keyfile.Entry{}, nil, judged(fmt.Errorf("%w%s", err, o.hint(err)))
	}
	if from.Blobs != nil && hex.EncodeToString(from.Blobs.KID()) != key.Info().KID { // somebody was faster
		return keyfile.Entry{}, nil, refuse("%s holds the key %s by now", o.dir, key.Info().KID)
	}
	return entryOf(key.Info(), o.name), key.Cautions(), work(errors.Join(key.Close(), dev.Close()))
}

// algorithmOf asks the TPM for that of a key of which there are no blobs.
func (o *keyImportOptions) algorithmOf(ctx context.Context, from *tpm.Import) (tpm.Algorithm, error) {
	if from.Blobs != nil {
		return from.Blobs.Algorithm(), nil
	}
	dev, err := tpm.Open(ctx, o.device, tpm.Options{})
	if err != nil {
		return "", openHint(o.device, err)
	}
	defer func() { _ = dev.Close() }() // a second Close does nothing
	info, err := dev.HandleInfo(ctx, uint32(o.handle))
	if err != nil {
		return "", err
	}
	return tpm.Algorithm(info.Alg), dev.Close()
}

// hint says what to do about an error, in the words of the command line.
func (o *keyImportOptions) hint(err error) string {
	switch {
	case errors.Is(err, tpm.ErrWrongAuth) && o.authFile == "":
		return "; the key has one: --auth-file"
	case errors.Is(err, tpm.ErrNoParent) && o.parent == 0:
		return "; --parent names the handle"
	case tpm.Classify(err) == tpm.Lockout:
		return "; wait for the TPM's recovery time, or tpm2_dictionarylockout --clear-lockout"
	default:
		return ""
	}
}
