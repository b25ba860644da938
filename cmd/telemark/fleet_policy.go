package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/internal/registry/admin"
	"github.com/telemark-otel/telemark/internal/registry/api"
)

const (
	policyLong = `List, set and delete policies: what is demanded of the data of all machines
(scope default), of those with a label (label:KEY=VALUE), or of one (name:NAME).
Where several apply, each member is taken from the narrowest that has it.
Verifiers know of a change within a second or two.`

	policyExample = `  telemark fleet policy set --scope default --require-evidence genuine --bind host.name=name
  telemark fleet policy set --scope label:site=berlin --freshness live --location berlin.json
  telemark fleet policy list
  telemark fleet policy delete label:site=berlin`

	maxLocationFile = 4 << 20
)

func newFleetPolicy(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "policy",
		Short:   "List, set and delete policies",
		Long:    policyLong,
		Example: policyExample,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newPolicyList(c), newPolicySet(c), newPolicyDelete(c))
	return cmd
}

func newPolicyList(c *connection) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List policies",
		Example: "  telemark fleet policy list",
		Args:    cobra.NoArgs,
		RunE: withRegistry(c, func(cmd *cobra.Command, registry *admin.Client, _ []string) error {
			policies, err := registry.Policies(cmd.Context())
			if err != nil {
				return answered(err)
			}
			return show(cmd, policies, func(w io.Writer) {
				t := newTable(w, "scope", "bind", "freshness", "evidence", "location", "revision", "changed", "by")
				for i := range policies {
					p := &policies[i]
					t.AppendRow([]any{p.Scope, dash(labelText(p.Bind)), dash(p.Freshness), dash(p.RequireEvidence), dash(locationText(p.Location)), p.Revision, when(p.UpdatedAt), p.UpdatedBy})
				}
				t.Render()
			})
		}),
	}
}

// locationText is a location policy on a line. A drawn area is only named.
func locationText(policy json.RawMessage) string {
	const most = 96
	var members map[string]any
	if len(policy) == 0 {
		return ""
	}
	if json.Unmarshal(policy, &members) != nil {
		return "set"
	}
	var words []string
	for _, name := range slices.Sorted(maps.Keys(members)) {
		switch v := members[name].(type) {
		case map[string]any:
			words = append(words, name)
		case []any:
			for _, one := range v {
				words = append(words, fmt.Sprintf("%s=%v", name, one))
			}
		default:
			words = append(words, fmt.Sprintf("%s=%v", name, v))
		}
	}
	text := []rune(printable(strings.Join(words, " ")))
	if len(text) > most {
		text = append(text[:most-1], '…')
	}
	return string(text)
}

func newPolicySet(c *connection) *cobra.Command {
	var (
		p        api.Policy
		bind     []string
		location string
	)
	cmd := &cobra.Command{
		Use:     "set --scope SCOPE",
		Short:   "Set the policy of a scope, as a whole",
		Long:    "Set the policy of a scope. What was set for this scope before is replaced as a\nwhole. --location names a file with a location policy as in a key file: members\nrequired, sources, max_age, max_accuracy, within (GeoJSON), regions (names of\nareas that the verifiers have), mode, max_speed.",
		Example: policyExample,
		Args:    cobra.NoArgs,
		RunE: withRegistry(c, func(cmd *cobra.Command, registry *admin.Client, _ []string) error {
			if p.Scope == "" {
				return errors.New("which scope? Give --scope default, label:KEY=VALUE or name:NAME")
			}
			var err error
			if p.Bind, err = parseLabels(bind); err != nil {
				return fmt.Errorf("--bind: %w", err)
			}
			if p.Location, err = readLocation(location); err != nil {
				return err
			}
			written, err := registry.PutPolicy(cmd.Context(), &p)
			if err != nil {
				return answered(err)
			}
			return show(cmd, written, func(w io.Writer) { say(w, "policy %s is in force since revision %d", written.Scope, written.Revision) })
		}),
	}
	cmd.Flags().StringVar(&p.Scope, "scope", "", "default, label:KEY=VALUE or name:NAME")
	cmd.Flags().StringArrayVar(&bind, "bind", nil, "resource attribute that must name the machine, ATTRIBUTE=name or ATTRIBUTE=label:KEY; may be repeated")
	cmd.Flags().StringArrayVar(&p.BindRequired, "bind-required", nil, "bound attribute that every resource must have; may be repeated")
	cmd.Flags().StringVar(&p.Freshness, "freshness", "", "the least that is accepted: live, stale or sequence")
	cmd.Flags().StringVar(&p.RequireEvidence, "require-evidence", "", "genuine, or any")
	cmd.Flags().StringVar(&location, "location", "", "file with a location policy")
	return cmd
}

func readLocation(name string) (json.RawMessage, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, work(fmt.Errorf("--location: %w", err))
	}
	defer func() { _ = f.Close() }()
	content, err := io.ReadAll(io.LimitReader(f, maxLocationFile+1))
	switch {
	case err != nil:
		return nil, work(fmt.Errorf("--location: %w", err))
	case len(content) > maxLocationFile || !json.Valid(content):
		return nil, work(fmt.Errorf("--location: %s is not JSON of at most %d bytes", name, maxLocationFile))
	}
	return content, nil
}

func newPolicyDelete(c *connection) *cobra.Command {
	return &cobra.Command{
		Use:     "delete SCOPE",
		Short:   "Delete the policy of a scope",
		Example: "  telemark fleet policy delete label:site=berlin",
		Args:    operands(1, "which scope? `telemark fleet policy list` shows them"),
		RunE: withRegistry(c, func(cmd *cobra.Command, registry *admin.Client, args []string) error {
			if err := registry.DeletePolicy(cmd.Context(), args[0]); err != nil {
				return answered(err)
			}
			say(cmd.OutOrStdout(), "policy %s was deleted", args[0])
			return nil
		}),
	}
}
