package main

import (
	"bytes"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/cmd/telemark/internal/idkey"
	"github.com/telemark-otel/telemark/internal/identity/api"
)

// publicOf is what is told of a key.
type publicOf struct {
	File        string `json:"file,omitempty"`
	Pubkey      string `json:"pubkey"`
	OpenSSH     string `json:"openssh"`
	Fingerprint string `json:"fingerprint"`
}

// newIdentityKey is `telemark owner key` and `telemark operator key`.
func newIdentityKey(role string) *cobra.Command {
	example := fmt.Sprintf("  telemark %s key new %s.key\n  telemark %s key show --key %s.key > %s.pub", role, role, role, role, role)
	cmd := &cobra.Command{
		Use:     "key",
		Short:   "Make and show Ed25519 keys",
		Example: example,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newKeyNew(role), newKeyPublic(role))
	return cmd
}

func newKeyNew(role string) *cobra.Command {
	var (
		format, comment, passphraseFile string
		passphrase                      bool
	)
	cmd := &cobra.Command{
		Use:   "new FILE",
		Short: "Make an Ed25519 key in a new file",
		Long: `Make an Ed25519 key and write it into a new file of mode 0600; one that is there is never
replaced. In OpenSSH's format (the default) an owner's key serves for 'telemark workload ssh'
too, goes into an ssh-agent, and may have a passphrase.`,
		Example: fmt.Sprintf("  telemark %s key new %s.key\n  telemark %s key new %s.key --passphrase\n  telemark %s key new %s.pem --format pkcs8", role, role, role, role, role, role),
		Args:    operands(1, "into which file?"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var words []byte
			if passphrase || passphraseFile != "" {
				var err error
				if words, err = readPassphrase(passphraseFile, args[0]); err != nil {
					return work(fmt.Errorf("the passphrase: %w", err))
				}
				if len(words) == 0 {
					return work(fmt.Errorf("the passphrase is empty: leave out --passphrase to make a key without one"))
				}
			}
			public, err := idkey.Create(args[0], idkey.Format(format), comment, words)
			if err != nil {
				return work(fmt.Errorf("make the key: %w", err))
			}
			return showPublic(cmd, args[0], public)
		},
	}
	cmd.Flags().StringVar(&format, "format", string(idkey.OpenSSH), "openssh or pkcs8")
	cmd.Flags().StringVar(&comment, "comment", "telemark "+role, "comment in the file, by which an ssh-agent knows the key")
	cmd.Flags().BoolVar(&passphrase, "passphrase", false, "ask for a passphrase on the terminal")
	cmd.Flags().StringVar(&passphraseFile, "passphrase-file", "", "file with a passphrase, mode 0600")
	return cmd
}

func newKeyPublic(role string) *cobra.Command {
	var o instanceFlags
	cmd := &cobra.Command{
		Use:     "show",
		Short:   "Show a key's public half, for others to name it by",
		Example: fmt.Sprintf("  telemark %s key show --key %s.key > %s.pub\n  telemark %s key show --agent-key me@example --output json", role, role, role, role),
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key, err := o.openKey()
			if err != nil {
				return err
			}
			defer func() { _ = key.Close() }()
			return showPublic(cmd, o.key, key.Bytes())
		},
	}
	o.keyFlags(cmd.Flags())
	return cmd
}

// showPublic prints the line of OpenSSH to standard output alone, so that it can
// be written to a file and named by --owner-key.
func showPublic(cmd *cobra.Command, file string, key []byte) error {
	line, fingerprint, err := idkey.Line(key)
	if err != nil {
		return work(err)
	}
	p := &publicOf{File: file, Pubkey: api.Hex(key).String(), OpenSSH: line, Fingerprint: fingerprint}
	return show(cmd, p, func(w io.Writer) {
		say(cmd.ErrOrStderr(), "public key   %s\nfingerprint  %s", p.Pubkey, p.Fingerprint)
		say(w, "%s", p.OpenSSH)
	})
}

func trimmed(content []byte) string { return string(bytes.TrimSpace(content)) }
