package matrix

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/telemark-otel/telemark/test/harness"
)

type role string

// The roles; the last three are also the names of the only ones.
const (
	agent     role = "agent"
	gateway   role = "gateway"
	stock     role = "stock" // a gateway of upstream components
	collector role = "collector"
)

// node is one collector: a shipped configuration, the overlay for TLS or
// none, and what tests and scripts put on top.
type node struct {
	*harness.Process
	role role
	dir  string

	grpc    string // host:port of OTLP over gRPC
	otlp    string // host:port of OTLP over HTTP
	http    string // host:port of its own HTTP side
	admin   string // host:port of its admin listener
	health  string // host:port of the health check
	metrics string // URL of its own metrics

	overlays []string
	fix      string           // the position file; agents only
	kid      string           // agents only
	tpm      *harness.Process // of agents whose TPM scripts end
	tpmPort  int
}

func (n *node) keyDir() string { return filepath.Join(n.dir, "keys") }

func (n *node) device() string {
	if n.tpmPort != 0 {
		return fmt.Sprintf("tcp:localhost:%d", n.tpmPort)
	}
	return "swtpm:" + filepath.Join(n.dir, "tpm")
}

// add makes a node that does not run yet.
func (w *world) add(name string, r role) (*node, error) {
	ports, err := harness.FreePorts(7)
	if err != nil {
		return nil, err
	}
	at := func(i int) string { return "localhost:" + strconv.Itoa(ports[i]) }
	bin, file := "otelcol-telemark", string(r)
	if r == stock {
		bin, file = "otelcol-stock", "gateway-stock"
	}
	path, err := harness.Bin(bin)
	if err != nil {
		return nil, err
	}
	n := &node{
		role: r, dir: filepath.Join(w.dir, name),
		health: at(0), grpc: at(2), otlp: at(3), http: at(4), admin: at(5), metrics: "http://" + at(1) + "/metrics",
		Process: &harness.Process{Name: name, Path: path, Log: filepath.Join(w.dir, name+".log")},
	}
	n.fix = filepath.Join(n.dir, "position.json")
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		return nil, err
	}
	n.overlays = append([]string{filepath.Join(harness.Root(), "configs", file+".yaml")}, w.transport(r)...)
	n.overlays = append(n.overlays, overlay(string(r)))
	n.Env = []string{
		"HEALTH=" + n.health, "TELEMARK_METRICS_PORT=" + strconv.Itoa(ports[1]), "TELEMARK_OTLP_GRPC=" + n.grpc, "TELEMARK_OTLP_HTTP=" + n.otlp,
		"HOST=localhost", "PORT=" + strconv.Itoa(ports[4]), "TELEMARK_STATE=" + n.dir, "TELEMARK_CERTS=" + w.certificates(), "LOG_LEVEL=info",
	}
	switch r {
	case agent:
		n.Env = append(n.Env, "SWTPM_DIR="+filepath.Join(n.dir, "tpm"), "SERVICE_NAME="+name, "SERVICE_VERSION=1.0", "OTEL_ENDPOINT="+w.nodes[string(gateway)].grpc,
			"TELEMARK_NONCES="+w.scheme()+"://"+w.way.relay, "POSITION="+n.fix)
	case gateway:
		n.Env = append(n.Env, "TELEMARK_GATEWAY_ADMIN="+n.admin, "OTEL_ENDPOINT="+w.way.Addr, "TELEMARK_NONCES="+w.scheme()+"://"+w.nodes[string(collector)].http)
	case collector:
		n.Env = append(n.Env, "TELEMARK_ADMIN="+n.admin, "TELEMARK_METRICS_HTTP="+at(6), "TELEMARK_KEYS="+w.keys, "TELEMARK_ARCHIVE="+n.dir,
			"TELEMARK_BACKEND=http://localhost:1", "TELEMARK_BACKEND_METRICS=http://localhost:1")
	case stock:
		n.Env = append(n.Env, "TELEMARK_COLLECTOR="+w.way.Addr)
	default:
		return nil, fmt.Errorf("there is no role %q", r)
	}
	w.nodes[name] = n
	return n, nil
}

// transport returns what makes a role use no TLS at all, or TLS with
// certificates on both sides.
func (w *world) transport(r role) []string {
	switch {
	case w.certs != nil:
		return []string{overlay(string(r) + "-mutual")}
	case r == stock:
		return []string{overlay("stock-plain")}
	default:
		return []string{filepath.Join(harness.Root(), "configs", string(r)+"-plaintext.yaml")}
	}
}

func overlay(name string) string {
	return filepath.Join(harness.Root(), "test", "matrix", "testdata", "overlays", name+".yaml")
}

// run starts a node and waits until it is ready.
func (w *world) run(n *node) error {
	n.Args = nil
	files := n.overlays
	if n.role == agent {
		files = append([]string{files[0], w.swtpm(n)}, files[1:]...)
	}
	for _, f := range files {
		n.Args = append(n.Args, "--config", f)
	}
	if err := n.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return n.Ready(ctx, nil, "http://"+n.health)
}

// swtpm is the overlay for an agent's software TPM.
func (w *world) swtpm(n *node) string {
	name := "agent-swtpm.yaml"
	if n.tpmPort != 0 {
		name = "agent-swtpm-server.yaml"
	}
	return filepath.Join(harness.Root(), "configs", name)
}

// serveTPM gives a machine a software TPM that the script can end.
func (w *world) serveTPM(n *node) error {
	ports, err := harness.FreePorts(1)
	if err != nil {
		return err
	}
	swtpm, err := exec.LookPath("swtpm")
	if err != nil {
		return errors.New("swtpm is not installed: run 'make setup'")
	}
	state := filepath.Join(n.dir, "tpm")
	if err := os.MkdirAll(state, 0o700); err != nil {
		return err
	}
	n.tpmPort = ports[0]
	n.Env = append(n.Env, "SWTPM_PORT="+strconv.Itoa(n.tpmPort))
	n.tpm = &harness.Process{Name: n.Name + "'s TPM", Path: swtpm, Log: filepath.Join(n.dir, "tpm.log"), Args: []string{
		"socket", "--tpm2", "--tpmstate", "dir=" + state, "--flags", "not-need-init,startup-clear",
		"--server", fmt.Sprintf("type=tcp,port=%d", n.tpmPort),
	}}
	return n.startTPM()
}

// startTPM starts the TPM and waits until it listens.
func (n *node) startTPM() error {
	if err := n.tpm.Start(); err != nil {
		return err
	}
	return eventually(func() error {
		conn, err := net.Dial("tcp", fmt.Sprintf("localhost:%d", n.tpmPort))
		if err != nil {
			return fmt.Errorf("%w\n%s", err, n.tpm.Tail(5))
		}
		return conn.Close()
	})
}

// adminToken is the bearer token of the admin listeners where there are no
// certificates that 'telemark certs' could put one beside.
const adminToken = "matrix-admin-token"

func (w *world) token() (string, error) {
	token, err := os.ReadFile(filepath.Join(w.certificates(), "admin.token"))
	return strings.TrimSpace(string(token)), err
}

// certificates are those of one authority: for each role, for the network in
// between, and for the applications, which are the test.
type certificates struct {
	dir             string
	network, client *tls.Config
}

func makeCertificates(dir string) (*certificates, error) {
	bin, err := harness.Bin("telemark")
	if err != nil {
		return nil, err
	}
	if out, err := exec.Command(bin, "certs", dir, "--role", "agent,gateway,collector,network,application").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("telemark certs: %w\n%s", err, out)
	}
	c := &certificates{dir: dir}
	if c.network, err = c.config("network"); err != nil {
		return nil, err
	}
	c.client, err = c.config("application")
	return c, err
}

// config is for both sides: what it shows, and whom it trusts.
func (c *certificates) config(name string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(c.dir, name+".crt"), filepath.Join(c.dir, name+".key"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(filepath.Join(c.dir, "ca.crt"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, errors.New("ca.crt holds no certificate")
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, RootCAs: pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
	}, nil
}

// grpcCredentials are those of config, nil for no TLS.
func grpcCredentials(config *tls.Config) credentials.TransportCredentials {
	if config == nil {
		return insecure.NewCredentials()
	}
	return credentials.NewTLS(config.Clone())
}

// networkTLS and clientTLS are nil without TLS.
func (w *world) networkTLS() *tls.Config {
	if w.certs == nil {
		return nil
	}
	return w.certs.network
}

func (w *world) clientTLS() *tls.Config {
	if w.certs == nil {
		return nil
	}
	return w.certs.client
}

// stopTime is how long a node may take to end when it is asked to.
const stopTime = 30 * time.Second
