package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/telemark-otel/telemark/test/harness"
)

// The machines of the demonstration. One is revoked in mid-run. The stranger has
// a TPM like the others, but nobody enrolled it.
var agentNames = []string{"edge-a", "edge-b"}

const (
	doomed   = "edge-c"
	stranger = "stranger"
)

// machines are those that enrol.
func machines() []string { return append(slices.Clone(agentNames), doomed) }

// demo is the fleet and what is known of it.
type demo struct {
	dir      string
	cli      string
	ours     string // the distribution
	stock    string // upstream modules only
	app      string // the SDK application
	certs    string
	keysFile string // what the registry knows of keys, for auditors; no process reads it
	registry *harness.Registry
	stopFeed func()

	collector, gateway, backend *harness.Process
	agents                      map[string]*agent
	procs                       []*harness.Process // all, in the order of their start
	ports                       map[string]int
	hostile                     *harness.Hostile
	attackReceiver              string // where an application on edge-b sends what is attacked

	expect   []expectation
	archived map[string]int // blocks of the attacked stream, by service
	counts   counts
}

// agent is one machine.
type agent struct {
	*harness.Process
	name    string
	logFile string
	otlp    string // host:port, gRPC
	metrics string // URL of its own telemetry
}

// expectation says how often a service of the attacks must be archived.
type expectation struct {
	row     int
	service string
	times   int
}

func newDemo(dir string) (*demo, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	d := &demo{dir: dir, certs: filepath.Join(dir, "certs"), keysFile: filepath.Join(dir, "keys.json"), agents: map[string]*agent{}, ports: map[string]int{}}
	for name, path := range map[string]*string{"telemark": &d.cli, "otelcol-telemark": &d.ours, "otelcol-stock": &d.stock} {
		if *path, err = harness.Bin(name); err != nil {
			return nil, err
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, err
	}
	d.app = filepath.Join(dir, "sdk-go")
	if out, err := exec.Command("go", "build", "-o", d.app, "./examples/sdk-go").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the SDK application: %w\n%s", err, out)
	}
	names := []string{
		"gateway.grpc", "gateway.http", "gateway.metrics", "collector.grpc", "collector.http", "collector.otlpmetrics", "collector.nonce", "collector.admin", "collector.metrics",
		"backend.http", "backend.metrics", "attack", "registry",
	}
	for _, a := range append(machines(), stranger) {
		names = append(names, a+".grpc", a+".http", a+".metrics", a+".health")
	}
	free, err := harness.FreePorts(len(names))
	if err != nil {
		return nil, err
	}
	for i, name := range names {
		d.ports[name] = free[i]
	}
	return d, nil
}

func (d *demo) addr(name string) string { return fmt.Sprintf("127.0.0.1:%d", d.ports[name]) }

func (d *demo) metricsURL(name string) string {
	return "http://" + d.addr(name+".metrics") + "/metrics"
}

func (d *demo) run(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, d.cli, args...)
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			return nil, fmt.Errorf("telemark %v: %w\n%s", args, err, exit.Stderr)
		}
		return nil, fmt.Errorf("telemark %v: %w", args, err)
	}
	return out, nil
}

func (d *demo) makeCertificates(ctx context.Context) error {
	_, err := d.run(ctx, "certs", d.certs)
	return err
}

// start runs the shipped configurations in the order in which data flows back.
func (d *demo) start(ctx context.Context) error {
	d.backend = d.process("backend", d.stock, "test/demo/backend.yaml", nil,
		"BACKEND_HTTP="+d.addr("backend.http"), "BACKEND_DIR="+filepath.Join(d.dir, "backend"))
	d.collector = d.process("collector", d.ours, "configs/collector.yaml", []string{"configs/collector-registry.yaml", "test/demo/collector.yaml"},
		"TELEMARK_ARCHIVE="+filepath.Join(d.dir, "archive"), "TELEMARK_REGISTRY="+d.registry.URL, "TELEMARK_REGISTRY_PIN="+d.registry.Pin,
		"TELEMARK_OTLP_GRPC="+d.addr("collector.grpc"), "TELEMARK_OTLP_HTTP="+d.addr("collector.http"), "TELEMARK_METRICS_HTTP="+d.addr("collector.otlpmetrics"),
		"TELEMARK_COLLECTOR_HTTP="+d.addr("collector.nonce"), "TELEMARK_ADMIN="+d.addr("collector.admin"),
		"TELEMARK_BACKEND=http://"+d.addr("backend.http"), "TELEMARK_BACKEND_METRICS=http://"+d.addr("backend.http")+"/v1/metrics")
	d.gateway = d.process("gateway", d.stock, "configs/gateway-stock.yaml", nil,
		"TELEMARK_OTLP_GRPC="+d.addr("gateway.grpc"), "TELEMARK_OTLP_HTTP="+d.addr("gateway.http"), "TELEMARK_COLLECTOR="+d.addr("collector.grpc"))
	for _, p := range []*harness.Process{d.backend, d.collector, d.gateway} {
		if err := d.launch(ctx, p); err != nil {
			return err
		}
	}
	if err := d.startHostile(); err != nil {
		return err
	}
	d.attackReceiver = d.addr("attack")
	for _, name := range machines() {
		overlays := []string{"configs/agent-registry.yaml"}
		if name == "edge-b" {
			overlays = append(overlays, "test/demo/attacked.yaml")
		}
		if err := d.startAgent(ctx, name, d.addr("gateway.grpc"), overlays); err != nil {
			return err
		}
	}
	return d.awaitEnrolment(ctx)
}

func (d *demo) startAgent(ctx context.Context, name, gateway string, overlays []string) error {
	dir := filepath.Join(d.dir, name)
	a := &agent{name: name, logFile: filepath.Join(dir, "app.log"), otlp: d.addr(name + ".grpc"), metrics: d.metricsURL(name)}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	if err := os.WriteFile(a.logFile, nil, 0o600); err != nil {
		return err
	}
	a.Process = d.process(name, d.ours, "configs/agent.yaml", overlays,
		"TPM2_DEVICE=swtpm:"+filepath.Join(dir, "tpm"), "TELEMARK_LOGS="+a.logFile, "TELEMARK_LOGS_START=beginning", "TELEMARK_INTERVAL=1s",
		"TELEMARK_REGISTRY="+d.registry.URL, "TELEMARK_JOIN_TOKEN="+d.registry.JoinFile, "TELEMARK_NAME="+name,
		"TELEMARK_NONCES=https://"+d.addr("collector.nonce"), "TELEMARK_GATEWAY="+gateway,
		"TELEMARK_AGENT_HTTP="+d.addr(name+".health"), "TELEMARK_OTLP_GRPC="+a.otlp, "TELEMARK_OTLP_HTTP="+d.addr(name+".http"),
		"ATTACK_RECEIVER="+d.addr("attack"), "ATTACK_GATEWAY="+d.hostile.Addr)
	d.agents[name] = a
	return d.launch(ctx, a.Process)
}

// startStranger starts the agent that nobody enrolled, behind the hostile
// gateway; its host metrics are what is refused.
func (d *demo) startStranger(ctx context.Context) error {
	return d.startAgent(ctx, stranger, d.hostile.Addr, nil)
}

func (d *demo) process(name, bin, config string, overlays []string, env ...string) *harness.Process {
	args := []string{"--config", config}
	for _, o := range overlays {
		args = append(args, "--config", o)
	}
	return &harness.Process{
		Name: name, Path: bin, Args: args, Log: filepath.Join(d.dir, name+".log"),
		Env: append(env, "TELEMARK_CERTS="+d.certs, "TELEMARK_STATE="+filepath.Join(d.dir, name), fmt.Sprintf("TELEMARK_METRICS_PORT=%d", d.ports[name+".metrics"])),
	}
}

// launch starts p and waits until its own telemetry answers, which is after all
// its components have started.
func (d *demo) launch(ctx context.Context, p *harness.Process) error {
	if err := p.Start(); err != nil {
		return err
	}
	d.procs = append(d.procs, p)
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	return p.Ready(ctx, nil, d.metricsURL(p.Name))
}

// startHostile listens with the gateway's certificate and sends on as the
// gateway does: whoever holds the path holds these.
func (d *demo) startHostile() error {
	cert, err := tls.LoadX509KeyPair(filepath.Join(d.certs, "gateway.crt"), filepath.Join(d.certs, "gateway.key"))
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(filepath.Join(d.certs, "ca.crt"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	next, err := grpc.NewClient(d.addr("collector.grpc"), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{cert}})))
	if err != nil {
		return err
	}
	d.hostile, err = harness.NewHostile(next, grpc.Creds(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}})))
	return err
}

// close ends what still runs, sources first.
func (d *demo) close() {
	for _, p := range slices.Backward(d.procs) {
		_ = p.Stop(20 * time.Second)
	}
	if d.hostile != nil {
		d.hostile.Close()
	}
}

func (d *demo) printAddresses() {
	fmt.Println("\nThe agents run again, and telemetry flows until interrupted (Ctrl-C):")
	for _, name := range agentNames {
		fmt.Printf("  %-9s OTLP gRPC %s · OTLP HTTP http://%s · own metrics %s\n", name, d.addr(name+".grpc"), d.addr(name+".http"), d.metricsURL(name))
	}
	fmt.Printf("  gateway   OTLP gRPC %s (TLS)\n", d.addr("gateway.grpc"))
	fmt.Printf("  collector OTLP gRPC %s (TLS) · nonces https://%s/nonce · own metrics %s\n",
		d.addr("collector.grpc"), d.addr("collector.nonce"), d.metricsURL("collector"))
	fmt.Printf("  registry  %s · bin/telemark fleet list --registry %s --token-file %s --ca %s\n", d.registry.URL, d.registry.URL, d.registry.AdminFile, filepath.Join(d.certs, "ca.crt"))
	fmt.Printf("  status    curl -H \"Authorization: Bearer $(cat %s)\" http://%s/metrics/status\n", filepath.Join(d.certs, "admin.token"), d.addr("collector.admin"))
	fmt.Printf("  evidence  bin/telemark receipt inspect --summary --keys %s %s\n", d.keysFile, filepath.Join(d.dir, "archive", "*.jsonl"))
	fmt.Printf("  logs      %s\n", filepath.Join(d.dir, "*.log"))
}

// names returns the name of each enrolled key id.
func (d *demo) names() (map[string]string, error) {
	raw, err := os.ReadFile(d.keysFile)
	if err != nil {
		return nil, err
	}
	var file struct {
		Keys []struct{ KID, Name string }
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		return nil, fmt.Errorf("%s: %w", d.keysFile, err)
	}
	out := map[string]string{}
	for _, k := range file.Keys {
		out[k.KID] = k.Name
	}
	return out, nil
}
