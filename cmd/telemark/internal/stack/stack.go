package stack

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/telemark-otel/telemark/internal/process"
	"github.com/telemark-otel/telemark/internal/registry/admin"
	"github.com/telemark-otel/telemark/internal/registry/api"
)

// Stack is what runs.
type Stack struct {
	o         Options
	collector string // binary
	registryd string
	client    *http.Client // trusts the authority of DIR
	admin     *admin.Client
	procs     []*process.Process // in the order of their start
	locked    *os.File           // held while the directory is
}

// Place is something that people can talk to.
type Place struct {
	Name string `json:"name"`
	URL  string `json:"url"`
	Log  string `json:"log"`
}

const readyTime = time.Minute

// Start starts everything and returns when every agent is enrolled. progress is
// told of each step. What was started is stopped again when something fails.
func Start(ctx context.Context, o Options, progress func(string)) (_ *Stack, err error) {
	s := &Stack{o: o}
	if s.collector, err = o.binary("otelcol-telemark"); err != nil {
		return nil, err
	}
	if s.registryd, err = o.binary("registryd"); err != nil {
		return nil, err
	}
	if err := tools(); err != nil {
		return nil, err
	}
	if s.locked, err = o.lock(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Stop()
		}
	}()
	if err := o.free(o.ports()); err != nil {
		return nil, err
	}
	if err := o.writeConfigs(); err != nil {
		return nil, err
	}
	if err := s.trust(); err != nil {
		return nil, err
	}
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"registry", s.startRegistry},
		{"collector", s.startCollector},
		{"gateway", s.startGateway},
		{"agents", s.startAgents},
		{"enrolment of the agents", s.awaitEnrolment},
	} {
		progress(step.what)
		if err := step.do(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return s, nil
}

// trust makes the client for what runs here.
func (s *Stack) trust() error {
	pem, err := os.ReadFile(s.o.path("certs", "ca.crt"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return errors.New("certs/ca.crt holds no certificate")
	}
	s.client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots}}}
	return nil
}

func (s *Stack) start(ctx context.Context, p *process.Process, ready string) error {
	if err := p.Start(); err != nil {
		return err
	}
	s.procs = append(s.procs, p)
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	return p.Ready(ctx, s.client, ready)
}

// collectorProcess is a collector with one of the shipped configurations.
func (s *Stack) collectorProcess(name string, telemetry int, files []string, env ...string) *process.Process {
	var args []string
	for _, f := range files {
		args = append(args, "--config", s.o.path("configs", f))
	}
	return &process.Process{
		Name: name, Path: s.collector, Args: args, Log: s.o.path(name, "log.jsonl"),
		Unset: foreign,
		Env: append(env, "TELEMARK_CERTS="+s.o.path("certs"), "TELEMARK_STATE="+s.o.path(name),
			"TELEMARK_REGISTRY="+s.registryURL(), "TELEMARK_METRICS_PORT="+strconv.Itoa(s.o.port(telemetry))),
	}
}

// foreign are variables that the configurations read and that another deployment
// may have set.
var foreign = []string{"SSL_ENABLED", "SSL_CERT_PATH", "SSL_KEY_PATH", "SIGNATURE_ALGORITHM", "TPM2_APP_CTX_PATH", "NONCE_LENGTH"}

func (s *Stack) registryURL() string { return "https://" + s.o.address(portRegistry) }

// startRegistry makes tokens at the first start.
func (s *Stack) startRegistry(ctx context.Context) error {
	dir := s.o.path("registry")
	roots := filepath.Join(dir, "ek-roots")
	if err := os.MkdirAll(roots, 0o750); err != nil {
		return err
	}
	token, err := s.tokens(ctx, filepath.Join(dir, "auth.yaml"))
	if err != nil {
		return err
	}
	p := &process.Process{
		Name: "registry", Path: s.registryd, Log: filepath.Join(dir, "log.jsonl"),
		Args: []string{
			"serve", "--listen", s.o.address(portRegistry), "--db", filepath.Join(dir, "registry.db"), "--key-file", filepath.Join(dir, "registry-key.pem"),
			"--auth-file", filepath.Join(dir, "auth.yaml"), "--tls-cert", s.o.path("certs", "registry.crt"), "--tls-key", s.o.path("certs", "registry.key"),
		},
	}
	if err := s.start(ctx, p, s.registryURL()+"/ready"); err != nil {
		return err
	}
	s.admin, err = admin.New(s.registryURL(), s.client, token)
	return err
}

// tokens makes the bearer tokens of the operator and of the collector, and the
// auth file that knows their hashes. Those that are there stay.
func (s *Stack) tokens(ctx context.Context, auth string) (operator string, err error) {
	files := map[string]string{"ops": s.o.path("registry", "admin.token"), "collector": s.o.path("certs", "registry.token")}
	if _, err := os.Stat(auth); errors.Is(err, os.ErrNotExist) {
		entries := []byte("tokens:\n")
		for _, t := range []struct{ name, role string }{{"ops", "viewer,approver,auditor,admin"}, {"collector", "viewer"}} {
			entry, token, err := s.token(ctx, t.name, t.role)
			if err != nil {
				return "", err
			}
			entries = append(entries, entry...)
			if err := os.WriteFile(files[t.name], token, 0o600); err != nil {
				return "", err
			}
		}
		if err := os.WriteFile(auth, entries, 0o600); err != nil {
			return "", err
		}
	}
	token, err := os.ReadFile(files["ops"])
	return strings.TrimSpace(string(token)), err
}

func (s *Stack) token(ctx context.Context, name, role string) (entry, token []byte, err error) {
	cmd := exec.CommandContext(ctx, s.registryd, "token", name, "--role", role) //nolint:gosec // a binary of the distribution
	var out, secret bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &secret
	if err := cmd.Run(); err != nil {
		return nil, nil, fmt.Errorf("make a token: %w: %.300s", err, secret.String())
	}
	return out.Bytes(), append(bytes.TrimSpace(secret.Bytes()), '\n'), nil
}

func (s *Stack) startCollector(ctx context.Context) error {
	p := s.collectorProcess("collector", portTelemetry+2, []string{"collector.yaml", "collector-registry.yaml"},
		"TELEMARK_ARCHIVE="+s.o.path("archive"), "TELEMARK_REGISTRY_PIN="+s.o.path("registry", "registry-key.pem.pub"),
		"TELEMARK_COLLECTOR_HTTP="+s.o.address(portCollectorHTTP), "TELEMARK_ADMIN="+s.o.address(portAdmin),
		"TELEMARK_OTLP_GRPC="+s.o.address(portCollectorGRPC), "TELEMARK_OTLP_HTTP="+s.o.address(portCollectorOTLP),
		"TELEMARK_METRICS_HTTP="+s.o.address(portMetricsHTTP))
	return s.start(ctx, p, "https://"+s.o.address(portCollectorHTTP)+"/health")
}

func (s *Stack) startGateway(ctx context.Context) error {
	p := s.collectorProcess("gateway", portTelemetry+1, []string{"gateway.yaml"},
		"TELEMARK_GATEWAY_HTTP="+s.o.address(portGatewayHTTP), "TELEMARK_GATEWAY_ADMIN="+s.o.address(portGatewayAdmin),
		"TELEMARK_OTLP_GRPC="+s.o.address(portGatewayGRPC), "TELEMARK_OTLP_HTTP="+s.o.address(portGatewayOTLP),
		"TELEMARK_COLLECTOR="+s.o.address(portCollectorGRPC), "TELEMARK_NONCES=https://"+s.o.address(portCollectorHTTP))
	return s.start(ctx, p, "https://"+s.o.address(portGatewayHTTP)+"/health")
}

// startAgents starts agents whose TPMs were vouched for by their EK hash: a
// software TPM has no maker whom anybody would trust.
func (s *Stack) startAgents(ctx context.Context) error {
	for i := range s.o.Agents {
		name := agentName(i)
		if err := s.vouch(ctx, name); err != nil {
			return err
		}
		p := s.collectorProcess(name, agentPort(portTelemetry, i), []string{"agent.yaml", "agent-registry.yaml"},
			"TPM2_DEVICE=swtpm:"+s.o.path(name, "tpm"), "TELEMARK_NAME="+name, "TELEMARK_JOIN_TOKEN="+s.o.path("registry", "no-join-token"),
			"TELEMARK_LOGS="+s.o.path(name, "app.log"), "SERVICE_NAME="+name,
			"TELEMARK_NONCES=https://"+s.o.address(portGatewayHTTP), "TELEMARK_GATEWAY="+s.o.address(portGatewayGRPC),
			"TELEMARK_AGENT_HTTP="+s.o.address(agentPort(portAgentHTTP, i)),
			"TELEMARK_OTLP_GRPC="+s.o.address(agentPort(portAgentGRPC, i)), "TELEMARK_OTLP_HTTP="+s.o.address(agentPort(portAgentOTLP, i)))
		if err := p.Start(); err != nil {
			return err
		}
		s.procs = append(s.procs, p)
	}
	return nil
}

// awaitEnrolment waits until every agent says that it signs.
func (s *Stack) awaitEnrolment(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	for i := range s.o.Agents {
		at := slices.IndexFunc(s.procs, func(p *process.Process) bool { return p.Name == agentName(i) })
		if err := s.procs[at].Ready(ctx, s.client, "https://"+s.o.address(agentPort(portAgentHTTP, i))+"/health"); err != nil {
			return err
		}
	}
	return nil
}

// Places says where everything is.
func (s *Stack) Places() []Place {
	places := []Place{
		{"registry", s.registryURL(), s.o.path("registry", "log.jsonl")},
		{"collector", "https://" + s.o.address(portCollectorHTTP), s.o.path("collector", "log.jsonl")},
		{"gateway", "https://" + s.o.address(portGatewayHTTP), s.o.path("gateway", "log.jsonl")},
	}
	for i := range s.o.Agents {
		places = append(places,
			Place{agentName(i), "https://" + s.o.address(agentPort(portAgentHTTP, i)), s.o.path(agentName(i), "log.jsonl")},
			Place{agentName(i) + " OTLP/HTTP", "http://" + s.o.address(agentPort(portAgentOTLP, i)), s.o.path(agentName(i), "log.jsonl")})
	}
	return places
}

// Admin is the collector's admin listener.
func (s *Stack) Admin() string { return "http://" + s.o.address(portAdmin) }

// Wait returns when ctx ends, or with an error when a process ends by itself.
func (s *Stack) Wait(ctx context.Context) error {
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		for _, p := range s.procs {
			if !p.Running() {
				return fmt.Errorf("%s ended; its last lines:\n%s", p.Name, p.Last(15))
			}
		}
	}
}

// Stop ends everything, in the order of the data's way.
func (s *Stack) Stop() {
	for _, p := range slices.Backward(s.procs) {
		_ = p.Stop(20 * time.Second)
	}
	s.procs = nil
	_ = s.locked.Close()
}

// vouch tells the registry the EK hash of an agent's software TPM.
func (s *Stack) vouch(ctx context.Context, name string) error {
	hash, err := s.o.EKHash(ctx, "swtpm:"+s.o.path(name, "tpm"))
	if err != nil {
		return fmt.Errorf("software TPM of %s: %w", name, err)
	}
	_, err = s.admin.Import(ctx, &api.ImportRequest{Machines: []api.AllowEntry{{EKHash: hash, Name: name}}})
	return err
}
