package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/telemark-otel/telemark/internal/podmantest"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"identityd": main})
}

func TestScripts(t *testing.T) {
	lab := httptest.NewServer(tdxlab.New("identityd").Handler())
	t.Cleanup(lab.Close)
	podman := podmantest.New(t)
	podman.Start(t)
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(env *testscript.Env) error {
			env.Setenv("LAB", lab.URL)
			env.Setenv("IDENTITYD_PODMAN_CONFIG", podman.Config)
			env.Setenv("PODMAN_SOCKET", podman.Socket)
			// A short path: podman takes no long ones.
			dir, err := os.MkdirTemp("", "id") //nolint:usetesting // see above
			if err != nil {
				return err
			}
			env.Setenv("IDENTITYD_RUN_DIR", filepath.Join(dir, "run"))
			env.Defer(func() {
				// The storage driver keeps a mount on its own directory.
				_ = unix.Unmount(filepath.Join(dir, "run-podman", "root", "overlay"), unix.MNT_DETACH)
				// A service that is killed leaves this.
				_ = unix.Unmount(filepath.Join(env.WorkDir, "disk", "private"), unix.MNT_DETACH)
				if err := os.RemoveAll(dir); err != nil {
					t.Error(err)
				}
			})
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code":        cmdCode,
			"freeport":    cmdFreePort,
			"answers":     cmdAnswers,
			"hold":        cmdHold,
			"pause":       cmdPause,
			"findprogram": cmdFindProgram,
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

// cmdFreePort is "freeport VARIABLE…".
func cmdFreePort(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		ts.Setenv(name, fmt.Sprint(ln.Addr().(*net.TCPAddr).Port))
		ts.Check(ln.Close())
	}
}

// cmdAnswers is "answers URL": it waits until there is an answer.
func cmdAnswers(ts *testscript.TestScript, _ bool, args []string) {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if resp, err := http.Get(args[0]); err == nil {
			ts.Check(resp.Body.Close())
			return
		}
	}
	ts.Fatalf("nobody answers at %s", args[0])
}

// cmdFindProgram is "findprogram NAME LINK": a link to a program in PATH.
func cmdFindProgram(ts *testscript.TestScript, _ bool, args []string) {
	found, err := exec.LookPath(args[0])
	if err != nil {
		for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
			if found, err = exec.LookPath(filepath.Join(dir, args[0])); err == nil {
				break
			}
		}
	}
	ts.Check(err)
	ts.Check(os.Symlink(found, ts.MkAbs(args[1])))
}

// cmdHold is "hold ADDRESS": a request that is begun and does not come to its
// end by itself.
func cmdHold(ts *testscript.TestScript, _ bool, args []string) {
	conn, err := net.Dial("tcp", args[0])
	ts.Check(err)
	ts.Defer(func() { _ = conn.Close() })
	_, err = conn.Write([]byte("POST /operator/register HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"))
	ts.Check(err)
}

// cmdPause is "pause TIME".
func cmdPause(ts *testscript.TestScript, _ bool, args []string) {
	d, err := time.ParseDuration(args[0])
	ts.Check(err)
	time.Sleep(d)
}
