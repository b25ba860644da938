package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

// Fleet is a set of collectors in one directory, wired together without TLS:
// agents, stock gateways and receiving collectors. What a test needs besides
// is given as overlays, YAML that the collector merges over the generated one.
type Fleet struct {
	Dir string
	// Devices are the TPMs of agents, by name, that are to use another one than
	// a software TPM of their own.
	Devices map[string]string
	// Registry is where agents enrol and collectors learn keys; without one
	// keys come from a file.
	Registry *Registry
}

func (f *Fleet) device(agent string) string {
	if d := f.Devices[agent]; d != "" {
		return d
	}
	return "swtpm:" + filepath.Join(f.Dir, agent, "tpm")
}

// Root is the root of the module.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// Bin returns the path of a binary that make builds, and an error that says
// how when it is not there.
func Bin(name string) (string, error) {
	path := filepath.Join(Root(), "bin", name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s is not built: run 'make build gateway' first", name)
	}
	return path, nil
}

// Node is one collector of a fleet.
type Node struct {
	*Process
	Dir       string
	GRPC      string // host:port of its OTLP gRPC receiver
	HTTP      string // http://host:port of its OTLP HTTP receiver
	Telemetry string // URL of its own metrics
	Health    string // URL of its health check
	Nonce     string // URL of its nonce server; collectors only
	Admin     string // URL of its admin listener; collectors only
	Metrics   string // archive files; collectors only
	Logs      string
	Traces    string
}

// WaitReady waits until the node answers its health check.
func (n *Node) WaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	return n.Ready(ctx, nil, n.Health)
}

// Scrape reads the node's own telemetry.
func (n *Node) Scrape(ctx context.Context) (Samples, error) { return Scrape(ctx, n.Telemetry) }

// common is the part that every node has: health, own telemetry, OTLP in.
const common = `
extensions:
  health_check: {endpoint: "%[1]s"}
  file_storage: {directory: "%[2]s/storage", create_directory: true, fsync: %[6]t}
receivers:
  otlp:
    protocols:
      grpc: {endpoint: "%[3]s", max_recv_msg_size_mib: 64}
      http: {endpoint: "%[4]s"}
service:
  telemetry:
    logs: {encoding: json}
    metrics:
      level: detailed
      readers:
        - pull: {exporter: {prometheus: {host: 127.0.0.1, port: %[5]s, without_type_suffix: true, without_units: true, without_scope_info: true}}}
`

// Queued are the fields by which an exporter of a fleet keeps on disk what it
// sends, and tries again until it is taken.
const Queued = `sending_queue: {storage: file_storage, queue_size: 100000}, retry_on_failure: {max_elapsed_time: 0, initial_interval: 100ms, max_interval: 2s}`

func (f *Fleet) node(name, bin string, fsync bool, config string, overlays []string) (*Node, error) {
	path, err := Bin(bin)
	if err != nil {
		return nil, err
	}
	ports, err := FreePorts(6)
	if err != nil {
		return nil, err
	}
	addr := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", ports[i]) }
	dir := filepath.Join(f.Dir, name)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, err
	}
	n := &Node{
		Dir: dir, GRPC: addr(1), HTTP: "http://" + addr(2),
		Telemetry: fmt.Sprintf("http://%s/metrics", addr(3)), Health: "http://" + addr(0),
		Nonce: "http://" + addr(4), Admin: "http://" + addr(5),
		Metrics: filepath.Join(dir, "metrics.jsonl"), Logs: filepath.Join(dir, "logs.jsonl"), Traces: filepath.Join(dir, "traces.jsonl"),
	}
	base := fmt.Sprintf(common, addr(0), dir, addr(1), addr(2), fmt.Sprint(ports[3]), fsync)
	config = strings.NewReplacer("$DIR", dir, "$NONCE", addr(4), "$ADMIN", addr(5)).Replace(config)
	args := []string{}
	for i, text := range append([]string{base, config}, overlays...) {
		file := filepath.Join(dir, fmt.Sprintf("config-%d.yaml", i))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return nil, err
		}
		args = append(args, "--config", file)
	}
	n.Process = &Process{Name: name, Path: path, Args: args, Log: filepath.Join(dir, "log.jsonl")}
	return n, nil
}

// enrolling is the section of an agent that enrols, under its own name.
func (f *Fleet) enrolling(name string) string {
	if f.Registry == nil {
		return ""
	}
	return fmt.Sprintf("registry: {endpoint: %q, token_file: %q, name: %q}", f.Registry.URL, f.Registry.JoinFile, name)
}

// trusting is what a collector takes keys from, and the extension it needs.
func (f *Fleet) trusting(keysFile string) (keys, extension string) {
	if f.Registry == nil {
		return fmt.Sprintf("{file: %q}", keysFile), ""
	}
	return fmt.Sprintf(`{registry: {endpoint: %q, pin_file: %q, cache: "$DIR/registry.cache", auth: {authenticator: bearertokenauth}}}`, f.Registry.URL, f.Registry.Pin),
		fmt.Sprintf("bearertokenauth: {filename: %q}", f.Registry.ViewFile)
}

// Agent makes an agent that sends to the OTLP gRPC address next and fetches
// nonces from the URL nonce; with an empty one it signs without nonces.
func (f *Fleet) Agent(name, next, nonce string, overlays ...string) (*Node, error) {
	if nonce != "" {
		nonce = fmt.Sprintf("nonce: {endpoint: %q}", nonce)
	}
	config := fmt.Sprintf(`
extensions:
  tpm:
    device: "%s"
    key: {dir: "$DIR/keys"}
    storage: file_storage
    %s
    %s
processors:
  tpmsign: {pending: {storage: file_storage}}
exporters:
  otlp: {endpoint: "%s", tls: {insecure: true}, %s}
service:
  extensions: [health_check, file_storage, tpm]
  pipelines:
    metrics: {receivers: [otlp], processors: [tpmsign], exporters: [otlp]}
    logs: {receivers: [otlp], processors: [tpmsign], exporters: [otlp]}
    traces: {receivers: [otlp], processors: [tpmsign], exporters: [otlp]}
`, f.device(name), nonce, f.enrolling(name), next, Queued)
	return f.node(name, "otelcol-telemark", true, config, overlays)
}

// Gateway makes a stock gateway that batches and passes on to next.
func (f *Fleet) Gateway(name, next string, overlays ...string) (*Node, error) {
	config := fmt.Sprintf(`
processors:
  batch: {timeout: 100ms}
exporters:
  otlp: {endpoint: "%s", tls: {insecure: true}, %s}
service:
  extensions: [health_check, file_storage]
  pipelines:
    metrics: {receivers: [otlp], processors: [batch], exporters: [otlp]}
    logs: {receivers: [otlp], processors: [batch], exporters: [otlp]}
    traces: {receivers: [otlp], processors: [batch], exporters: [otlp]}
`, next, Queued)
	return f.node(name, "otelcol-stock", true, config, overlays)
}

// Collector makes a receiving collector that trusts the keys of the file, or
// those of the fleet's registry, and archives what it verified, receipts kept.
// With rotation the file exporter writes each request through.
func (f *Fleet) Collector(name, keysFile string, overlays ...string) (*Node, error) {
	keys, authenticator := f.trusting(keysFile)
	extensions := "health_check, file_storage, nonce"
	if authenticator != "" {
		extensions += ", bearertokenauth"
	}
	config := fmt.Sprintf(`
extensions:
  %s
  nonce: {endpoint: "$NONCE", admin: {endpoint: "$ADMIN"}, storage: file_storage, gap_timeout: 2s}
processors:
  tpmverify:
    keys: %s
    receipts: keep
exporters:
  file/metrics: {path: "$DIR/metrics.jsonl", rotation: {max_megabytes: 200, max_backups: 0}}
  file/logs: {path: "$DIR/logs.jsonl", rotation: {max_megabytes: 200, max_backups: 0}}
  file/traces: {path: "$DIR/traces.jsonl", rotation: {max_megabytes: 200, max_backups: 0}}
service:
  extensions: [%s]
  pipelines:
    metrics: {receivers: [otlp], processors: [tpmverify], exporters: [file/metrics]}
    logs: {receivers: [otlp], processors: [tpmverify], exporters: [file/logs]}
    traces: {receivers: [otlp], processors: [tpmverify], exporters: [file/traces]}
`, authenticator, keys, extensions)
	return f.node(name, "otelcol-telemark", true, config, overlays)
}

// Enrol creates the keys of agents before they start and writes them to a file
// as tpmverify reads it.
func (f *Fleet) Enrol(ctx context.Context, keysFile string, agents ...string) error {
	cli, err := Bin("telemark")
	if err != nil {
		return err
	}
	show := []string{"key", "show", "--output", "json"}
	errs := make([]error, len(agents))
	var wg sync.WaitGroup
	for i, agent := range agents {
		show = append(show, "--dir", filepath.Join(f.Dir, agent, "keys"), "--name", agent)
		wg.Go(func() { errs[i] = f.createKey(ctx, cli, agent) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, cli, show...).Output()
	if err != nil {
		return fmt.Errorf("telemark key show: %w", err)
	}
	return os.WriteFile(keysFile, out, 0o600)
}

func (f *Fleet) createKey(ctx context.Context, cli, agent string) error {
	dir := filepath.Join(f.Dir, agent)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	create := exec.CommandContext(ctx, cli, "key", "create", "--device", f.device(agent), "--dir", filepath.Join(dir, "keys"))
	if out, err := create.CombinedOutput(); err != nil {
		return fmt.Errorf("telemark key create: %w\n%s", err, out)
	}
	return nil
}
