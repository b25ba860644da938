package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/cmd/telemark/internal/idkey"
)

const (
	callPatience = 2 * time.Minute
	whichURL     = "which instance? Give its URL, like https://vm.example:3443"

	operatorLong = `Take the role of operator of a confidential VM that runs identityd: register once,
hand the token that comes back to the owner, and sign the VM's new key after a reboot.

Before anything is signed the VM's quote is verified, under a fresh nonce.`

	registerLong = `Become operator of a fresh instance, and get the owner's token: it works once, and makes
whoever has it the owner. It goes to standard output and nothing else does, or into a new
file of mode 0600 (--write-token). Name the owner's key with --owner-key where you know it:
then nobody else can use the token.`
)

func newOperator() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "operator",
		Short: "Operate confidential VMs that run identityd",
		Long:  operatorLong,
		Example: `  telemark operator key new operator.key
  telemark operator register https://vm.example:3443 --key operator.key --policy tdx.yaml --owner-key owner.pub --write-token owner.token
  telemark operator renew https://vm.example:3443 --key operator.key --policy tdx.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newIdentityKey("operator"), newOperatorRegister(), newOperatorRenew())
	return cmd
}

func newOperatorRegister() *cobra.Command {
	var (
		o               instanceFlags
		owner, tokenOut string
	)
	cmd := &cobra.Command{
		Use:   "register URL",
		Short: "Become operator, and get the owner's token",
		Long:  registerLong,
		Example: `  telemark operator register https://vm.example:3443 --key operator.key --policy tdx.yaml --owner-key owner.pub --write-token owner.token
  telemark operator register https://vm.example:3443 --agent-key ops@example > owner.token`,
		Args: operands(1, whichURL),
	}
	cmd.RunE = withInstance(&o, func(ctx context.Context, s *session) error {
		return operatorRegister(ctx, s, owner, tokenOut)
	})
	o.signing(cmd.Flags(), callPatience)
	cmd.Flags().StringVar(&owner, "owner-key", "", "the only key that may become owner: a file ('telemark owner key show'), an ssh-ed25519 line, or 64 hexadecimal digits")
	cmd.Flags().StringVar(&tokenOut, "write-token", "", "write the owner's token into this new file, mode 0600, instead of printing it")
	return cmd
}

func operatorRegister(ctx context.Context, s *session, owner, tokenOut string) (err error) {
	expected, err := publicKey(owner)
	if err != nil {
		return fmt.Errorf("--owner-key: %w", err)
	}
	key, err := s.flags.openKey()
	if err != nil {
		return err
	}
	defer func() { _ = key.Close() }()
	// The file first: a token that cannot be written would be lost for good.
	var file *os.File
	written := false
	if tokenOut != "" {
		if file, err = os.OpenFile(tokenOut, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			return work(fmt.Errorf("--write-token: %w", err))
		}
		defer func() {
			_ = file.Close()
			if !written {
				_ = os.Remove(tokenOut)
			}
		}()
	}
	done, err := s.instance.RegisterOperator(ctx, key, expected)
	if err != nil {
		return instanceError(err)
	}
	if file != nil {
		if err := errors.Join(writeAll(file, []byte(done.OwnerToken+"\n")), file.Close()); err != nil {
			say(s.cmd.ErrOrStderr(), "The token could not be written to %s; it is shown here instead, once.", tokenOut)
			say(s.cmd.OutOrStdout(), "%s", done.OwnerToken)
			return work(err)
		}
		done.OwnerToken, written = "", true
	}
	t, doubt := s.after(ctx, done)
	if doubt == nil && t.Facts != nil && !bytes.Equal(s.instance.Statement.Operator, key.Bytes()) {
		doubt = refuse("the answer says that you are operator, and the quote does not show it: its operator is %x", []byte(s.instance.Statement.Operator))
	}
	t.OwnerToken, t.TokenFile = done.OwnerToken, tokenOut
	say(s.cmd.ErrOrStderr(), "You are operator of the instance %s.", t.Instance)
	err = show(s.cmd, t, func(w io.Writer) {
		if t.TokenFile == "" {
			say(w, "%s", t.OwnerToken)
			return
		}
		say(w, "The owner's token is in %s: hand it to the owner, who calls", t.TokenFile)
		say(w, "  telemark owner register %s --token-file %s", s.cmd.Flags().Arg(0), t.TokenFile)
	})
	return errors.Join(err, doubt)
}

// publicKey reads a public key from a file or from the command line; nil for
// nothing.
func publicKey(arg string) (ed25519.PublicKey, error) {
	if arg == "" {
		return nil, nil
	}
	content := []byte(arg)
	if info, err := os.Stat(arg); err == nil && info.Mode().IsRegular() {
		if content, err = readSmall(arg, maxSmallFile); err != nil {
			return nil, work(err)
		}
	}
	return idkey.ParsePublic(content)
}

func newOperatorRenew() *cobra.Command {
	var o instanceFlags
	cmd := &cobra.Command{
		Use:   "renew URL",
		Short: "Sign an instance's new key, after a reboot",
		Long: `Sign the instance key of this boot. A VM that was started anew has a new key; the registry
wants the operator's signature over it. The owner has to unlock its storage first: only then
does it show that it is the same identity as before.`,
		Example: "  telemark operator renew https://vm.example:3443 --key operator.key --policy tdx.yaml",
		Args:    operands(1, whichURL),
	}
	cmd.RunE = withInstance(&o, func(ctx context.Context, s *session) error {
		if s.instance.Locked() {
			return refuse("the VM was started anew and its storage is locked: nothing shows yet that it is your instance\nIts owner calls 'telemark storage unlock URL' first.")
		}
		key, err := o.openKey()
		if err != nil {
			return err
		}
		defer func() { _ = key.Close() }()
		done, err := s.instance.RenewOperator(ctx, key)
		if err != nil {
			return instanceError(err)
		}
		return s.took(ctx, done, "The instance key of this boot is signed.", nil)
	})
	o.signing(cmd.Flags(), callPatience)
	return cmd
}
