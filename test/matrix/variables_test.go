package matrix

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"

	"github.com/telemark-otel/telemark/test/harness"
)

// The variables of earlier deployments, and what each sets. Those of nil are not
// read: .env.example says why.
var earlier = map[string][]variable{
	"SERVICE_NAME": {
		{role: "agent", value: "till", want: settings{"receivers::ondemand::resource_attributes::service.name": "till"}},
	},
	"OTEL_SERVICE_NAME": {
		{role: "agent", value: "till", also: "SERVICE_NAME=other", want: settings{"receivers::ondemand::resource_attributes::service.name": "till"}},
	},
	"SERVICE_VERSION": {{role: "agent", value: "2.1", want: settings{"receivers::ondemand::resource_attributes::service.version": "2.1"}}},
	"OTEL_ENDPOINT": {
		{role: "agent", value: "edge:4317", want: settings{"exporters::otlp_grpc::endpoint": "edge:4317"}},
		{role: "agent", value: "edge:4317", also: "TELEMARK_GATEWAY=gw:4317", want: settings{"exporters::otlp_grpc::endpoint": "gw:4317"}},
		{role: "gateway", value: "core:4317", want: settings{"exporters::otlp_grpc::endpoint": "core:4317"}},
	},
	"HOST": {
		{role: "agent", value: "127.0.0.1", want: settings{"receivers::ondemand::endpoint": "127.0.0.1:8442"}},
		{role: "gateway", value: "10.0.0.1", want: settings{"extensions::nonce::endpoint": "10.0.0.1:8443"}},
		{role: "collector", value: "[::1]", want: settings{"extensions::nonce::endpoint": "[::1]:8444"}},
	},
	"PORT": {
		{role: "agent", value: "9000", want: settings{"receivers::ondemand::endpoint": "localhost:9000"}},
		{role: "gateway", value: "9000", also: "HOST=::", want: settings{"extensions::nonce::endpoint": ":::9000"}},
		{role: "collector", value: "9000", want: settings{"extensions::nonce::endpoint": "0.0.0.0:9000"}},
		{role: "agent", value: "9000", also: "TELEMARK_AGENT_HTTP=localhost:1", want: settings{"receivers::ondemand::endpoint": "localhost:1"}},
	},
	"DEBUG": {{role: "gateway", value: "True", want: settings{"service::telemetry::logs::development": true}}},
	"LOG_LEVEL": {
		{role: "agent", value: "debug", want: settings{"service::telemetry::logs::level": "debug", "service::telemetry::logs::encoding": "json"}},
		{role: "collector", value: "WARN", want: settings{"service::telemetry::logs::level": "warn", "service::telemetry::logs::encoding": "json"}},
	},
	"SSL_ENABLED": {
		{role: "agent", value: "false", want: settings{"receivers::ondemand::tls": nil}},
		{role: "gateway", value: "False", want: settings{"extensions::nonce::tls": nil, "receivers::otlp::protocols::grpc::tls": nil, "receivers::otlp::protocols::http::tls": nil, "exporters::otlp_grpc::tls::ca_file": "/etc/telemark/certs/ca.crt"}},
		{role: "collector", value: "false", want: settings{"extensions::nonce::tls": nil, "receivers::otlp::protocols::grpc::tls": nil, "receivers::otlp/metrics::protocols::http::tls": nil}},
	},
	"SSL_CERT_PATH": {
		{role: "agent", value: "/pki/a.crt", want: settings{"receivers::ondemand::tls::cert_file": "/pki/a.crt", "exporters::otlp_grpc::tls::cert_file": "/pki/a.crt"}},
		{role: "gateway", value: "/pki/g.crt", want: settings{"receivers::otlp::protocols::grpc::tls::cert_file": "/pki/g.crt", "exporters::otlp_grpc::tls::cert_file": "/pki/g.crt"}},
		{role: "collector", value: "/pki/c.crt", want: settings{"receivers::otlp::protocols::http::tls::cert_file": "/pki/c.crt"}},
	},
	"SSL_KEY_PATH": {
		{role: "agent", value: "/pki/a.key", want: settings{"receivers::ondemand::tls::key_file": "/pki/a.key", "exporters::otlp_grpc::tls::key_file": "/pki/a.key"}},
		{role: "gateway", value: "/pki/g.key", also: "TELEMARK_CERTS=/certs", want: settings{"extensions::nonce::tls::key_file": "/pki/g.key", "extensions::nonce::tls::cert_file": "/certs/gateway.crt"}},
		{role: "collector", value: "/pki/c.key", want: settings{"extensions::nonce::tls::key_file": "/pki/c.key"}},
	},
	"TPM2_DEVICE": {{role: "agent", value: "tcp:localhost:99", also: "TPM2TOOLS_TCTI=device:/dev/tpm0", want: settings{"extensions::tpm::device": "tcp:localhost:99"}}},
	"TPM2TOOLS_TCTI": {
		{role: "agent", value: "swtpm:host=localhost,port=2321", want: settings{"extensions::tpm::device": "swtpm:host=localhost,port=2321"}},
		{role: "agent", overlay: "agent-swtpm", value: "device:/dev/tpm0", also: "SWTPM_DIR=/tpm", want: settings{"extensions::tpm::device": "device:/dev/tpm0"}},
	},
	"SWTPM_DIR": {{role: "agent", overlay: "agent-swtpm", value: "/tpm", want: settings{"extensions::tpm::device": "swtpm:/tpm"}}},
	"SWTPM_PORT": {
		{role: "agent", overlay: "agent-swtpm-server", value: "3321", want: settings{"extensions::tpm::device": "tcp:localhost:3321"}},
	},
	"SIGNATURE_ALGORITHM": {
		{role: "agent", value: "sha256", want: settings{"extensions::tpm::key::algorithm": "sha256"}},
		{role: "agent", value: "ES384", want: settings{"extensions::tpm::key::algorithm": "ES384"}},
		{role: "agent", value: "sha1", refused: "key::algorithm"},
	},
	"NONCE_LENGTH": {
		{role: "collector", value: "64", want: settings{"extensions::nonce::length": 64}},
		{role: "collector", value: "16", refused: "length"},
	},
	"TPM2_APP_CTX_PATH": {{role: "agent", value: "/etc/tpm/app.ctx", want: settings{"extensions::tpm::key::import::context": "/etc/tpm/app.ctx"}}},
	"SWTPM_CTRL":        nil,
}

type settings map[string]any

type variable struct {
	role, overlay string
	value, also   string
	want          settings
	refused       string // part of the error instead
}

// set is a value, or the default of one that is not set.
var set = regexp.MustCompile(`(?m)^#?([A-Z0-9_]+)=`)

func TestVariablesOfEarlierDeployments(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(harness.Root(), ".env.example"))
	require.NoError(t, err)
	listed := map[string]bool{}
	for _, m := range set.FindAllStringSubmatch(string(content), -1) {
		listed[m[1]] = true
	}
	require.Equal(t, slices.Sorted(maps.Keys(earlier)), slices.Sorted(maps.Keys(listed)), ".env.example")
	for name, cases := range earlier {
		for _, c := range cases {
			t.Run(strings.Join(strings.Fields(fmt.Sprint(c.role, " ", name, "=", c.value, " ", c.also)), " "), func(t *testing.T) {
				conf, said := c.read(t, name)
				if c.refused != "" {
					require.Nil(t, conf)
					require.Contains(t, said, c.refused)
					return
				}
				require.NotNil(t, conf, said)
				for key, want := range c.want {
					require.Equal(t, want, conf.Get(key), key)
				}
			})
		}
	}
}

// TestOpenAgentNeedsProofOfCallers holds an agent to starting on loopback only,
// whatever HOST an earlier deployment had.
func TestOpenAgentNeedsProofOfCallers(t *testing.T) {
	conf, said := (&variable{role: "agent", value: "0.0.0.0"}).read(t, "HOST")
	require.Nil(t, conf)
	require.Contains(t, said, "client_ca_file")
}

// read returns a role's configuration as the collector reads it.
func (v *variable) read(t *testing.T, name string) (conf *confmap.Conf, said string) {
	t.Helper()
	bin, err := harness.Bin("otelcol-telemark")
	require.NoError(t, err)
	args := []string{"print-config", "--config", filepath.Join(harness.Root(), "configs", v.role+".yaml")}
	if v.overlay != "" {
		args = append(args, "--config", filepath.Join(harness.Root(), "configs", v.overlay+".yaml"))
	}
	cmd := exec.CommandContext(t.Context(), bin, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), name + "=" + v.value}
	if v.also != "" {
		cmd.Env = append(cmd.Env, v.also)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, stderr.String()
	}
	retrieved, err := confmap.NewRetrievedFromYAML(out)
	require.NoError(t, err)
	conf, err = retrieved.AsConf()
	require.NoError(t, err)
	return conf, stderr.String()
}
