package harness

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/telemark-otel/telemark/internal/registry/admin"
	"github.com/telemark-otel/telemark/internal/registry/api"
)

// Registry is a registryd process in a directory of its own.
type Registry struct {
	*Process
	Dir       string
	URL       string
	Pin       string // file with its public key
	Roots     string // directory of TPM vendors' certificates
	JoinFile  string // join token, once MakeJoinToken was called
	AdminFile string // bearer token with every role
	ViewFile  string // bearer token of a verifier
	Client    *admin.Client
}

// RegistryOptions say how a registry listens. Without certificates it is plain
// HTTP on loopback.
type RegistryOptions struct {
	Port      int // 0 is any
	Cert, Key string
	TLS       *tls.Config // of the client
	Args      []string    // further flags
	Replica   *Registry   // take signing key and tokens of this one
	Untrusted bool        // leave out the vendors' roots
}

// NewRegistry makes a registry in dir: its directories, its tokens and its
// process, which is not started.
func NewRegistry(dir string, o RegistryOptions) (*Registry, error) {
	path, err := Bin("registryd")
	if err != nil {
		return nil, err
	}
	r := &Registry{
		Dir: dir, Pin: filepath.Join(dir, "registry-key.pem.pub"), Roots: filepath.Join(dir, "ek-roots"),
		JoinFile: filepath.Join(dir, "join.token"), AdminFile: filepath.Join(dir, "admin.token"), ViewFile: filepath.Join(dir, "viewer.token"),
	}
	if err := os.MkdirAll(r.Roots, 0o750); err != nil {
		return nil, err
	}
	auth, key := filepath.Join(dir, "auth.yaml"), filepath.Join(dir, "registry-key.pem")
	if other := o.Replica; other != nil {
		auth, key = filepath.Join(other.Dir, "auth.yaml"), filepath.Join(other.Dir, "registry-key.pem")
		r.Pin, r.Roots, r.JoinFile, r.AdminFile, r.ViewFile = other.Pin, other.Roots, other.JoinFile, other.AdminFile, other.ViewFile
	} else if err := r.makeTokens(path, auth); err != nil {
		return nil, err
	}
	if o.Port == 0 {
		ports, err := FreePorts(1)
		if err != nil {
			return nil, err
		}
		o.Port = ports[0]
	}
	scheme := "http"
	args := []string{
		"serve", "--listen", fmt.Sprintf("127.0.0.1:%d", o.Port), "--db", filepath.Join(dir, "registry.db"),
		"--key-file", key, "--auth-file", auth,
	}
	if !o.Untrusted {
		args = append(args, "--ek-roots", r.Roots)
	}
	if o.Cert != "" {
		scheme = "https"
		args = append(args, "--tls-cert", o.Cert, "--tls-key", o.Key)
	}
	host := "127.0.0.1"
	if scheme == "https" {
		host = "localhost"
	}
	r.URL = fmt.Sprintf("%s://%s:%d", scheme, host, o.Port)
	r.Process = &Process{Name: "registryd", Path: path, Args: append(args, o.Args...), Log: filepath.Join(dir, "log.jsonl")}
	token, err := os.ReadFile(r.AdminFile)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: o.TLS}}
	r.Client, err = admin.New(r.URL, client, strings.TrimSpace(string(token)))
	return r, err
}

// makeTokens makes bearer tokens as an operator does: the token goes to a file
// for its holder, its hash into the auth file.
func (r *Registry) makeTokens(registryd, auth string) error {
	entries := []byte("tokens:\n")
	for _, t := range []struct{ name, role, file string }{
		{"ops", "viewer,approver,auditor,admin", r.AdminFile},
		{"collector", "viewer", r.ViewFile},
	} {
		var token bytes.Buffer
		cmd := exec.Command(registryd, "token", t.name, "--role", t.role)
		cmd.Stderr = &token
		entry, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("registryd token: %w\n%s", err, token.String())
		}
		entries = append(entries, entry...)
		if err := os.WriteFile(t.file, bytes.TrimSpace(token.Bytes()), 0o600); err != nil {
			return err
		}
	}
	return os.WriteFile(auth, entries, 0o600)
}

// WaitReady waits until the registry answers that it is ready. It gives up when
// the process ends.
func (r *Registry) WaitReady(ctx context.Context, client *http.Client) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.URL+"/ready", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		if !r.Running() {
			return fmt.Errorf("registryd ended before it was ready; its last lines:\n%s", r.Tail(15))
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("registryd is not ready, see %s", r.Log), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Trust adds the certificates of the authority that made a software TPM to the
// vendors' roots.
func (r *Registry) Trust(tpmDir, name string) error {
	certs, err := filepath.Glob(filepath.Join(tpmDir, "ca", "*cert.pem"))
	if err != nil {
		return err
	}
	if len(certs) == 0 {
		return fmt.Errorf("%s holds no certificate authority", tpmDir)
	}
	for _, cert := range certs {
		content, err := os.ReadFile(cert)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(r.Roots, name+"-"+filepath.Base(cert)), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// MakeJoinToken makes a join token for so many machines and writes it to
// JoinFile.
func (r *Registry) MakeJoinToken(ctx context.Context, request *api.TokenRequest) error {
	created, err := r.Client.CreateToken(ctx, request)
	if err != nil {
		return fmt.Errorf("make a join token: %w", err)
	}
	return os.WriteFile(r.JoinFile, []byte(created.Token+"\n"), 0o600)
}
