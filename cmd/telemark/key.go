package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/internal/keyfile"
	"github.com/telemark-otel/telemark/internal/policy"
	"github.com/telemark-otel/telemark/internal/tpm"
)

const (
	createLong = `Make the signing key of this machine: an ECDSA P-256 key that cannot leave the
TPM, or one of another --algorithm where the TPM has no P-256. The agent has to
ask for the same one: key::algorithm of the tpm extension, SIGNATURE_ALGORITHM
with the shipped configurations.

DIR gets the key's blobs, its generated auth value and its public part; it is
made with mode 0700. None of it is of use without the TPM. The tpm extension
does the same at its first start; making the key before lets its public part
be enrolled first.

DEVICE is /dev/tpmrm0 (or another path), unix:PATH, tcp:HOST:PORT, or swtpm:DIR,
which starts a software TPM with its state in DIR, for development.`

	createExample = `  telemark key create --device /dev/tpmrm0 --dir /var/lib/telemark/keys --name edge-a
  telemark key create --device swtpm:/tmp/tpm-a --dir /tmp/tpm-a/keys --name edge-a
  telemark key create --device /dev/tpmrm0 --dir /var/lib/telemark/keys --name edge-a --algorithm PS256`

	showLong = `Show the public part of signing keys: kid (the TPM Name), PEM, and the entry
for the key file that tpmverify reads (keys::file). A key directory is read
without the TPM; a key at a persistent handle is read from the TPM.

Several keys at once make one key file. Keys are named with --name, the first
for the first key and so on, or in short with NAME=DIR.`

	showExample = `  telemark key show --dir /var/lib/telemark/keys
  telemark key show --dir a --name edge-a --dir b --name edge-b --output json > keys.json
  telemark key show edge-a=a edge-b=b --json > keys.json
  telemark key show --device /dev/tpmrm0 --handle 0x81010042 --name edge-a`

	// tpmPatience bounds what the commands wait for a TPM: a chip makes a key
	// in seconds, a software TPM has to be started before.
	tpmPatience = 3 * time.Minute
)

func newKey() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "key",
		Short:   "Make, take over and show the signing keys of machines",
		Example: createExample + "\n" + showExample,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newKeyCreate(), newKeyImport(), newKeyShow())
	return cmd
}

type createOptions struct {
	device, dir, name string
	handle            handleFlag
	algorithm         string
}

func newKeyCreate() *cobra.Command {
	var o createOptions
	cmd := &cobra.Command{
		Use:     "create --device DEVICE --dir DIR",
		Short:   "Make a signing key in a TPM",
		Long:    createLong,
		Example: createExample,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			entry, err := createKey(cmd.Context(), &o)
			if err != nil {
				return err
			}
			return showKeys(cmd, []keyfile.Entry{entry}, o.next())
		},
	}
	cmd.Flags().StringVar(&o.device, "device", "", "the TPM")
	cmd.Flags().StringVar(&o.dir, "dir", "", "directory for the key")
	cmd.Flags().StringVar(&o.name, "name", "", "name of the machine, for the key file")
	cmd.Flags().StringVar(&o.algorithm, "algorithm", string(tpm.ES256), "ES256, or ES384 or PS256 where the TPM has no P-256; the agent's key::algorithm has to say the same")
	cmd.Flags().Var(&o.handle, "handle", "keep the key in the TPM too, at this persistent handle (0x81000000 to 0x817FFFFF)")
	return cmd
}

func (o *createOptions) validate() error {
	if o.device == "" || o.dir == "" {
		return errors.New("key create needs --device and --dir")
	}
	if err := tpm.ParseDevice(o.device); err != nil {
		return fmt.Errorf("--device: %w", err)
	}
	if _, err := tpm.ParseAlgorithm(o.algorithm); err != nil {
		return fmt.Errorf("--algorithm: %w", err)
	}
	return machineName(o.name)
}

// machineName refuses what would not show in a table or a log as it is.
func machineName(name string) error {
	if printable(name) != name {
		return fmt.Errorf("--name %q: want printable characters", name)
	}
	return nil
}

// next is how the key is shown for a key file.
func (o *createOptions) next() string {
	next := "run 'telemark key show --dir " + o.dir
	if o.name == "" {
		next += " --name NAME"
	}
	return next + " --output json'"
}

// withoutKey refuses a directory that holds a key, or what is left of one.
func withoutKey(dir string) error {
	switch info, err := tpm.ReadKeyInfo(dir); {
	case err == nil:
		return refuse("%s already holds the key %s; 'telemark key show --dir %s' shows it", dir, info.KID, dir)
	case errors.Is(err, fs.ErrPermission):
		return work(fmt.Errorf("%w; run this as the user that the agent runs as", err))
	case !errors.Is(err, fs.ErrNotExist):
		return work(fmt.Errorf("%s holds something that is no whole key (%w); name another directory, or repair it", dir, err))
	default:
		return nil
	}
}

func createKey(ctx context.Context, o *createOptions) (keyfile.Entry, error) {
	if err := o.validate(); err != nil {
		return keyfile.Entry{}, err
	}
	if err := withoutKey(o.dir); err != nil {
		return keyfile.Entry{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, tpmPatience)
	defer cancel()
	dev, err := tpm.Open(ctx, o.device, tpm.Options{Algorithm: tpm.Algorithm(o.algorithm)})
	if err != nil {
		return keyfile.Entry{}, work(openHint(o.device, err))
	}
	defer func() { _ = dev.Close() }() // a second Close does nothing
	key, err := dev.OpenKey(ctx, tpm.KeyOptions{Dir: o.dir, Handle: uint32(o.handle), Name: o.name})
	if err != nil {
		return keyfile.Entry{}, work(fmt.Errorf("making a key in %s: %w", o.device, err))
	}
	entry := entryOf(key.Info(), o.name)
	return entry, work(errors.Join(key.Close(), dev.Close()))
}

// openHint says what most often stands in the way of a TPM.
func openHint(device string, err error) error {
	if !strings.Contains(err.Error(), device) {
		err = fmt.Errorf("opening %s: %w", device, err)
	}
	_, software := tpm.SoftwareDir(device)
	switch {
	case software:
		return err // a directory, and no chip
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; run as root, or as a member of the group that owns the device (tss)", err)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w; is there a TPM 2.0 (ls /dev/tpm*)? swtpm:DIR starts a software one, if swtpm is installed", err)
	default:
		return err
	}
}

type showOptions struct {
	dirs, names []string
	device      string
	handle      handleFlag
	json        bool
}

func newKeyShow() *cobra.Command {
	var o showOptions
	cmd := &cobra.Command{
		Use:     "show [[NAME=]DIR…]",
		Short:   "Show public keys, and write key files",
		Long:    showLong,
		Example: showExample,
		RunE: func(cmd *cobra.Command, args []string) error {
			entries, err := o.entries(cmd.Context(), args)
			if err != nil {
				return err
			}
			if o.json {
				if err := cmd.Flag("output").Value.Set(string(formatJSON)); err != nil {
					return err
				}
			}
			return showKeys(cmd, entries, "add --output json")
		},
	}
	cmd.Flags().StringArrayVar(&o.dirs, "dir", nil, "key directory (again for more)")
	cmd.Flags().StringArrayVar(&o.names, "name", nil, "name of the machine (again for more, in the order of the keys)")
	cmd.Flags().StringVar(&o.device, "device", "", "the TPM, with --handle")
	cmd.Flags().Var(&o.handle, "handle", "persistent handle of a key in the TPM")
	cmd.Flags().BoolVar(&o.json, "json", false, "the same as --output json")
	return cmd
}

func (o *showOptions) entries(ctx context.Context, args []string) ([]keyfile.Entry, error) {
	dirs, names := o.dirs, o.names
	for _, a := range args {
		name, dir, named := strings.Cut(a, "=")
		if !named {
			name, dir = "", a
		}
		for len(names) < len(dirs) {
			names = append(names, "")
		}
		dirs, names = append(dirs, dir), append(names, name)
	}
	var infos []tpm.KeyInfo
	for _, dir := range dirs {
		info, err := tpm.ReadKeyInfo(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, work(fmt.Errorf("%s holds no key (%w); 'telemark key create --dir %s' or the first start of the agent makes one", dir, err, dir))
		}
		if errors.Is(err, fs.ErrPermission) {
			return nil, work(fmt.Errorf("%w; read it as the user that the agent runs as", err))
		}
		if err != nil {
			return nil, work(fmt.Errorf("%s: %w", dir, err))
		}
		infos = append(infos, info)
	}
	if o.handle != 0 || o.device != "" {
		info, err := readHandle(ctx, o.device, uint32(o.handle))
		if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	if len(infos) == 0 {
		return nil, errors.New("key show needs a key directory, or --device and --handle")
	}
	if len(names) > len(infos) {
		return nil, fmt.Errorf("%d names for %d keys", len(names), len(infos))
	}
	for _, name := range names {
		if err := machineName(name); err != nil {
			return nil, err
		}
	}
	entries := make([]keyfile.Entry, len(infos))
	for i, info := range infos {
		name := ""
		if i < len(names) {
			name = names[i]
		}
		entries[i] = entryOf(info, name)
	}
	return entries, nil
}

func readHandle(ctx context.Context, device string, handle uint32) (tpm.KeyInfo, error) {
	if device == "" || handle == 0 {
		return tpm.KeyInfo{}, errors.New("--device and --handle go together")
	}
	if err := tpm.ParseDevice(device); err != nil {
		return tpm.KeyInfo{}, fmt.Errorf("--device: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, tpmPatience)
	defer cancel()
	dev, err := tpm.Open(ctx, device, tpm.Options{})
	if err != nil {
		return tpm.KeyInfo{}, work(openHint(device, err))
	}
	defer func() { _ = dev.Close() }() // a second Close does nothing
	info, err := dev.HandleInfo(ctx, handle)
	if err != nil {
		return tpm.KeyInfo{}, work(fmt.Errorf("reading the key at %#x of %s: %w", handle, device, err))
	}
	return info, work(dev.Close())
}

func entryOf(info tpm.KeyInfo, name string) keyfile.Entry {
	if name == "" {
		name = info.Name
	}
	return keyfile.Entry{KID: info.KID, Name: name, Algorithm: info.Alg, PublicKey: info.PublicKey, TPMPublic: info.TPMPublic}
}

// showKeys writes a key file, or text. What is written as a key file is read
// back first: a name that is missing would otherwise be found by a verifier.
//
// Text ends with next, what to do for a key file.
func showKeys(cmd *cobra.Command, entries []keyfile.Entry, next string) error {
	file := keyfile.File{Keys: entries}
	if format(cmd.Flag("output").Value.String()) != formatTable {
		content, err := json.Marshal(file)
		if err != nil {
			return work(err)
		}
		if _, err := keyfile.Parse("to be written", content, &policy.Policy{Freshness: policy.Sequence, LiveWithin: policy.DefaultLiveWithin}); err != nil {
			return fmt.Errorf("%w; --name gives a key its name", err)
		}
	}
	return show(cmd, file, func(w io.Writer) { sayKeys(w, entries, next) })
}

func sayKeys(w io.Writer, entries []keyfile.Entry, next string) {
	for i, e := range entries {
		if i > 0 {
			say(w, "")
		}
		say(w, "kid   %s", e.KID)
		say(w, "name  %s", orDash(e.Name))
		say(w, "alg   %s", e.Algorithm)
		say(w, "%s", strings.TrimSpace(e.PublicKey))
	}
	say(w, "")
	say(w, "For the entry in tpmverify's key file (keys::file), %s.", next)
}

// handleFlag is a persistent handle, in hexadecimal with 0x or decimal.
type handleFlag uint32

func (h *handleFlag) String() string {
	if *h == 0 {
		return ""
	}
	return fmt.Sprintf("%#x", uint32(*h))
}

func (*handleFlag) Type() string { return "handle" }

func (h *handleFlag) Set(s string) error {
	n, err := strconv.ParseUint(s, 0, 32)
	if err != nil || n>>24 != 0x81 {
		return errors.New("want a persistent handle, 0x81000000 to 0x81FFFFFF")
	}
	*h = handleFlag(n)
	return nil
}
