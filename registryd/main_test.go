package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"registryd": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code":      cmdCode,
			"mode":      cmdMode,
			"authfile":  cmdAuthFile,
			"freeport":  cmdFreePort,
			"waitready": cmdWaitReady,
		},
	})
}

// cmdCode is "code N COMMAND…": the command exits with code N.
func cmdCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N command…")
	}
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		code = exit.ExitCode()
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// cmdMode is "mode 0600 FILE".
func cmdMode(ts *testscript.TestScript, neg bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	want, err := strconv.ParseUint(args[0], 8, 32)
	ts.Check(err)
	if same := uint64(info.Mode().Perm()) == want; same == neg {
		ts.Fatalf("%s has mode %v", args[1], info.Mode())
	}
}

// cmdAuthFile is "authfile FILE ENTRY": an auth file with one entry.
func cmdAuthFile(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte("tokens:\n"+ts.ReadFile(args[1])), 0o600))
}

// cmdFreePort is "freeport VARIABLE".
func cmdFreePort(ts *testscript.TestScript, _ bool, args []string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv(args[0], fmt.Sprint(ln.Addr().(*net.TCPAddr).Port))
	ts.Check(ln.Close())
}

// cmdWaitReady waits until the registry of $REGISTRYD_LISTEN takes connections.
func cmdWaitReady(ts *testscript.TestScript, _ bool, _ []string) {
	address := "127.0.0.1" + strings.TrimPrefix(ts.Getenv("REGISTRYD_LISTEN"), "127.0.0.1")
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if conn, err := net.Dial("tcp", address); err == nil {
			ts.Check(conn.Close())
			return
		}
	}
	ts.Fatalf("nobody listens on %s", address)
}
