package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// Exit codes. They are documented in the help and relied on by scripts.
const (
	exitOK      = 0
	exitRefused = 1 // the command did its work, and something was refused or found
	exitUsage   = 2 // the command line is wrong, or the work could not be done
)

// errFound says that the output holds findings or refusals: nothing more has
// to be said about it.
var errFound = errors.New("found")

// refusal is an error for which the exit code is exitRefused.
type refusal struct{ msg string }

func (r refusal) Error() string { return r.msg }

func refuse(format string, args ...any) error { return refusal{fmt.Sprintf(format, args...)} }

const rootLong = `telemark makes development certificates and keys, reads receipts out of
archived telemetry, explains why a block was refused, and checks collector
configurations for what would break the proof or lose data. It drives the
machines of a registry, and the confidential VMs that run identityd.

Exit codes:
  0  done, and nothing speaks against it
  1  done, and something was refused or found
  2  wrong usage, or the work could not be done (a file that cannot be read,
     a TPM that does not answer)`

const rootExample = `  telemark certs ./certs --host gateway.example
  telemark key create --device /dev/tpmrm0 --dir /var/lib/telemark/keys
  telemark key show --dir /var/lib/telemark/keys --name edge-a --output json > keys.json
  telemark receipt inspect --keys keys.json archive/metrics.jsonl
  telemark explain quarantine.jsonl
  telemark config lint agent.yaml
  telemark workload status https://vm.example:3443`

// newRoot wires the commands to their streams.
func newRoot(in io.Reader, out, errOut io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:           "telemark",
		Short:         "Tools for telemetry that carries proof of its origin",
		Long:          rootLong,
		Example:       rootExample,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	root.PersistentFlags().VarP(newFormat(), "output", "o", "output format: table, json or yaml")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.Version = readVersion().line()
	root.SetVersionTemplate("{{.Version}}\n")
	root.AddCommand(newCerts(), newKey(), newReceipt(), newExplain(), newConfig(), newGeofence(), newLocation(),
		newEnroll(), newEK(), newFleet(), newAudit(),
		newOperator(), newOwner(), newWorkload(), newStorage(), newUp(), newSmoke(), newLoad(), newVersion())
	return root
}

// run executes the command line and returns the exit code.
func run(args []string, in io.Reader, out, errOut io.Writer) int {
	root := newRoot(in, out, errOut)
	root.SetArgs(args)
	cmd, err := root.ExecuteC()
	var r refusal
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errFound):
		return exitRefused
	case errors.As(err, &r):
		say(errOut, "telemark: %v", err)
		return exitRefused
	default:
		say(errOut, "telemark: %v", err)
		if !errors.Is(err, errWork) {
			say(errOut, "Run '%s --help' for usage and examples.", cmd.CommandPath())
		}
		return exitUsage
	}
}

// operands refuses a command line without an operand, and says which is missing.
func operands(atMost int, missing string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return errors.New(missing)
		case len(args) > atMost:
			return fmt.Errorf("%q is one operand too many", args[atMost])
		}
		return nil
	}
}

// errWork marks errors that no other command line would avoid, so that no hint
// at the help follows them.
var errWork = errors.New("")

type workError struct{ err error }

func (w workError) Error() string   { return w.err.Error() }
func (w workError) Unwrap() []error { return []error{w.err, errWork} }

// work marks err; nil stays nil.
func work(err error) error {
	if err == nil {
		return nil
	}
	return workError{err}
}
