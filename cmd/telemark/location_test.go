package main

import (
	"fmt"
	"os"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdFix is "fix FILE": a sensor writes where it is now.
func cmdFix(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: fix file")
	}
	content := fmt.Sprintf(`{"latitude":52.52,"longitude":13.405,"accuracy":12,"time":%q,"sensor":"modem-1"}`, time.Now().UTC().Format(time.RFC3339))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(content), 0o644))
}
