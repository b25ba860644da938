package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/internal/daemon"
	"github.com/telemark-otel/telemark/registryd/internal/config"
)

// version is set by the linker (-X main.version=…).
var version string

const rootLong = `registryd is the registry: it enrols machines by their TPM and instances by
their TDX quote, keeps who is who and the policies, and tells verifying
collectors under its signature.

Each flag has an environment variable, which its help shows; the flag comes
first. Files are read again on SIGHUP: certificates, the auth file, EK roots.

Exit codes: 0 done, 1 it could not be done, 2 wrong usage or configuration.`

const rootExample = `  registryd --db registry.db --ek-roots /etc/telemark/ek-roots --auth-file auth.yaml
  (umask 077; registryd token collector-fra --role viewer 2> collector.token >> auth.yaml)    # under tokens:
  registryd key show --key-file registry-key.pem > registry.pub
  registryd healthcheck --url https://registry.example:3000 --ca ca.crt`

func newRoot(out, errOut io.Writer) *cobra.Command {
	c := &config.Config{}
	root := &cobra.Command{
		Use:           "registryd",
		Short:         "The registry of telemark: who is who, proven by the hardware",
		Long:          rootLong,
		Example:       rootExample,
		Version:       daemon.Version(version),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return serve(cmd, c) },
	}
	root.SetOut(out)
	root.SetErr(errOut)
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.CompletionOptions.HiddenDefaultCmd = true
	config.Flags(root.Flags(), c)
	root.AddCommand(newServe(), newToken(), newKey(), newHealthcheck())
	return root
}

func newServe() *cobra.Command {
	c := &config.Config{}
	cmd := &cobra.Command{
		Use:     "serve",
		Short:   "Serve (what registryd does without a command, too)",
		Example: "  registryd serve --listen :3000 --tls-cert registry.crt --tls-key registry.key --auth-file auth.yaml",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return serve(cmd, c) },
	}
	config.Flags(cmd.Flags(), c)
	return cmd
}

// run executes the command line and returns the exit code.
func run(args []string, out, errOut io.Writer) int {
	return daemon.Run(newRoot(out, errOut), args, errOut)
}
