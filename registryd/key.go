package main

import (
	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/internal/daemon"
	"github.com/telemark-otel/telemark/registryd/internal/config"
	"github.com/telemark-otel/telemark/registryd/internal/signkey"
)

func newKey() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "key",
		Short:   "The registry's signing key",
		Example: "  registryd key show",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newKeyShow())
	return cmd
}

func newKeyShow() *cobra.Command {
	c := &config.Config{}
	var fingerprint bool
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Print what verifiers pin: the public half, as PEM",
		Long: `Print what verifiers pin: the public half of the signing key, as PEM. Carry it to
the collectors by a way that nobody on the network controls; what
GET /v1/registry-key answers is only as good as the connection.`,
		Example: "  registryd key show --key-file registry-key.pem > registry.pub",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := config.FromEnvironment(cmd.Flags()); err != nil {
				return err
			}
			key, err := signkey.Load(c.KeyFile)
			if err != nil {
				return daemon.Failed(err)
			}
			if fingerprint {
				hash, err := signkey.Fingerprint(key)
				daemon.Say(cmd.OutOrStdout(), "%s", hash)
				return daemon.Failed(err)
			}
			pem, err := signkey.Public(key)
			_, _ = cmd.OutOrStdout().Write(pem)
			return daemon.Failed(err)
		},
	}
	config.Flags(cmd.Flags(), c)
	for _, name := range daemon.Names(cmd.Flags()) {
		if name != "key-file" {
			_ = cmd.Flags().MarkHidden(name) // fails for flags that do not exist
		}
	}
	cmd.Flags().BoolVar(&fingerprint, "fingerprint", false, "print SHA-256 of the key instead")
	return cmd
}
