package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/cmd/telemark/internal/instances"
	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/identity/client"
	"github.com/telemark-otel/telemark/internal/identity/unlock"
	"github.com/telemark-otel/telemark/internal/tpm/private"
)

const (
	sourceOwner = "owner" // of a volume's key

	ownerLong = `Take the role of owner of a confidential VM that runs identityd: it then runs your container,
on storage whose key you made.

Before anything is signed the VM's quote is verified, under a fresh nonce.`

	ownerRegisterLong = `Become owner with the token that the operator got. Where the volume's key comes from its owner
(the default of identityd) this command makes it: 256 random bits, kept in a file of this
machine (--state-dir) before they are sent, encrypted for this very VM. Without that file the
volume opens never again after a reboot: back it up.

The key may come from elsewhere (--volume-key); then it is not kept here.`
)

func newOwner() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "owner",
		Short: "Own what runs in a confidential VM",
		Long:  ownerLong,
		Example: `  telemark owner key new owner.key
  telemark owner register https://vm.example:3443 --token-file owner.token --key owner.key --policy tdx.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newIdentityKey("owner"), newOwnerRegister())
	return cmd
}

func newOwnerRegister() *cobra.Command {
	var (
		o                    instanceFlags
		tokenFile, volumeKey string
	)
	cmd := &cobra.Command{
		Use:   "register URL --token-file FILE",
		Short: "Become owner, and give the VM the key of its storage",
		Long:  ownerRegisterLong,
		Example: `  telemark owner register https://vm.example:3443 --token-file owner.token --key owner.key --policy tdx.yaml
  telemark owner register https://vm.example:3443 --token-file owner.token --agent-key me@example --output json`,
		Args: operands(1, whichURL),
	}
	cmd.RunE = withInstance(&o, func(ctx context.Context, s *session) error {
		return ownerRegister(ctx, s, tokenFile, volumeKey)
	})
	o.signing(cmd.Flags(), 5*callPatience)
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "file with the owner's token, mode 0600")
	cmd.Flags().StringVar(&volumeKey, "volume-key", "", "file with the volume's key (32 bytes, or 64 hexadecimal digits), mode 0600, instead of making one")
	cobra.CheckErr(cmd.MarkFlagRequired("token-file"))
	return cmd
}

func ownerRegister(ctx context.Context, s *session, tokenFile, volumeKey string) error {
	token, err := ownerToken(tokenFile)
	if err != nil {
		return err
	}
	key, err := s.flags.openKey()
	if err != nil {
		return err
	}
	defer func() { _ = key.Close() }()
	if err := s.mine(key.Bytes()); err != nil {
		return err
	}
	if err := s.instance.MaySend("the owner's token"); err != nil {
		return instanceError(err)
	}
	var sealed []byte
	fromOwner, err := s.keyFromOwner(ctx)
	if err != nil {
		return err
	}
	if fromOwner {
		ask, err := s.instance.Ask(ctx, key)
		if err != nil {
			return instanceError(err)
		}
		if sealed, err = s.sealNew(ctx, ask, key.Bytes(), volumeKey); err != nil {
			return err
		}
	} else if volumeKey != "" {
		return refuse("this instance's storage does not take its key from the owner: leave out --volume-key")
	}
	done, err := s.instance.RegisterOwner(ctx, key, token, sealed)
	if err != nil {
		return instanceError(err)
	}
	return s.took(ctx, done, "You are owner of the instance.", func(i *client.Instance) bool { return bytes.Equal(i.Statement.Owner, key.Bytes()) })
}

// keyFromOwner reports whether the volume's key comes from its owner.
func (s *session) keyFromOwner(ctx context.Context) (bool, error) {
	if s.instance.Statement == nil {
		return false, nil
	}
	if source := s.instance.Statement.Storage; source != "" {
		return source == sourceOwner, nil
	}
	// What nothing vouches for decides only whether it may ask.
	state, err := s.client.State(ctx)
	if err != nil {
		return false, instanceError(err)
	}
	return state.Storage.Source == sourceOwner || state.Storage.Source == "", nil
}

// sealNew wraps the key of a volume that is to be made. It is kept before it is
// sent; of a volume that was asked for before, the key from then is sent again.
func (s *session) sealNew(ctx context.Context, ask *client.Ask, owner ed25519.PublicKey, volumeKey string) ([]byte, error) {
	origin := ed25519.PublicKey(s.instance.Statement.Origin)
	id := ask.Volume()
	v := instances.Volume{ID: api.Hex(id[:]), Owner: api.Hex(owner)}
	given, err := readVolumeKey(volumeKey)
	if err != nil {
		return nil, err
	}
	if given == nil {
		v.Key = api.Hex(unlock.NewKey())
	}
	kept, err := s.memory.KeepVolume(ctx, origin, v)
	if err != nil {
		return nil, work(fmt.Errorf("keep the volume's key: %w; it was not sent", err))
	}
	if given == nil {
		given = kept
	}
	if len(given) == 0 {
		return nil, refuse("the volume %x was asked for before, with a key that is kept elsewhere\nGive that key with --volume-key again.", id)
	}
	known, err := s.memory.Recall(origin)
	if err != nil {
		return nil, work(err)
	}
	sealed, err := ask.Seal(given, known)
	return sealed, instanceError(err)
}

// readVolumeKey reads the key of a volume; nil without a file.
func readVolumeKey(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	content, err := private.ReadSecret(path, 4<<10)
	if err != nil {
		return nil, work(fmt.Errorf("--volume-key: %w", err))
	}
	if len(content) == unlock.KeySize {
		return content, nil
	}
	text := trimmed(content)
	key := make([]byte, unlock.KeySize)
	if n, err := hex.Decode(key, []byte(text[:min(len(text), 2*unlock.KeySize)])); err != nil || n != unlock.KeySize || len(text) != 2*unlock.KeySize {
		return nil, work(fmt.Errorf("--volume-key: %s holds neither 32 bytes nor 64 hexadecimal digits", path))
	}
	return key, nil
}

// ownerToken reads the token that the operator got.
func ownerToken(path string) (string, error) {
	content, err := private.ReadSecret(path, maxTokenFile)
	if err != nil {
		return "", work(fmt.Errorf("--token-file: %w", err))
	}
	token := trimmed(content)
	if _, ok := api.ParseHex(token, 1024); !ok || token == "" {
		return "", work(errors.New("--token-file: " + path + " holds no owner's token: lower-case hexadecimal digits, as 'telemark operator register' wrote them"))
	}
	return token, nil
}

// took prints what a step did, and what the instance is afterwards. shows, if not
// nil, reports whether the quote shows the step: the answer alone says nothing where
// somebody else may have given it.
func (s *session) took(ctx context.Context, done *client.Done, what string, shows func(*client.Instance) bool) error {
	t, doubt := s.after(ctx, done)
	switch {
	case doubt != nil:
		return doubt
	case s.instance.Statement == nil: // the older form
	case t.Facts == nil && s.instance.Channel() != client.Attested:
		return work(errors.New("nothing shows that the step was taken: look with 'telemark workload status'"))
	case t.Facts != nil && shows != nil && !shows(s.instance):
		return refuse("the answer says that the step was taken, and the quote does not show it: the instance is %s\nLook with 'telemark workload status', and use the https address of the instance.", strings.ReplaceAll(t.Facts.State, "_", " "))
	}
	return s.showTaken(t, what)
}

func (s *session) showTaken(t *taken, what string) error {
	return show(s.cmd, t, func(w io.Writer) {
		say(w, "%s", what)
		if t.Facts != nil || s.flags.legacy {
			sayFacts(w, t.facts)
		}
		if t.Registry != "" {
			say(w, "registry    %s", t.Registry)
		}
	})
}
