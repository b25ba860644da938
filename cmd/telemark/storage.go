package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/cmd/telemark/internal/instances"
	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/identity/client"
)

const (
	storageLong = `Encrypted storage of confidential VMs: give a VM the key again after a reboot, and see what this
machine remembers.

The keys exist on this machine only (--state-dir): back the directory up, as secrets.`

	unlockLong = `Give a VM that was started anew the key of its storage. The VM asks under a quote, which is
verified; the key is encrypted for this VM in this boot. With it goes the highest state
counter that this machine saw: a disk that was set back is noticed, and opens nothing. With
--pin the registry is asked too, for machines that did not see everything.

Afterwards the VM shows by a signature of its old key, which lies inside the storage, that it
goes on as the same identity.`
)

func newStorage() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "storage",
		Short: "Unlock the encrypted storage of confidential VMs",
		Long:  storageLong,
		Example: `  telemark storage unlock https://vm.example:3443 --key owner.key --policy tdx.yaml
  telemark storage show`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newStorageUnlock(), newStorageShow())
	return cmd
}

func newStorageUnlock() *cobra.Command {
	var (
		o instanceFlags
		u unlocking
	)
	cmd := &cobra.Command{
		Use:   "unlock URL",
		Short: "Give a VM the key of its storage, after a reboot",
		Long:  unlockLong,
		Example: `  telemark storage unlock https://vm.example:3443 --key owner.key --policy tdx.yaml
  telemark storage unlock https://vm.example:3443 --agent-key me@example --volume-key volume.key
  telemark storage unlock https://vm.example:3443 --key owner.key --registry https://registry.example:3000 --pin registry.pub`,
		Args: operands(1, whichURL),
	}
	cmd.RunE = withInstance(&o, func(ctx context.Context, s *session) error { return unlockStorage(ctx, s, &u) })
	o.signing(cmd.Flags(), pullPatience)
	u.second.flags(cmd.Flags())
	cmd.Flags().StringVar(&u.volumeKey, "volume-key", "", "file with the volume's key, where this machine does not remember it")
	cmd.Flags().StringVar(&u.origin, "origin", "", "instance key that the identity began with, as a registry shows it: whom --pin asks about where this machine does not remember it")
	return cmd
}

// unlocking is what the command line says besides.
type unlocking struct {
	volumeKey, origin string
	second            witness
}

func unlockStorage(ctx context.Context, s *session, u *unlocking) error {
	switch {
	case s.instance.Statement == nil:
		return refuse("a service of the older form has nothing to unlock")
	case !s.instance.Locked():
		return refuse("there is nothing to unlock: the instance is %s", strings.ReplaceAll(s.instance.Statement.State, "_", " "))
	}
	key, err := s.flags.openKey()
	if err != nil {
		return err
	}
	defer func() { _ = key.Close() }()
	ask, err := s.instance.Ask(ctx, key)
	if err != nil {
		return instanceError(err)
	}
	record, secret, err := s.keyOf(ctx, ask, u)
	if err != nil {
		return err
	}
	if s.instance.Verified() && record.Measurements == nil && s.flags.policy == "" && !s.flags.newMeasurements {
		return refuse("this machine does not remember which VM image had the key, and any VM would get it\nSay with --policy which one may, or once with --accept-measurements that it is this one (MRTD %.16s…). The volume's key was not sent.", s.instance.Measurements().MRTD)
	}
	counter, err := u.second.seen(ctx, record.Origin)
	if err != nil {
		return err
	}
	if record.Counter = max(record.Counter, counter); record.Counter == 0 {
		say(s.cmd.ErrOrStderr(), "WARNING: nobody here saw the instance before: a disk that was set back is not noticed. Call from the machine that registered as owner, or ask a registry with --pin and --origin.")
	}
	sealed, err := ask.Seal(secret, record.Known())
	if err != nil {
		return instanceError(err)
	}
	done, err := s.instance.Unlock(ctx, ask, sealed, record.Counter)
	if err != nil {
		return instanceError(err)
	}
	t, doubt := s.after(ctx, done)
	if doubt != nil {
		return doubt
	}
	if st := s.instance.Statement; len(record.Origin) != 0 && !s.instance.Locked() && !bytes.Equal(st.Origin, record.Origin) {
		return refuse("the VM opened the storage, and goes on as another identity: %x, not %s\nDo not trust it: somebody moved the storage's files.", []byte(st.Origin), record.Origin)
	}
	return s.showTaken(t, "The storage is unlocked, and what ran runs again.")
}

// keyOf finds the key of the volume that the VM asks for, and what is known of the
// identity that it belongs to.
func (s *session) keyOf(ctx context.Context, ask *client.Ask, u *unlocking) (*instances.Record, []byte, error) {
	id := ask.Volume()
	given, err := readVolumeKey(u.volumeKey)
	if err != nil {
		return nil, nil, err
	}
	origin, ok := api.ParseHex(u.origin, 2*ed25519.PublicKeySize)
	if !ok || len(origin) != 0 && len(origin) != ed25519.PublicKeySize {
		return nil, nil, errors.New("--origin: want 64 lower-case hexadecimal digits")
	}
	record, err := s.memory.OfVolume(id)
	if err != nil {
		return nil, nil, work(err)
	}
	switch {
	case record != nil && len(origin) != 0 && !bytes.Equal(record.Origin, origin):
		return nil, nil, refuse("the VM asks for the key of a volume of %s, and not of the identity that --origin names", record.Origin)
	case record != nil && given == nil:
		given = record.Volume(id).Key
	case record == nil && len(origin) != 0:
		record = &instances.Record{Origin: origin}
	case record == nil && u.second.pin != "":
		return nil, nil, errors.New("--pin: this machine does not remember which identity the volume is of, and what a locked VM says of it is its host's word: give --origin")
	case record == nil:
		// Who it is, it has to show afterwards.
		state, err := s.client.State(ctx)
		if err != nil {
			return nil, nil, instanceError(err)
		}
		record = &instances.Record{Origin: state.Origin}
	}
	if len(given) == 0 {
		return nil, nil, refuse("the VM asks for the key of the volume %x, which %s does not remember\nCall from the machine that registered as owner, restore its --state-dir, or give --volume-key.", id, s.memory.Path)
	}
	return record, given, nil
}

// kept is what `storage show` prints of one identity: never a key.
type kept struct {
	Origin       string               `json:"origin_pubkey"`
	Instance     string               `json:"instance_pubkey"`
	URL          string               `json:"url"`
	Counter      uint64               `json:"counter"`
	Volumes      []keptVolume         `json:"volumes"`
	Measurements *client.Measurements `json:"measurements,omitempty"`
	FirstSeen    time.Time            `json:"first_seen"`
	LastSeen     time.Time            `json:"last_seen"`
}

type keptVolume struct {
	ID    string    `json:"id"`
	Owner string    `json:"owner,omitempty"`
	Made  time.Time `json:"made"`
	Key   bool      `json:"key_kept"`
}

func newStorageShow() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:     "show [ORIGIN]",
		Short:   "Show what this machine remembers of instances; never a key",
		Example: "  telemark storage show\n  telemark storage show 3b9a5f… --output json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d := &instances.Dir{Path: dir, Now: time.Now}
			records, err := d.List()
			if err != nil {
				return work(err)
			}
			out := []kept{}
			for _, r := range records {
				if len(args) == 0 || strings.HasPrefix(r.Origin.String(), strings.TrimSuffix(args[0], "…")) {
					out = append(out, keptOf(r))
				}
			}
			if len(args) == 1 && len(out) == 0 {
				return refuse("%s remembers no instance %.64q", dir, args[0])
			}
			return show(cmd, out, func(w io.Writer) { sayKept(w, dir, out) })
		},
	}
	cmd.Flags().StringVar(&dir, "state-dir", instancesDir(), "where it is remembered ($"+envInstances+")")
	return cmd
}

func keptOf(r *instances.Record) kept {
	out := kept{
		Origin: r.Origin.String(), Instance: r.Instance.String(), URL: r.URL, Counter: r.Counter,
		Volumes: []keptVolume{}, Measurements: r.Measurements, FirstSeen: r.FirstSeen, LastSeen: r.LastSeen,
	}
	for i := range r.Volumes {
		v := &r.Volumes[i]
		out.Volumes = append(out.Volumes, keptVolume{v.ID.String(), api.Hex(ed25519.PublicKey(v.Owner)).String(), v.Made, len(v.Key) != 0})
	}
	return out
}

func sayKept(w io.Writer, dir string, records []kept) {
	t := newTable(w, "began as", "where", "counter", "volume", "key", "last seen")
	for i := range records {
		r := &records[i]
		volume, key := "-", "-"
		if n := len(r.Volumes); n > 0 { // the newest
			volume, key = r.Volumes[n-1].ID, "elsewhere"
			if r.Volumes[n-1].Key {
				key = "kept"
			}
			if n > 1 {
				volume += fmt.Sprintf(" and %d before", n-1)
			}
		}
		t.AppendRow([]any{short(r.Origin), printable(r.URL), r.Counter, volume, key, when(r.LastSeen)})
	}
	t.Render()
	say(w, "%s in %s", count(len(records), "instance"), dir)
}
