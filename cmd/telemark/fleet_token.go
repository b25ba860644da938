package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/internal/registry/admin"
	"github.com/telemark-otel/telemark/internal/registry/api"
)

const joinLong = `Make, list and delete join tokens. A machine that knows one is ours; whether it
is genuine its EK certificate or an inventory says. The token is printed once,
and is a secret: put it into a file with mode 0600 on the machines that are to
join (tpm::registry::token_file). It never travels: machines prove that they
know it.`

const joinExample = `  (umask 077; telemark fleet token create --uses 50 --valid-for 72h --label site=berlin > join.token)
  telemark fleet token create --name edge-a`

func newFleetToken(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "token",
		Short:   "Make, list and delete join tokens",
		Long:    joinLong,
		Example: joinExample + "\n  telemark fleet token list\n  telemark fleet token delete f5a090aa83d6abb1",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newTokenCreate(c), newTokenList(c), newTokenDelete(c))
	return cmd
}

func newTokenCreate(c *connection) *cobra.Command {
	var (
		r      api.TokenRequest
		labels []string
	)
	cmd := &cobra.Command{
		Use:     "create",
		Short:   "Make a join token",
		Long:    "Make a join token, and print it: nothing else goes to standard output, so that\nit can be written to a file.",
		Example: joinExample,
		Args:    cobra.NoArgs,
		RunE: withRegistry(c, func(cmd *cobra.Command, registry *admin.Client, _ []string) error {
			if r.Uses < 1 {
				return fmt.Errorf("--uses %d: want 1 or more", r.Uses)
			}
			var err error
			if r.Labels, err = parseLabels(labels); err != nil {
				return err
			}
			t, err := registry.CreateToken(cmd.Context(), &r)
			if err != nil {
				return answered(err)
			}
			say(cmd.ErrOrStderr(), "token %s: %d uses until %s, names %s", t.ID, t.Uses, when(t.ExpiresAt), t.NamePattern)
			return show(cmd, t, func(w io.Writer) { say(w, "%s", t.Token) })
		}),
	}
	cmd.Flags().IntVar(&r.Uses, "uses", 1, "how many machines may join")
	cmd.Flags().StringVar(&r.ValidFor, "valid-for", "24h", "how long it is good for")
	cmd.Flags().StringVar(&r.Name, "name", "", "the one name that may join")
	cmd.Flags().StringVar(&r.NamePattern, "names", "", "which names may join, like 'edge-*' (in quotes, or the shell expands it)")
	cmd.Flags().StringArrayVar(&labels, "label", nil, "label KEY=VALUE for machines that join; may be repeated")
	cmd.Flags().StringVar(&r.Note, "note", "", "what it is for")
	return cmd
}

func newTokenList(c *connection) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List join tokens, without what makes them work",
		Example: "  telemark fleet token list --output json",
		Args:    cobra.NoArgs,
		RunE: withRegistry(c, func(cmd *cobra.Command, registry *admin.Client, _ []string) error {
			tokens, err := registry.Tokens(cmd.Context())
			if err != nil {
				return answered(err)
			}
			return show(cmd, tokens, func(w io.Writer) {
				t := newTable(w, "token", "used", "names", "until", "labels", "by", "note")
				for i := range tokens {
					k := &tokens[i]
					t.AppendRow([]any{k.ID, fmt.Sprintf("%d of %d", k.Used, k.Uses), k.NamePattern, when(k.ExpiresAt), dash(labelText(k.Labels)), k.CreatedBy, dash(k.Note)})
				}
				t.Render()
			})
		}),
	}
}

func newTokenDelete(c *connection) *cobra.Command {
	return &cobra.Command{
		Use:     "delete ID",
		Short:   "Delete a join token; machines that joined stay",
		Example: "  telemark fleet token delete f5a090aa83d6abb1",
		Args:    operands(1, "which token? `telemark fleet token list` shows them"),
		RunE: withRegistry(c, func(cmd *cobra.Command, registry *admin.Client, args []string) error {
			if err := registry.DeleteToken(cmd.Context(), args[0]); err != nil {
				return answered(err)
			}
			say(cmd.OutOrStdout(), "token %s was deleted", args[0])
			return nil
		}),
	}
}
