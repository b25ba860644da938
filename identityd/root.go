package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/identityd/internal/config"
	"github.com/telemark-otel/telemark/internal/daemon"
)

// version is set by the linker (-X main.version=…).
var version string

const rootLong = `identityd is the identity service of a confidential VM: it gives the VM its key,
lets an operator and then an owner take their roles, unlocks encrypted storage,
runs the owner's container with temporary SSH, and closes the door behind them.

Each flag has an environment variable, which its help shows; the flag comes
first. It runs as root and needs gocryptfs, fuse3 and podman.

Exit codes: 0 done, 1 it could not be done, 2 wrong usage or configuration.`

const rootExample = `  identityd --registry-url https://registry.example:3000 --registry-key registry.pub
  identityd --require-v1 --require-tls --publish-tls :8443          # tokens over TLS only, an attested proxy in front
  identityd --dev --mock-tdx-url http://127.0.0.1:9000 --storage-path /tmp/storage --run-dir /dev/shm/identityd
  identityd healthcheck`

func newRoot(out, errOut io.Writer) *cobra.Command {
	c := &config.Config{}
	root := &cobra.Command{
		Use:           "identityd",
		Short:         "The identity service of a confidential VM",
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
	root.AddCommand(newServe(), newHealthcheck())
	return root
}

func newServe() *cobra.Command {
	c := &config.Config{}
	cmd := &cobra.Command{
		Use:     "serve",
		Short:   "Serve (what identityd does without a command, too)",
		Example: "  identityd serve --registry-url https://registry.example:3000 --registry-key registry.pub",
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
