package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/internal/receipt"
)

// version is set by the linker (-X main.version=…); otherwise the module's is
// shown.
var version string

type versionInfo struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Profile string `json:"receipt_profile"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Show the version of telemark and of the receipts that it reads",
		Example: "  telemark version\n  telemark version --output json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := readVersion()
			return show(cmd, v, func(w io.Writer) {
				say(w, "%s", v.line())
				if v.Commit != "" {
					say(w, "commit %s", v.Commit)
				}
				say(w, "receipts: %s", v.Profile)
			})
		},
	}
}

func (v versionInfo) line() string {
	return fmt.Sprintf("telemark %s (%s, %s/%s)", v.Version, v.Go, v.OS, v.Arch)
}

func readVersion() versionInfo {
	v := versionInfo{Version: version, Profile: receipt.Profile, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if v.Version == "" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v.Commit = s.Value
		}
	}
	return v
}
