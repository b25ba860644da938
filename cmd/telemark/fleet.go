package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/internal/registry/admin"
	"github.com/telemark-otel/telemark/internal/registry/api"
)

const (
	fleetLong = `See and drive the machines of a registry: who is enrolled, who waits for
approval, who is revoked; join tokens; policies; inventories.

The registry is named by --registry or ` + envRegistry + `, your role by a bearer token in
a file (--token-file or ` + envRegistryRole + `) or a client certificate.
A machine is named by its name or its EK hash.`

	fleetExample = `  export TELEMARK_REGISTRY=https://registry.example:3000 TELEMARK_REGISTRY_TOKEN_FILE=~/.telemark/admin.token
  telemark fleet list --state pending
  telemark fleet import inventory.csv --dry-run
  telemark fleet token create --uses 50 --valid-for 72h --label site=berlin > join.token
  telemark fleet approve edge-a --vouch
  telemark fleet revoke edge-a --reason stolen
  telemark fleet replace edge-a --ek-hash 4f1c… --reason "mainboard died"
  telemark fleet policy set --scope label:site=berlin --require-evidence genuine
  telemark fleet instances show 9f0a…
  telemark fleet keys --pin registry.pub > keys.json`
)

func newFleet() *cobra.Command {
	var c connection
	cmd := &cobra.Command{
		Use:     "fleet",
		Short:   "See and drive the machines of a registry",
		Long:    fleetLong,
		Example: fleetExample,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.flags(cmd)
	cmd.AddCommand(
		newFleetList(&c), newFleetShow(&c), newFleetImport(&c), newFleetApprove(&c), newFleetReject(&c),
		newFleetReplace(&c), newFleetRevoke(&c), newFleetToken(&c), newFleetPolicy(&c), newFleetInstances(&c), newFleetKeys(&c),
	)
	return cmd
}

// withRegistry runs fn with a client of the registry that the flags name.
func withRegistry(c *connection, fn func(cmd *cobra.Command, registry *admin.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		registry, err := c.client()
		if err != nil {
			return err
		}
		return fn(cmd, registry, args)
	}
}

func newFleetList(c *connection) *cobra.Command {
	var (
		state, name string
		labels      []string
	)
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List machines",
		Example: "  telemark fleet list --state pending\n  telemark fleet list --label site=berlin --output json",
		Args:    cobra.NoArgs,
		RunE: withRegistry(c, func(cmd *cobra.Command, registry *admin.Client, _ []string) error {
			query := url.Values{"limit": {"1000"}}
			set(query, "state", state)
			set(query, "name", name)
			query["label"] = labels
			all, err := allPages(cmd.Context(), query, registry.Machines)
			if err != nil {
				return answered(err)
			}
			return show(cmd, all, func(w io.Writer) { machineTable(w, all) })
		}),
	}
	cmd.Flags().StringVar(&state, "state", "", "only those in this state: pending, enrolled, expired, superseded or revoked")
	cmd.Flags().StringVar(&name, "name", "", "only those whose name begins so")
	cmd.Flags().StringArrayVar(&labels, "label", nil, "only those with this label, KEY=VALUE; may be repeated")
	return cmd
}

// allPages reads a list to its end.
func allPages[T any](ctx context.Context, query url.Values, read func(context.Context, url.Values) (*api.Page[T], error)) ([]T, error) {
	all := []T{}
	for {
		page, err := read(ctx, query)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if page.Next == "" {
			return all, nil
		}
		query.Set("after", page.Next)
	}
}

func set(query url.Values, key, value string) {
	if value != "" {
		query.Set(key, value)
	}
}

func machineTable(w io.Writer, machines []api.Machine) {
	t := newTable(w, "name", "state", "evidence", "ours by", "last seen", "labels", "machine")
	for i := range machines {
		m := &machines[i]
		t.AppendRow([]any{dash(m.Name), dash(stateOf(m)), dash(string(m.Evidence)), dash(string(m.Membership)), when(m.SeenAt), dash(labelText(m.Labels)), m.Machine})
	}
	t.Render()
	say(w, "%s", count(len(machines), "machine"))
}

func stateOf(m *api.Machine) string {
	switch {
	case m.Revoked != "":
		return "revoked: " + m.Revoked
	case m.State == "" && m.Membership == api.ByAllowList:
		return "allowed, not enrolled yet"
	case m.State == api.StateRevoked: // not the machine: it may come with another key
		return "allowed, its key is revoked"
	default:
		return string(m.State)
	}
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

func labelText(labels map[string]string) string {
	parts := make([]string, 0, len(labels))
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		parts = append(parts, k+"="+labels[k])
	}
	return strings.Join(parts, " ")
}

func newFleetShow(c *connection) *cobra.Command {
	return &cobra.Command{
		Use:     "show MACHINE|KID",
		Short:   "Show one machine and its keys",
		Long:    "Show one machine and its keys. A log line or the status page of a collector names\na key: its whole kid (000b…) finds the machine too.",
		Example: "  telemark fleet show edge-a\n  telemark fleet show 000b5d…",
		Args:    operands(1, "which machine? Give its name, its EK hash or the kid of one of its keys"),
		RunE: withRegistry(c, func(cmd *cobra.Command, registry *admin.Client, args []string) error {
			whom := args[0]
			if isKID(whom) {
				key, err := registry.Key(cmd.Context(), whom)
				if err != nil {
					return answered(err)
				}
				whom = key.Machine
			}
			m, err := registry.Machine(cmd.Context(), whom)
			if err != nil {
				return answered(err)
			}
			return showMachine(cmd, m)
		}),
	}
}

func showMachine(cmd *cobra.Command, m *api.Machine) error {
	return show(cmd, m, func(w io.Writer) {
		t := newTable(w) // the hash in the header would come out in capitals
		t.AppendRows([]table.Row{
			{"machine", m.Machine},
			{"name", dash(m.Name)},
			{"state", dash(stateOf(m))},
			{"evidence", dash(string(m.Evidence))},
			{"ours by", dash(string(m.Membership))},
			{"labels", dash(labelText(m.Labels))},
			{"EK certificate", dash(m.EKCertificate)},
			{"known since", when(m.CreatedAt)},
			{"last seen", when(m.SeenAt)},
		})
		t.Render()
		if len(m.Keys) == 0 {
			return
		}
		say(w, "")
		keys := newTable(w, "key", "state", "attested", "lease ends")
		for i := range m.Keys {
			k := &m.Keys[i]
			state := string(k.State)
			if k.Reason != "" && k.Reason != state {
				state += ": " + k.Reason
			}
			keys.AppendRow([]any{k.KID, state, when(k.AttestedAt), when(k.ExpiresAt)})
		}
		keys.Render()
	})
}

func newFleetApprove(c *connection) *cobra.Command {
	var (
		r      api.ApproveRequest
		labels []string
	)
	cmd := &cobra.Command{
		Use:   "approve MACHINE",
		Short: "Let in a machine that waits, or take back a revoked one",
		Long: `Let a machine that waits for approval into the fleet. With --vouch you say that
you know this EK hash from elsewhere (a delivery note, the machine's console): a
TPM without a certificate then counts as genuine, instead of unproven_tpm in
every verdict.

With --reinstate take back a machine that was revoked (role admin). Its keys stay
revoked: move the agent's key directory away and start it again, and it enrols a
new one.`,
		Example: "  telemark fleet approve edge-a\n  telemark fleet approve 4f1c… --name edge-a --label site=berlin --vouch",
		Args:    operands(1, "which machine? `telemark fleet list --state pending` shows who waits"),
		RunE: withRegistry(c, func(cmd *cobra.Command, registry *admin.Client, args []string) error {
			var err error
			if r.Labels, err = parseLabels(labels); err != nil {
				return err
			}
			m, err := registry.Approve(cmd.Context(), args[0], &r)
			if err != nil {
				return answered(err)
			}
			return showMachine(cmd, m)
		}),
	}
	cmd.Flags().StringVar(&r.Name, "name", "", "name for the machine, instead of the one it asked for")
	cmd.Flags().StringArrayVar(&labels, "label", nil, "label KEY=VALUE; may be repeated")
	cmd.Flags().BoolVar(&r.Vouch, "vouch", false, "you know this EK hash from elsewhere")
	cmd.Flags().BoolVar(&r.Reinstate, "reinstate", false, "take back a machine that was revoked")
	return cmd
}

// parseLabels reads KEY=VALUE; nil stays nil.
func parseLabels(texts []string) (map[string]string, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	labels := map[string]string{}
	for _, text := range texts {
		k, v, ok := strings.Cut(text, "=")
		if _, twice := labels[k]; !ok || k == "" || twice {
			return nil, fmt.Errorf("label %q: want KEY=VALUE, each key once", text)
		}
		labels[k] = v
	}
	return labels, api.CheckLabels(labels)
}

func newFleetReject(c *connection) *cobra.Command {
	return &cobra.Command{
		Use:     "reject MACHINE",
		Short:   "Delete a machine that waits for approval",
		Example: "  telemark fleet reject 4f1c…",
		Args:    operands(1, "which machine? `telemark fleet list --state pending` shows who waits"),
		RunE: withRegistry(c, func(cmd *cobra.Command, registry *admin.Client, args []string) error {
			if err := registry.Reject(cmd.Context(), args[0]); err != nil {
				return answered(err)
			}
			say(cmd.OutOrStdout(), "%s was rejected", args[0])
			return nil
		}),
	}
}

func newFleetReplace(c *connection) *cobra.Command {
	var r api.ReplaceRequest
	cmd := &cobra.Command{
		Use:   "replace MACHINE --ek-hash HASH --reason WHY",
		Short: "Give a machine's name to another TPM",
		Long: `Give name and labels of a machine to the one with another EK hash. No TPM takes
a name by itself that another one has. The old machine and its keys are
revoked; with --reason superseded what they signed before stays acceptable.`,
		Example: "  telemark fleet replace edge-a --ek-hash 4f1c… --reason superseded",
		Args:    operands(1, "which machine is replaced? Give its name or EK hash"),
		RunE: withRegistry(c, func(cmd *cobra.Command, registry *admin.Client, args []string) error {
			m, err := registry.Replace(cmd.Context(), args[0], &r)
			if err != nil {
				return answered(err)
			}
			return showMachine(cmd, m)
		}),
	}
	cmd.Flags().StringVar(&r.EKHash, "ek-hash", "", "EK hash of the machine that takes its place")
	cmd.Flags().StringVar(&r.Reason, "reason", "", "why, for verifiers and auditors")
	return cmd
}

func newFleetRevoke(c *connection) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "revoke MACHINE|KID|INSTANCE --reason WHY",
		Short: "Revoke a machine, one key, or a TDX instance",
		Long: `Revoke a machine with all its keys (by name or EK hash), one key (by its kid,
000b…), or a TDX instance (instance:PUBKEY). Verifiers refuse what arrives from
then on, also what was signed before, unless the reason is "superseded".`,
		Example: "  telemark fleet revoke edge-a --reason stolen\n  telemark fleet revoke 000b5d… --reason superseded\n  telemark fleet revoke instance:9f0a… --reason decommissioned",
		Args:    operands(1, "whom? Give a machine's name or EK hash, a kid, or instance:PUBKEY"),
		RunE: withRegistry(c, func(cmd *cobra.Command, registry *admin.Client, args []string) error {
			if reason == "" {
				return fmt.Errorf("revoke needs --reason, for verifiers and auditors")
			}
			return revoke(cmd, registry, args[0], reason)
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for verifiers and auditors")
	return cmd
}

// isKID tells a key's id from names and EK hashes, which are shorter.
func isKID(s string) bool { return len(s) == 68 && strings.HasPrefix(s, "000b") }

func revoke(cmd *cobra.Command, registry *admin.Client, whom, reason string) error {
	if pubkey, ok := strings.CutPrefix(whom, "instance:"); ok {
		i, err := registry.RevokeInstance(cmd.Context(), pubkey, reason)
		if err != nil {
			return answered(err)
		}
		return show(cmd, i, func(w io.Writer) { say(w, "instance %s is revoked: %s", pubkey, i.Revoked) })
	}
	if isKID(whom) {
		k, err := registry.RevokeKey(cmd.Context(), whom, reason)
		if err != nil {
			return answered(err)
		}
		return show(cmd, k, func(w io.Writer) { say(w, "key %s of %s is %s: %s", k.KID, k.Name, k.State, k.Reason) })
	}
	m, err := registry.RevokeMachine(cmd.Context(), whom, reason)
	if err != nil {
		return answered(err)
	}
	return showMachine(cmd, m)
}
