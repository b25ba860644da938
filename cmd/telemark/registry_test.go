package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// registryd builds the daemon once, for all scripts of this run.
var registryd = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "registryd")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "registryd")
	out, err := exec.Command("go", "build", "-o", path, "../../registryd").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build registryd: %w\n%s", err, out)
	}
	return path, nil
})

// cmdRegistry is "registry": a registry runs until the end of the script, and
// the environment names it; admin.token, viewer.token and registry.pub are there.
func cmdRegistry(ts *testscript.TestScript, _ bool, _ []string) {
	path, err := registryd()
	ts.Check(err)
	auth := []byte("tokens:\n")
	for name, roles := range map[string]string{"admin": "viewer,approver,auditor,admin", "viewer": "viewer"} {
		make := exec.Command(path, "token", name, "--role", roles)
		file, err := os.OpenFile(ts.MkAbs(name+".token"), os.O_CREATE|os.O_WRONLY, 0o600)
		ts.Check(err)
		make.Stderr = file
		entry, err := make.Output()
		ts.Check(err)
		ts.Check(file.Close())
		auth = append(auth, entry...)
	}
	ts.Check(os.WriteFile(ts.MkAbs("auth.yaml"), auth, 0o600))

	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	address := l.Addr().String()
	ts.Check(l.Close())
	serve := exec.Command(path, "serve", "--listen", address, "--db", ts.MkAbs("registry.db"),
		"--key-file", ts.MkAbs("registry.key"), "--auth-file", ts.MkAbs("auth.yaml"))
	log, err := os.Create(ts.MkAbs("registryd.log"))
	ts.Check(err)
	serve.Stdout, serve.Stderr = log, log
	ts.Check(serve.Start())
	ts.Defer(func() {
		_ = serve.Process.Kill()
		_ = serve.Wait()
		_ = log.Close()
	})
	ts.Setenv("TELEMARK_REGISTRY", "http://"+address)
	ts.Setenv("TELEMARK_REGISTRY_TOKEN_FILE", ts.MkAbs("admin.token"))
	ts.Check(ready("http://" + address + "/ready"))
}

func ready(url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("registryd is not ready: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
