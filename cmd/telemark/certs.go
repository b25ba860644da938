package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/internal/devca"
)

const (
	certsLong = `Make a development certificate authority and one certificate each for agent,
gateway, collector and registry, valid as server and as client, in DIR:

  ca.crt ca.key  agent.crt agent.key  gateway.crt gateway.key
  collector.crt collector.key  registry.crt registry.key

Every certificate is valid for localhost, 127.0.0.1, ::1, the name of its role
and the names given with --host. An authority that is already in DIR is used
again, so that certificates can be added or renewed without touching the peers.
Nothing is overwritten without --force; --force renews the certificates and
keeps the authority. Keys are readable by their owner only.

DIR/admin.token is made as well: the bearer token for the status page of the
collector. One that is there stays.

These certificates are for development: the CA key lies unencrypted beside
them, and there is no revocation.`

	certsExample = `  telemark certs ./certs
  telemark certs ./certs --host gateway.example,10.0.0.7 --days 90
  telemark certs ./certs --role agent-2
  TELEMARK_CERTS=./certs otelcol-telemark --config configs/collector.yaml`

	caName = "telemark development CA"
)

// alwaysHosts are the names that every certificate is valid for.
var alwaysHosts = []string{"localhost", "127.0.0.1", "::1"}

type certsOptions struct {
	dir   string
	roles []string
	hosts []string
	days  int
	force bool
}

// madeCert is a line of the output.
type madeCert struct {
	Role        string    `json:"role"`
	Certificate string    `json:"certificate"`
	Key         string    `json:"key"`
	Names       []string  `json:"names,omitempty"`
	NotAfter    time.Time `json:"not_after"`
	Reused      bool      `json:"reused,omitempty"`
}

func newCerts() *cobra.Command {
	var o certsOptions
	cmd := &cobra.Command{
		Use:     "certs DIR",
		Short:   "Make a development CA and certificates for agent, gateway, collector and registry",
		Long:    certsLong,
		Example: certsExample,
		Args:    operands(1, "name the directory for the certificates: telemark certs DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.dir = args[0]
			made, err := makeCerts(&o, time.Now())
			if err != nil {
				return err
			}
			if err := makeToken(o.token()); err != nil {
				return err
			}
			return show(cmd, made, func(w io.Writer) { sayCerts(w, o.dir, made) })
		},
	}
	cmd.Flags().StringSliceVar(&o.roles, "role", []string{"agent", "gateway", "collector", "registry"}, "roles to make certificates for")
	cmd.Flags().StringSliceVar(&o.hosts, "host", nil, "further names and addresses that the certificates are valid for")
	cmd.Flags().IntVar(&o.days, "days", 365, "days that the certificates are valid (1 to 3650)")
	cmd.Flags().BoolVar(&o.force, "force", false, "overwrite certificates and keys (not the CA)")
	return cmd
}

func (o *certsOptions) validate() error {
	if o.days < 1 || o.days > 3650 {
		return fmt.Errorf("--days %d: want 1 to 3650", o.days)
	}
	for _, r := range o.roles {
		if r == "" || r == "ca" || strings.ContainsAny(r, `/\ `) || strings.HasPrefix(r, ".") {
			return fmt.Errorf("--role %q: want a name that can be a file name, and not ca", r)
		}
	}
	if len(o.roles) == 0 {
		return errors.New("--role: name one at least")
	}
	for _, h := range o.hosts {
		if !hostName(h) {
			return fmt.Errorf("--host %q: want a name or an address without scheme and port, such as gateway.example or 10.0.0.7", h)
		}
	}
	return nil
}

// hostName says whether a certificate can be valid for h: an address, or a DNS
// name, that may begin with *.
func hostName(h string) bool {
	if net.ParseIP(h) != nil {
		return true
	}
	return h != "" && len(h) <= 253 && !strings.ContainsFunc(strings.TrimPrefix(h, "*."), func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._", r)
	})
}

func makeCerts(o *certsOptions, now time.Time) ([]madeCert, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if !o.force {
		if err := refuseExisting(o); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(o.dir, 0o755); err != nil { //nolint:gosec // certificates are public, keys have modes of their own
		return nil, work(err)
	}
	valid := time.Duration(o.days) * 24 * time.Hour
	ca, reused, err := openCA(o.dir, now, max(valid, 10*365*24*time.Hour))
	if err != nil {
		return nil, err
	}
	made := []madeCert{{
		Role: "ca", Certificate: o.file("ca", "crt"), Key: o.file("ca", "key"),
		NotAfter: ca.Certificate.NotAfter, Reused: reused,
	}}
	for _, role := range o.roles {
		hosts := o.names(role)
		pair, err := ca.Issue(role, hosts, now, valid)
		if err != nil {
			return nil, work(fmt.Errorf("%w; remove %s and %s to start with a new CA", err, o.file("ca", "crt"), o.file("ca", "key")))
		}
		if err := writePair(o.dir, role, pair); err != nil {
			return nil, work(err)
		}
		made = append(made, madeCert{
			Role: role, Certificate: o.file(role, "crt"), Key: o.file(role, "key"),
			Names: hosts, NotAfter: pair.Certificate.NotAfter,
		})
	}
	return made, nil
}

func (o *certsOptions) file(role, ext string) string { return filepath.Join(o.dir, role+"."+ext) }

func (o *certsOptions) token() string { return filepath.Join(o.dir, "admin.token") }

// makeToken writes a bearer token for the collector's admin listener. One that
// is there stays: whoever reads the status page has it already.
func makeToken(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	return work(writeFile(path, []byte(rand.Text()+"\n"), 0o600))
}

func (o *certsOptions) names(role string) []string {
	hosts := append([]string{role}, alwaysHosts...)
	for _, h := range o.hosts {
		if !slices.Contains(hosts, h) {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

func refuseExisting(o *certsOptions) error {
	for _, role := range o.roles {
		for _, ext := range []string{"crt", "key"} {
			if _, err := os.Lstat(o.file(role, ext)); err == nil {
				return refuse("%s is already there; use --force to replace certificates and keys (the CA stays)", o.file(role, ext))
			}
		}
	}
	return nil
}

// openCA returns the authority of dir, making it when there is none.
func openCA(dir string, now time.Time, valid time.Duration) (ca *devca.Pair, reused bool, err error) {
	crt, key := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	crtPEM, crtErr := os.ReadFile(crt)
	keyPEM, keyErr := os.ReadFile(key)
	switch {
	case errors.Is(crtErr, fs.ErrNotExist) && errors.Is(keyErr, fs.ErrNotExist):
		ca, err = devca.NewCA(caName, now, valid)
		if err != nil {
			return nil, false, work(err)
		}
		return ca, false, work(writePair(dir, "ca", ca))
	case crtErr != nil || keyErr != nil:
		return nil, false, work(fmt.Errorf("half a CA is in %s (%w); put back the missing file or remove the other", dir, errors.Join(crtErr, keyErr)))
	}
	ca, err = devca.ParseCA(crtPEM, keyPEM)
	if err != nil {
		return nil, false, work(fmt.Errorf("%s and %s: %w; remove both to start with a new CA", crt, key, err))
	}
	return ca, true, nil
}

// writePair writes the key first, so that a certificate never lies there
// without its key. Both appear under their names only when they are whole.
func writePair(dir, name string, p *devca.Pair) error {
	key, err := p.KeyPEM()
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, name+".key"), key, 0o600); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, name+".crt"), p.CertificatePEM(), 0o644)
}

// writeFile replaces a file. The new one has its mode before it has content,
// whatever the mode of the one that it replaces.
func writeFile(path string, content []byte, mode fs.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // gone by then, if all went well
	if err := errors.Join(tmp.Chmod(mode), writeAll(tmp, content), tmp.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return os.Rename(tmp.Name(), path)
}

func writeAll(f *os.File, content []byte) error {
	if _, err := f.Write(content); err != nil {
		return err
	}
	return f.Sync()
}

// absolute makes dir usable from everywhere, if it can.
func absolute(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		return abs
	}
	return dir
}

func sayCerts(w io.Writer, dir string, made []madeCert) {
	t := newTable(w, "ROLE", "CERTIFICATE", "KEY", "VALID FOR", "UNTIL")
	for _, m := range made {
		names := strings.Join(m.Names, ", ")
		if m.Reused {
			names = "(already there, used again)"
		}
		t.AppendRow([]any{m.Role, m.Certificate, m.Key, names, m.NotAfter.Format(time.DateOnly)})
	}
	t.Render()
	say(w, "")
	say(w, "The configurations of telemark find them by")
	say(w, "  export TELEMARK_CERTS=%s", absolute(dir))
	say(w, "In others, write on the side that listens")
	say(w, "  tls: {cert_file: %s, key_file: %s}", filepath.Join(dir, "gateway.crt"), filepath.Join(dir, "gateway.key"))
	say(w, "and on the side that connects")
	say(w, "  tls: {ca_file: %s}", filepath.Join(dir, "ca.crt"))
	say(w, "The status page of the collector asks for the token in %s:", filepath.Join(dir, "admin.token"))
	say(w, `  curl -H "Authorization: Bearer $(cat %s)" localhost:8445/metrics/status`, filepath.Join(dir, "admin.token"))
}
