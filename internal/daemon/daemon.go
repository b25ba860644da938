// Package daemon is what the daemons of this house share of being programs: exit
// codes, flags with environment variables, a log, and the question whether one
// is there.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Exit codes.
const (
	ExitOK     = 0
	ExitFailed = 1 // the work could not be done, or the daemon is not healthy
	ExitUsage  = 2 // the command line or a file that it names is wrong
)

// failure is an error that no other command line would avoid.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

// Failed marks an error that no other command line would avoid; nil stays nil.
func Failed(err error) error {
	if err == nil {
		return nil
	}
	return failure{err}
}

// Run executes a command line and returns the exit code.
func Run(root *cobra.Command, args []string, errOut io.Writer) int {
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(context.Background())
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, new(failure)):
		Say(errOut, "%s: %v", root.Name(), err)
		return ExitFailed
	default:
		Say(errOut, "%s: %v", root.Name(), err)
		Say(errOut, "Run '%s --help' for usage.", cmd.CommandPath())
		return ExitUsage
	}
}

// Say writes lines for people; what cannot be written to a closed pipe is lost.
func Say(w io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) }

// Version is the linker's, or else the module's.
func Version(linked string) string {
	if linked != "" {
		return linked
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "dev"
}

// NewLogger returns a log in JSON lines on standard error, from the level that
// --log-level names.
func NewLogger(level string) (*zap.Logger, error) {
	conf := zap.NewProductionConfig()
	parsed, err := zapcore.ParseLevel(level)
	if err != nil {
		return nil, fmt.Errorf("--log-level %.32q: want debug, info, warn or error", level)
	}
	conf.Level = zap.NewAtomicLevelAt(parsed)
	conf.EncoderConfig.EncodeTime = zapcore.RFC3339TimeEncoder
	conf.EncoderConfig.TimeKey = "time"
	conf.DisableCaller, conf.DisableStacktrace = true, true
	return conf.Build()
}

// Variables says which environment variable each flag has: a word of its own, or
// the prefix and the flag's name.
type Variables struct {
	Prefix string // such as REGISTRYD_
	Own    map[string]string
}

// Of returns the environment variable of a flag.
func (v Variables) Of(flag string) string {
	if name, ok := v.Own[flag]; ok {
		return name
	}
	return v.Prefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Document writes each flag's variable into its help.
func (v Variables) Document(fs *pflag.FlagSet) {
	fs.VisitAll(func(f *pflag.Flag) { f.Usage += " [$" + v.Of(f.Name) + "]" })
}

// Apply sets the flags that were not given from their variables.
func (v Variables) Apply(fs *pflag.FlagSet) error {
	var errs []error
	fs.VisitAll(func(f *pflag.Flag) {
		value, ok := os.LookupEnv(v.Of(f.Name))
		if !ok || value == "" || f.Changed {
			return
		}
		if err := fs.Set(f.Name, value); err != nil {
			// The value is not repeated: the variable may hold a password.
			errs = append(errs, fmt.Errorf("$%s: not a value of --%s", v.Of(f.Name), f.Name))
		}
	})
	return errors.Join(errs...)
}

// Names returns the names of all flags.
func Names(fs *pflag.FlagSet) []string {
	var out []string
	fs.VisitAll(func(f *pflag.Flag) { out = append(out, f.Name) })
	return out
}
