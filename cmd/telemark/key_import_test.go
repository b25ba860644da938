package main

import (
	"os"
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/telemark-otel/telemark/internal/tpm/swtpm"
	"github.com/telemark-otel/telemark/internal/tpm/tpmtest"
)

// cmdTPM2 is "tpm2 DIR SCRIPT": tpm2-tools work with the software TPM of a
// directory, which is made when there is none, and off again afterwards.
func cmdTPM2(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: tpm2 dir script")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o700))
	socket := filepath.Join(dir, "tools")
	p, err := swtpm.Serve(dir, socket)
	ts.Check(err)
	defer p.Stop(0)
	out, err := tpmtest.RunTools(socket, ts.MkAbs("."), ts.ReadFile(args[1]))
	ts.Check(err)
	ts.Logf("%s", out)
}
