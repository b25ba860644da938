package main

import (
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/internal/registry/admin"
	"github.com/telemark-otel/telemark/internal/registry/api"
)

const fleetInstancesLong = `List TDX instances, and what the registry verified of each: what runs, and whether
the temporary way in (SSH) is closed.

Such a fact was so when the quote was made, in that boot of the VM ("as of"): it
says nothing of later, and after a reboot the instance has to say it anew. Look
at one with ` + "`telemark fleet instances show`" + `.`

func newFleetInstances(c *connection) *cobra.Command {
	var state, operator, owner string
	cmd := &cobra.Command{
		Use:     "instances",
		Short:   "List TDX instances and what is known of them",
		Long:    fleetInstancesLong,
		Example: "  telemark fleet instances --state verified\n  telemark fleet instances --owner 5e3c… --output json\n  telemark fleet instances show 9f0a…",
		Args:    cobra.NoArgs,
		RunE: withRegistry(c, func(cmd *cobra.Command, registry *admin.Client, _ []string) error {
			query := url.Values{"limit": {"1000"}}
			set(query, "state", state)
			set(query, "operator", operator)
			set(query, "owner", owner)
			all, err := allPages(cmd.Context(), query, registry.Instances)
			if err != nil {
				return answered(err)
			}
			return show(cmd, all, func(w io.Writer) { instanceTable(w, all) })
		}),
	}
	cmd.Flags().StringVar(&state, "state", "", "only those in this state: verified, unverified, expired, superseded or revoked")
	cmd.Flags().StringVar(&operator, "operator", "", "only those of this operator, by its public key in hexadecimal")
	cmd.Flags().StringVar(&owner, "owner", "", "only those of this owner, by its public key in hexadecimal")
	cmd.AddCommand(newFleetInstance(c))
	return cmd
}

func instanceTable(w io.Writer, instances []api.Instance) {
	t := newTable(w, "instance", "state", "tcb", "owner", "ssh", "image", "as of", "evidence", "lease ends")
	for i := range instances {
		in := &instances[i]
		ssh, image, asOf, evidence := "-", "-", "-", "-"
		if f := in.Facts; f != nil {
			ssh, image, asOf, evidence = f.SSH, dash(f.Image), when(f.AsOf), string(f.Evidence)
		}
		t.AppendRow([]any{
			hexOf(in.Pubkey), string(in.State), dash(in.TCBStatus), party(in.Owner), ssh, image, asOf, evidence, when(in.ExpiresAt),
		})
	}
	t.Render()
	say(w, "%s", count(len(instances), "instance"))
}

func party(p *api.Party) string {
	if p == nil {
		return "-"
	}
	return fmt.Sprintf("%.8x…", []byte(p.Pubkey))
}

func hexOf(b []byte) string { return fmt.Sprintf("%x", b) }

func newFleetInstance(c *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "show INSTANCE",
		Short: "Show one TDX instance, and what its quote proves",
		Long: `Show one TDX instance: who it is, what the registry verified, when, and what
stands behind it. INSTANCE is its public key in hexadecimal. Quote and statement,
to verify them yourself, are in the JSON that viewers get.`,
		Example: "  telemark fleet instances show 9f0a…\n  telemark fleet instances show 9f0a… --output json",
		Args:    operands(1, "which instance? Give its public key, 64 hexadecimal digits"),
		RunE: withRegistry(c, func(cmd *cobra.Command, registry *admin.Client, args []string) error {
			i, err := registry.Instance(cmd.Context(), strings.ToLower(args[0]))
			if err != nil {
				return answered(err)
			}
			return show(cmd, i, func(w io.Writer) { oneInstance(w, i) })
		}),
	}
}

func oneInstance(w io.Writer, i *api.Instance) {
	t := newTable(w)
	t.AppendRows([]table.Row{
		{"instance", hexOf(i.Pubkey)},
		{"state", instanceState(i)},
		{"operator", partyKey(i.Operator)},
		{"owner", partyKey(i.Owner)},
		{"registered", when(i.RegisteredAt)},
		{"verified", fmt.Sprintf("%s, by the policy %s, generation %d (freshness: %s)", when(i.VerifiedAt), dash(i.Policy), i.Generation, i.Freshness)},
		{"lease ends", when(i.ExpiresAt)},
		{"platform", platform(i)},
	})
	if m := i.Measurements; m != nil {
		t.AppendRow(table.Row{"MRTD", hexOf(m.MRTD)})
	}
	t.AppendRows(factRows(i.Facts))
	t.Render()
	if i.Facts == nil {
		say(w, "It says nothing of what runs in it: it registered without a statement.")
		return
	}
	say(w, "")
	say(w, "%s", worthOfFacts(i))
}

func instanceState(i *api.Instance) string {
	switch {
	case i.Revoked != "":
		return "revoked: " + i.Revoked
	case i.Facts != nil && len(i.Facts.SupersededBy) > 0:
		return "superseded: the identity goes on with " + hexOf(i.Facts.SupersededBy)
	default:
		return string(i.State)
	}
}

func partyKey(p *api.Party) string {
	if p == nil {
		return "-"
	}
	return hexOf(p.Pubkey)
}

func platform(i *api.Instance) string {
	text := dash(i.TCBStatus)
	if len(i.Advisories) > 0 {
		text += " (" + strings.Join(i.Advisories, ", ") + ")"
	}
	if !i.PPIDProven {
		text += ", and nothing proves which machine it is"
	}
	return text
}

func factRows(f *api.InstanceFacts) []table.Row {
	if f == nil {
		return nil
	}
	step := ""
	if f.Step != "" {
		step = ", with the step " + f.Step + " under way"
	}
	return []table.Row{
		{"identity", "began with " + hexOf(f.Origin)},
		{"boot", f.Boot},
		{"says it is", f.State + step + ", counter " + strconv.FormatUint(f.Counter, 10)},
		{"image", dash(f.Image)},
		{"SSH", sshFact(f)},
		{"evidence", evidenceOfFacts(f)},
	}
}

// sshFact is the sentence that an auditor asks for.
func sshFact(f *api.InstanceFacts) string {
	asOf := fmt.Sprintf("as of %s, in boot %s", when(f.AsOf), f.Boot)
	switch f.SSH {
	case "closed":
		text := "closed " + asOf
		if !f.SSHClosedSeen.IsZero() && !f.SSHClosedSeen.Equal(f.AsOf) {
			text += "; first seen closed " + when(f.SSHClosedSeen)
		}
		if !f.SSHClosed.IsZero() {
			text += "; closed since " + when(f.SSHClosed) + " by the VM's own clock"
		}
		return text
	case "never_opened":
		return "never opened " + asOf
	default:
		return f.SSH + " " + asOf
	}
}

func evidenceOfFacts(f *api.InstanceFacts) string {
	switch f.Evidence {
	case api.FactsRTMR3:
		return "rtmr3: the register of the verified quote holds these events and nothing else"
	case api.FactsStatement:
		if f.RTMR3Base != "" {
			return "statement: RTMR3 holds these events on top of what is not known here (" + f.RTMR3Base + ")"
		}
		return "statement: the verified quote vouches for the words, and no register for the events"
	case api.FactsUnverified:
		return "unverified: nobody verified the quote, so that anybody can have said this"
	default:
		return string(f.Evidence)
	}
}

// worthOfFacts says what the facts are worth.
func worthOfFacts(i *api.Instance) string {
	switch {
	case i.Facts.Evidence == api.FactsUnverified:
		return "None of this is proven: the registry runs with verification switched off, or nothing proves the platform."
	case i.State != api.TDXVerified:
		return "It was so then. The instance is " + string(i.State) + " now."
	default:
		return "The VM said so in a quote that was made after that time, and its word is worth what runs in it: pin MRTD and\n" +
			"RTMR0 to 2 in the registry's TDX policy. It holds for that boot. What was put into persisted directories\n" +
			"before SSH was closed is still there."
	}
}
