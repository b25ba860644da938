package lint

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/telemark-otel/telemark/internal/block"
)

// example is a file of testdata: a configuration that breaks the rule of its
// name and no other, one that breaks none, and the keys that are found. With
// "tolerate", the good one is good because the signers tolerate that.
type example struct {
	bad, good map[string]any
	want      []string
	tolerate  block.Tolerance
}

func readExample(t *testing.T, rule string) example {
	t.Helper()
	archive, err := txtar.ParseFile(filepath.Join("testdata", rule+".txtar"))
	require.NoError(t, err, "every rule has an example")
	var e example
	for _, f := range archive.Files {
		switch f.Name {
		case "bad.yaml":
			require.NoError(t, yaml.Unmarshal(f.Data, &e.bad))
		case "good.yaml":
			require.NoError(t, yaml.Unmarshal(f.Data, &e.good))
		case "want":
			e.want = strings.Fields(string(f.Data))
		case "tolerate":
			e.tolerate = map[string]block.Tolerance{"split": block.Split, "enrich": block.Enrich}[strings.TrimSpace(string(f.Data))]
			require.NotZero(t, e.tolerate)
		default:
			t.Fatalf("unexpected file %s", f.Name)
		}
	}
	require.NotEmpty(t, e.bad)
	require.NotEmpty(t, e.good)
	require.NotEmpty(t, e.want)
	return e
}

// alongside are the rules that the bad example of a rule cannot help breaking.
var alongside = map[string][]string{
	"archive-truncated":      {"archive-buffered"},
	"fan-out-before-signing": {},
}

func TestEachRuleFindsItsExampleAndNothingElse(t *testing.T) {
	for _, r := range Rules() {
		t.Run(r.ID, func(t *testing.T) {
			e := readExample(t, r.ID)
			var keys []string
			for _, f := range Run(e.bad, Options{}) {
				if f.Rule == r.ID {
					keys = append(keys, f.Key)
					require.Equal(t, r.Severity, f.Severity)
					require.NotEmpty(t, f.Found)
					continue
				}
				require.Contains(t, alongside[r.ID], f.Rule, "%s: %s", f.Key, f.Found)
			}
			require.ElementsMatch(t, e.want, keys)
		})
	}
}

func TestGoodExamplesAreClean(t *testing.T) {
	// What stays with the good one, for the sake of a small example.
	remains := map[string][]string{
		"archive-truncated": {"archive-buffered"},
		"verifier-shared":   {},
	}
	for _, r := range Rules() {
		t.Run(r.ID, func(t *testing.T) {
			e := readExample(t, r.ID)
			for _, f := range Run(e.good, Options{Tolerate: e.tolerate}) {
				require.Contains(t, remains[r.ID], f.Rule, "%s: %s", f.Key, f.Found)
			}
		})
	}
}

func TestEveryExampleBelongsToARule(t *testing.T) {
	files, err := os.ReadDir("testdata")
	require.NoError(t, err)
	ids := map[string]bool{}
	for _, r := range Rules() {
		require.False(t, ids[r.ID], "the id %s is there twice", r.ID)
		require.NotEmpty(t, r.Title)
		require.NotEmpty(t, r.Why)
		require.NotEmpty(t, r.Instead)
		ids[r.ID] = true
	}
	for _, f := range files {
		require.True(t, ids[strings.TrimSuffix(f.Name(), ".txtar")], f.Name())
	}
}

func TestChangesAreFoundAcrossConnectors(t *testing.T) {
	config := parse(t, `
connectors: {forward: {}}
receivers: {otlp: {protocols: {grpc: {endpoint: "localhost:4317"}}}}
processors: {tpmsign: {pending: {storage: file_storage}}, groupbyattrs: {}}
exporters: {otlp: {endpoint: "gateway:4317", sending_queue: {storage: file_storage}, retry_on_failure: {max_elapsed_time: 0}}}
extensions: {file_storage: {fsync: true}}
service:
  extensions: [file_storage]
  pipelines:
    logs/sign: {receivers: [otlp], processors: [tpmsign], exporters: [forward]}
    logs/send: {receivers: [forward], processors: [groupbyattrs], exporters: [otlp]}
`)
	require.Equal(t, []string{"changed-after-signing service::pipelines::logs/send::processors[0]"}, found(config, Options{}))
}

func TestForwardConnectorsStayWithinASignal(t *testing.T) {
	config := parse(t, `
connectors: {forward: {}}
receivers: {otlp: {protocols: {grpc: {endpoint: "localhost:4317"}}}}
processors: {tpmsign: {pending: {storage: file_storage}}, attributes: {}}
exporters: {debug: {}}
extensions: {file_storage: {fsync: true}}
service:
  extensions: [file_storage]
  pipelines:
    logs/sign: {receivers: [otlp], processors: [tpmsign], exporters: [forward]}
    logs/send: {receivers: [forward], exporters: [debug]}
    traces/in: {receivers: [otlp], exporters: [forward]}
    traces/out: {receivers: [forward], processors: [attributes], exporters: [debug]}
`)
	require.Empty(t, found(config, Options{}))
}

func TestQueueMaximumSplitsLikeTheBatchProcessor(t *testing.T) {
	config := parse(t, `
receivers: {otlp: {protocols: {grpc: {endpoint: "0.0.0.0:4317", tls: {cert_file: c, key_file: k}}}}}
exporters:
  otlp_grpc:
    endpoint: collector:4317
    sending_queue: {storage: file_storage, batch: {max_size: 100}}
    retry_on_failure: {max_elapsed_time: 0s}
extensions: {file_storage: {fsync: true}}
service:
  extensions: [file_storage]
  pipelines: {traces: {receivers: [otlp], exporters: [otlp_grpc]}}
`)
	require.Equal(t, []string{"split-without-tolerance exporters::otlp_grpc::sending_queue::batch::max_size"}, found(config, Options{}))
	require.Empty(t, found(config, Options{Tolerate: block.Split}))
}

func TestNeverCopyingIsForOneExporterThatLeavesAloneWhatItRefuses(t *testing.T) {
	for pipeline, want := range map[string][]string{
		"{receivers: [otlp], processors: [tpmsign], exporters: [otlp]}":                nil,
		"{receivers: [otlp], processors: [tpmsign], exporters: [otlp, debug]}":         {"refused-may-be-changed processors::tpmsign::pending::copy"},
		"{receivers: [otlp], processors: [tpmsign, batch], exporters: [otlp]}":         {"refused-may-be-changed processors::tpmsign::pending::copy"},
		"{receivers: [otlp], processors: [tpmsign], exporters: [forward]}":             {"refused-may-be-changed processors::tpmsign::pending::copy"},
		"{receivers: [otlp], processors: [tpmsign], exporters: [otlp/waiting]}":        {"refused-may-be-changed processors::tpmsign::pending::copy"},
		"{receivers: [otlp], processors: [tpmsign/copying], exporters: [otlp, debug]}": nil,
	} {
		require.Equal(t, want, found(parse(t, `
connectors: {forward: {}}
receivers: {otlp: {protocols: {grpc: {endpoint: "localhost:4317"}}}}
processors: {tpmsign: {pending: {storage: file_storage, copy: never}}, tpmsign/copying: {pending: {storage: file_storage}}, batch: {}}
exporters:
  debug: {}
  otlp: {endpoint: "gateway:4317", sending_queue: {storage: file_storage}, retry_on_failure: {max_elapsed_time: 0}}
  otlp/waiting: {endpoint: "gateway:4317", sending_queue: {wait_for_result: true}}
extensions: {file_storage: {fsync: true}}
service:
  extensions: [file_storage]
  pipelines: {logs: `+pipeline+`}
`), Options{}), pipeline)
	}
}

func TestFiltersAreAllowedWhereSplitsAre(t *testing.T) {
	config := parse(t, `
receivers: {otlp: {protocols: {grpc: {endpoint: "0.0.0.0:4317", tls: {cert_file: c, key_file: k}}}}}
processors: {filter: {}}
exporters: {otlp: {endpoint: "collector:4317", sending_queue: {enabled: false}}}
service:
  pipelines: {traces: {receivers: [otlp], processors: [filter], exporters: [otlp]}}
`)
	require.Equal(t, []string{"changed-on-gateway service::pipelines::traces::processors[0]"}, found(config, Options{}))
	require.Equal(t, []string{"changed-on-gateway service::pipelines::traces::processors[0]"}, found(config, Options{Tolerate: block.Enrich}))
	require.Empty(t, found(config, Options{Tolerate: block.Split}))
}

func TestConnectorLoopsEnd(t *testing.T) {
	config := parse(t, `
connectors: {forward/a: {}, forward/b: {}}
processors: {tpmsign: {}, attributes: {}}
service:
  pipelines:
    logs/1: {receivers: [forward/b], processors: [tpmsign], exporters: [forward/a]}
    logs/2: {receivers: [forward/a], processors: [attributes], exporters: [forward/b]}
`)
	require.Contains(t, found(config, Options{}), "changed-after-signing service::pipelines::logs/2::processors[0]")
}

// What is no configuration at all must not panic: the collector says what is
// wrong with it.
func TestOddShapesAreNoFindings(t *testing.T) {
	for _, doc := range []string{
		"{}", "service: 3", "service: {pipelines: [a]}", "service: {pipelines: {metrics: }}", "service: {pipelines: {metrics: {receivers: {a: b}}}}",
		"service: {extensions: [3, null], pipelines: {metrics: {processors: [tpmsign, null]}}}", "processors: {tpmverify: [1]}\nservice: {extensions: nonce}",
	} {
		require.NotPanics(t, func() { Run(parse(t, doc), Options{}) }, doc)
	}
}

func TestLoopback(t *testing.T) {
	for endpoint, want := range map[string]bool{
		"localhost:4317": true, "127.0.0.1:4317": true, "127.8.9.1:1": true, "[::1]:4317": true, "unix:///run/a.sock": true,
		"/run/a.sock": true, "http://localhost:8443/x": true, "https://127.0.0.1": true,
		"0.0.0.0:4317": false, ":4317": false, "[::]:4317": false, "gateway:4317": false, "10.0.0.1:4317": false,
		"https://localhost.example:1": false, "http://127.0.0.1.example": false,
	} {
		require.Equal(t, want, loopback(endpoint), endpoint)
	}
}

func parse(t *testing.T, doc string) map[string]any {
	t.Helper()
	var m map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(doc), &m))
	return m
}

func found(config map[string]any, opts Options) []string {
	var out []string
	for _, f := range Run(config, opts) {
		out = append(out, f.Rule+" "+f.Key)
	}
	return out
}
