package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/telemark-otel/telemark/test/harness"
)

// common is the part of a configuration that every collector has. The queue is
// that of the shipped configurations but in memory: a disk would cost all
// variants the same and hide what they differ in, which is our components alone.
const common = `
extensions:
  health_check: {endpoint: "$HEALTH"}
  pprof: {endpoint: "$PPROF"}
  file_storage: {directory: "$DIR/storage", create_directory: true, fsync: true}
receivers:
  otlp: {protocols: {grpc: {endpoint: "$OTLP", max_recv_msg_size_mib: 64}}}
exporters:
  otlp_grpc:
    endpoint: "$SINK"
    compression: "$COMPRESSION"
    tls: {insecure: true}
    timeout: 60s
    sending_queue: $QUEUE
    retry_on_failure: {enabled: false}
service:
  telemetry:
    logs: {encoding: json}
    metrics:
      readers:
        - pull: {exporter: {prometheus: {host: 127.0.0.1, port: $TELEMETRY, without_type_suffix: true, without_units: true, without_scope_info: true}}}
  extensions: [$EXTENSIONS]
  pipelines:
    metrics: {receivers: [otlp], processors: [$PROCESSORS], exporters: [otlp_grpc]}
    logs: {receivers: [otlp], processors: [$PROCESSORS], exporters: [otlp_grpc]}
    traces: {receivers: [otlp], processors: [$PROCESSORS], exporters: [otlp_grpc]}
`

// flushAfter is when a batch is sent that has not filled, so how long a slice
// has a tail: 200 ms as shipped.
const flushAfter = 50 * time.Millisecond

// The queues that exporters can have. Without one, a request is answered when
// the sink has it.
var queues = map[string]string{
	"memory": fmt.Sprintf("{queue_size: 100000, batch: {sizer: items, min_size: 8192, flush_timeout: %v}}", flushAfter),
	"none":   "{enabled: false}",
}

// What our components need besides, as shipped.
const (
	signing = `
extensions:
  tpm:
    device: "$DEVICE"
    key: {dir: "$DIR/keys"}
    storage: file_storage
    nonce: {endpoint: "$NONCES"}
processors:
  tpmsign: {pending: {storage: file_storage, wait: 30s, copy: never}}
`
	verifying = `
extensions:
  nonce: {endpoint: "$NONCE_LISTEN", admin: {endpoint: "$ADMIN"}, storage: file_storage}
processors:
  tpmverify: {keys: {file: "$KEYS"}}
`
	plainExtensions = "health_check, pprof, file_storage"
)

// collector is one running process with a sink of its own behind it.
type collector struct {
	*harness.Process
	sink      *sink
	sender    *sender
	telemetry string
	health    string
	pprof     string
	nonces    string // URL of its nonce server
	sent      int64  // items that were sent to it
}

// wiring is how one collector differs from the others.
type wiring struct {
	name       string
	dir        string
	bin        string   // "" is the one that make builds
	zip        bool     // compresses what it sends
	zipped     bool     // is sent compressed data
	queue      string   // of queues
	config     string   // merged over common, "" for a baseline
	extensions string   // besides plainExtensions
	processors string   // of every pipeline
	replace    []string // further variables and their values
}

func compression(zip bool) string {
	if zip {
		return "gzip"
	}
	return "none"
}

func startCollector(ctx context.Context, w wiring) (*collector, error) {
	bin := w.bin
	if bin == "" {
		built, err := harness.Bin("otelcol-telemark")
		if err != nil {
			return nil, err
		}
		bin = built
	}
	ports, err := harness.FreePorts(6)
	if err != nil {
		return nil, err
	}
	addr := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", ports[i]) }
	dir := filepath.Join(w.dir, w.name)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, err
	}
	behind, err := newSink()
	if err != nil {
		return nil, err
	}
	c := &collector{
		sink: behind, sender: newSender(addr(0), w.zipped),
		health: "http://" + addr(1), telemetry: "http://" + addr(2) + "/metrics", pprof: addr(5), nonces: "http://" + addr(3),
	}
	extensions := plainExtensions
	if w.extensions != "" {
		extensions += ", " + w.extensions
	}
	values := strings.NewReplacer(append(w.replace,
		"$DIR", dir, "$OTLP", addr(0), "$HEALTH", addr(1), "$TELEMETRY", fmt.Sprint(ports[2]),
		"$NONCE_LISTEN", addr(3), "$ADMIN", addr(4), "$PPROF", addr(5), "$SINK", behind.endpoint, "$QUEUE", queues[w.queue], "$COMPRESSION", compression(w.zip),
		"$EXTENSIONS", extensions, "$PROCESSORS", w.processors)...)
	var args []string
	for i, text := range []string{common, w.config} {
		if text == "" {
			continue
		}
		file := filepath.Join(dir, fmt.Sprintf("config-%d.yaml", i))
		if err := os.WriteFile(file, []byte(values.Replace(text)), 0o600); err != nil {
			return nil, err
		}
		args = append(args, "--config", file)
	}
	c.Process = &harness.Process{Name: w.name, Path: bin, Args: args, Log: filepath.Join(dir, "log.jsonl")}
	if err := c.Start(); err != nil {
		behind.close()
		return nil, err
	}
	ready, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := c.Ready(ready, nil, c.health); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *collector) close() {
	_ = c.Stop(10 * time.Second)
	c.sender.close()
	c.sink.close()
}

func (c *collector) scrape(ctx context.Context) (harness.Samples, error) {
	return harness.Scrape(ctx, c.telemetry)
}

// sum adds up what our components call name; the Collector puts "otelcol" and,
// for some kinds, the kind in front.
func sum(s harness.Samples, name string, want ...string) float64 {
	total := 0.0
	for _, prefix := range []string{"otelcol_", "otelcol_processor_", "otelcol_extension_"} {
		total += s.Sum(prefix+name, want...)
	}
	return total
}

// fleet is every variant of agent and collector of one compression, all alive
// at once.
type fleet struct {
	zip        bool
	chip       *chip
	signer     *presigner
	agents     variants
	collectors variants
}

// variants are the same pipeline with our processor, without it, and without
// it again.
type variants struct {
	with, base, control *collector
}

func (v *variants) all() []*collector { return []*collector{v.with, v.base, v.control} }

func startFleet(ctx context.Context, dir string, zip bool, o *options) (_ *fleet, err error) {
	dir = filepath.Join(dir, compression(zip))
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, err
	}
	f := &fleet{zip: zip}
	defer func() {
		if err != nil {
			f.close(ctx)
		}
	}()
	key, err := newSoftwareKey()
	if err != nil {
		return nil, err
	}
	keys := filepath.Join(dir, "keys.json")
	if err = key.writeKeys(keys); err != nil {
		return nil, err
	}
	// Gateways and agents compress what they send to a collector by the same
	// default; an application does not when it sends to the agent beside it.
	start := func(w wiring) (c *collector) {
		if err == nil {
			w.dir, w.bin, w.zip, w.queue = dir, o.bin, zip, o.queue
			c, err = startCollector(ctx, w)
		}
		return c
	}
	f.collectors.with = start(wiring{
		name: "collector", zipped: zip, config: verifying, extensions: "nonce", processors: "tpmverify", replace: []string{"$KEYS", keys},
	})
	f.collectors.base = start(wiring{name: "collector-base", zipped: zip})
	f.collectors.control = start(wiring{name: "collector-control", zipped: zip})
	if err != nil {
		return f, err
	}
	if f.chip, err = newChip(ctx); err != nil {
		return f, err
	}
	f.agents.with = start(wiring{
		name: "agent", config: signing, extensions: "tpm", processors: "tpmsign",
		replace: []string{"$DEVICE", f.chip.device, "$NONCES", f.collectors.with.nonces},
	})
	f.agents.base = start(wiring{name: "agent-base"})
	f.agents.control = start(wiring{name: "agent-control"})
	if err != nil {
		return f, err
	}
	f.signer, err = newPresigner(key, f.collectors.with.nonces, o.group)
	return f, err
}

func (f *fleet) close(ctx context.Context) {
	for _, v := range []*variants{&f.agents, &f.collectors} { // agents first: they have something to say
		for _, c := range v.all() {
			if c != nil {
				c.close()
			}
		}
	}
	if f.signer != nil {
		f.signer.close(ctx)
	}
	if f.chip != nil {
		f.chip.close()
	}
}
