package main

import (
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/telemark-otel/telemark/internal/daemon"
	"github.com/telemark-otel/telemark/registryd/internal/auth"
)

const tokenLong = `Make a bearer token for a person or program. The token goes to the error
stream, once, for its holder; the entry for the auth file, which holds only its
hash, goes to the output, to stand under tokens: in that file:

  tokens:
  - name: collector-fra
    sha256: …
    roles: [viewer]

registryd keeps no token: who loses one gets another. (Join tokens, which
machines enrol with, are something else: telemark fleet token create.)`

func newToken() *cobra.Command {
	var roles []string
	var validFor time.Duration
	cmd := &cobra.Command{
		Use:     "token NAME --role ROLE,…",
		Short:   "Make a bearer token and its entry of the auth file",
		Long:    tokenLong,
		Example: "  registryd token collector-fra --role viewer\n  (umask 077; registryd token ops --role admin --valid-for 2160h 2> ops.token >> auth.yaml)",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			token, entry, err := auth.NewToken(args[0], roles)
			if err != nil {
				return err
			}
			if validFor > 0 {
				entry.Expires = time.Now().UTC().Add(validFor).Truncate(time.Second)
			}
			line, err := yaml.Marshal([]auth.FileToken{entry})
			if err != nil {
				return daemon.Failed(err)
			}
			daemon.Say(cmd.ErrOrStderr(), "%s", token)
			daemon.Say(cmd.OutOrStdout(), "%s", strings.TrimRight(string(line), "\n"))
			return nil
		},
	}
	cmd.Flags().StringSliceVar(&roles, "role", nil, "what its holder may be: "+strings.Join(auth.Names, ", "))
	cmd.Flags().DurationVar(&validFor, "valid-for", 0, "how long the token is good; 0 is without end")
	_ = cmd.MarkFlagRequired("role") // fails for flags that do not exist
	return cmd
}
