package identity_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/test/identitylab"
)

// published fetches what the workload serves on its port of the host.
func (v *vm) published(client *http.Client) (*http.Response, string, error) {
	req, err := http.NewRequestWithContext(v.Context(), http.MethodGet, v.Exposed, nil)
	if err != nil {
		return nil, "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return resp, strings.TrimSpace(string(b)), err
}

// reachable waits until the workload answers with these words: it may start slower
// than it is published.
func (v *vm) reachable(want string) {
	v.Helper()
	v.eventually(func() error {
		_, got, err := v.published(&http.Client{Timeout: 5 * time.Second})
		if err == nil && got != want {
			err = fmt.Errorf("the workload says %.100q", got)
		}
		return err
	})
}

// unreachable: nobody listens, or whoever does has nothing to say.
func (v *vm) unreachable() {
	v.Helper()
	conn, err := (&net.Dialer{}).DialContext(v.Context(), "tcp", strings.TrimPrefix(v.Exposed, "http://"))
	if err == nil {
		_ = conn.Close()
	}
	require.Error(v, err, "the port is published")
}

func TestFromFreshToExposedWithSSHInBetween(t *testing.T) {
	t.Parallel()
	v := newVM(t)
	require.Equal(t, "fresh", v.state().State)
	v.configured("/data")
	s := v.state()
	require.Equal(t, "workload_configured", s.State)
	require.Equal(t, api.SSHOpen, s.SSH.State)
	require.Equal(t, "mounted", s.Storage.Volume)
	require.True(t, s.Container.Running)
	require.Empty(t, s.Problems)
	v.unreachable()

	v.sshWorksAsItShall()
	v.copyIn("/data/kept", "copied in by the owner\n")
	require.Equal(t, "copied in by the owner\n", v.inside("/data/kept"))

	sessions := v.sessions(3)
	v.expose()
	s = v.state()
	require.Equal(t, "workload_exposed", s.State)
	require.Equal(t, api.SSHClosed, s.SSH.State)
	require.Zero(t, s.SSH.Active)
	require.False(t, s.SSH.ListenerClosed.IsZero())
	require.False(t, s.SSH.SessionsEnded.Before(s.SSH.ListenerClosed))
	for _, session := range sessions {
		select {
		case err := <-session:
			_, failed := errors.AsType[*exec.ExitError](err)
			require.True(t, failed, "the session was ended, it did not end: %v", err)
		case <-time.After(soon):
			require.Fail(t, "a session outlived the closing")
		}
	}
	require.False(t, v.knocks(), "nobody listens on the port of SSH")
	require.Equal(t, 255, v.ssh("echo x").code)
	v.reachable(words)
	require.Equal(t, "copied in by the owner\n", v.inside("/data/kept"))
	require.Equal(t, s.Workload.Digest, s.Container.ImageDigest)

	// It is final.
	v.refused("workload_exposed", v.second(v.owner, api.PathConfigure, v.configureBody(app)))
	v.refused("workload_exposed", v.second(v.owner, api.PathExpose, v.exposeBody(app)))
	v.registryShowsClosed()
}

func (v *vm) sshWorksAsItShall() {
	v.Helper()
	require.Equal(v, result{"hello\n", "", 0}, v.ssh("echo hello"))
	require.Equal(v, result{"", "not a command: nothing\n", 127}, v.ssh("nothing"))

	// With a terminal, in which one talks.
	cmd := v.openSSH(v.owner, "ssh", "-tt", "127.0.0.1")
	cmd.Stdin = strings.NewReader("echo typed\nexit 5\n")
	got := v.run(cmd)
	require.Equal(v, 5, got.code, "%+v", got)
	require.Contains(v, got.out, "shell ready ")
	require.NotContains(v, got.out, "no terminal")
	require.Contains(v, got.out, "typed")

	stranger := newPerson(v.T, "stranger")
	got = v.run(v.openSSH(stranger, "ssh", "127.0.0.1", "echo in"))
	require.Equal(v, 255, got.code, "%+v", got)
	require.NotContains(v, got.out, "in")
	got = v.run(v.openSSH(v.operator, "ssh", "127.0.0.1", "echo in"))
	require.Equal(v, 255, got.code, "the operator is not the owner: %+v", got)

	for _, forward := range [][]string{{"-W", "127.0.0.1:" + fmt.Sprint(v.Ports.HTTP)}, {"-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1", "127.0.0.1", "echo in"}} {
		args := forward
		if forward[0] == "-W" {
			args = append(forward, "127.0.0.1")
		}
		got = v.run(v.openSSH(v.owner, "ssh", args...))
		require.NotZero(v, got.code, "%q: %+v", forward, got)
		require.NotContains(v, got.out, "in")
	}
}

// sessions opens long ones, and returns when all are there.
func (v *vm) sessions(n int) []<-chan error {
	v.Helper()
	var all []<-chan error
	for range n {
		cmd := v.openSSH(v.owner, "ssh", "127.0.0.1", "sleep 10m")
		done := make(chan error, 1)
		require.NoError(v, cmd.Start())
		go func() { done <- cmd.Wait() }()
		all = append(all, done)
	}
	v.eventually(func() error {
		if a := v.state().SSH.Active; a != n {
			return fmt.Errorf("%d of %d sessions", a, n)
		}
		return nil
	})
	return all
}

func TestFifthSessionIsRefused(t *testing.T) {
	t.Parallel()
	v := newVM(t)
	v.configured()
	v.sessions(4)
	got := v.ssh("echo in")
	require.NotZero(t, got.code)
	require.NotContains(t, got.out, "in")
}

// TestClientOfTheFirstGeneration goes the whole way as clients did before there
// was a /v1/: hexadecimal in plain JSON, the raw body signed, a storage key that
// nobody sends.
func TestClientOfTheFirstGeneration(t *testing.T) {
	t.Parallel()
	v := newVM(t, flags("--storage-key", "legacy"))
	post := func(path, body string, headers ...string) *answer {
		return v.accepted(v.send(http.MethodPost, path, []byte(body), headers...))
	}
	instance := v.instance()
	signed := func(p *person) string {
		return fmt.Sprintf(`{"pubkey": %q, "signature": %q}`, p.public(), p.sign(instance))
	}
	a := post("/operator/register", signed(v.operator))
	require.Equal(t, fmt.Sprintf(`{"status":"success","owner_token":%q}`, a.OwnerToken), strings.TrimSpace(string(a.content)))
	a = post("/owner/register", signed(v.owner), "x-token", a.OwnerToken)
	require.JSONEq(t, `{"status":"success"}`, string(a.content))

	body := fmt.Sprintf(`{"instance_pubkey": %q, "image": %q, "persist_dirs": ["/data"], "port": 8080}`, hex.EncodeToString(instance), app)
	a = post("/workload/configure", body, "x-signature", v.owner.sign([]byte(body)).String())
	require.JSONEq(t, `{"status":"success"}`, string(a.content))
	require.Equal(t, result{"hello\n", "", 0}, v.ssh("echo hello"))
	v.refused("replayed", v.send(http.MethodPost, "/workload/configure", []byte(body), "x-signature", v.owner.sign([]byte(body)).String()))

	body = fmt.Sprintf(`{"instance_pubkey": %q, "image": %q}`, hex.EncodeToString(instance), app)
	alone(func() { post("/workload/expose", body, "x-signature", v.owner.sign([]byte(body)).String()) })
	require.False(t, v.knocks())
	v.reachable(words)

	// Nothing else selects this storage key, and nobody is left in the dark.
	require.Equal(t, "legacy", v.state().Storage.Source)
	health := v.send(http.MethodGet, api.PathHealth, nil)
	require.Contains(t, string(health.content), "whoever reads the disk can decrypt it")
}

func TestOlderFormsAreRefusedWhereAskedTo(t *testing.T) {
	t.Parallel()
	v := newVM(t, flags("--require-v1"))
	body := v.encode(v.operatorBody())
	v.refused("v1_required", v.send(http.MethodPost, "/operator/register", body))
	token := v.registerOperator()
	v.refused("v1_required", v.send(http.MethodPost, "/owner/register", v.encode(v.ownerBody()), "x-token", token))
	v.registerOwner(token)
	v.refused("v1_required", v.older(v.owner, "/workload/configure", v.configureBody(app)))
	v.accepted(v.second(v.owner, api.PathConfigure, v.configureBody(app)))
	v.refused("v1_required", v.older(v.owner, "/workload/expose", v.exposeBody(app)))
	require.Equal(t, "workload_configured", v.state().State)
}

// TestSecondFormIsNotTheFirst: what was signed for one form, path, counter or body
// is not taken for another.
func TestSignedRequestServesNoOtherPurpose(t *testing.T) {
	t.Parallel()
	v := newVM(t)
	v.registerOwner(v.registerOperator())
	instance, counter := v.instance(), v.state().Counter
	b := v.encode(v.configureBody(app))
	message := api.Message(http.MethodPost, api.PathConfigure, instance, counter, b)
	send := func(path string, body []byte, signature api.Hex, counter uint64) *answer {
		return v.send(http.MethodPost, path, body, "x-signature", signature.String(), "x-counter", fmt.Sprint(counter))
	}
	v.refused("signature_invalid", send(api.PathConfigure, append([]byte(" "), b...), v.owner.sign(message), counter))
	v.refused("signature_invalid", send(api.PathExpose, b, v.owner.sign(message), counter))
	v.refused("counter_mismatch", send(api.PathConfigure, b, v.owner.sign(api.Message(http.MethodPost, api.PathConfigure, instance, counter+1, b)), counter+1))
	v.refused("signature_invalid", send(api.PathConfigure, b, v.owner.sign(b), counter))
	v.refused("signature_invalid", v.send(http.MethodPost, "/workload/configure", b, "x-signature", v.owner.sign(message).String()))
	v.refused("signature_invalid", send(api.PathConfigure, b, v.operator.sign(message), counter))
	v.accepted(send(api.PathConfigure, b, v.owner.sign(message), counter))
	v.refused("counter_mismatch", send(api.PathConfigure, b, v.owner.sign(message), counter))
	expose := v.encode(v.configureBody(app))
	v.refused("bad_request", v.send(http.MethodPost, "/workload/expose", expose, "x-signature", v.owner.sign(expose).String()))
	require.Equal(t, "workload_configured", v.state().State)
}

// attestedClient takes only who shows a quote for this instance's key.
func (v *vm) attestedClient() *http.Client {
	v.Helper()
	return &http.Client{Transport: &http.Transport{TLSClientConfig: v.ratls()}, Timeout: soon}
}

func TestExposedPortOverAttestedTLS(t *testing.T) {
	t.Parallel()
	v := newVM(t, func(o *identitylab.Options) { o.Attested = true })
	v.configured()
	v.expose()
	client := v.attestedClient()
	v.eventually(func() error {
		resp, got, err := v.published(client)
		if err != nil {
			return err
		}
		if got != words || resp.Header.Get("x-instance-pubkey") != hex.EncodeToString(v.instance()) {
			return fmt.Errorf("%q with %v", got, resp.Header)
		}
		return nil
	})
	// Whoever does not hold the key that the quote names cannot stand in between,
	// and those without verification of it trust nobody.
	_, _, err := v.published(&http.Client{})
	require.ErrorContains(t, err, "certificate")

	// The workload's own port is on loopback only; the same key serves the calls.
	resp, err := client.Get(v.TLSURL + api.PathPubkey)
	require.NoError(t, err)
	_ = resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
}

func TestTokenIsNotTakenInClearWhereAskedTo(t *testing.T) {
	t.Parallel()
	v := newVM(t, flags("--require-tls"))
	// From this machine it crosses nobody; a proxy that speaks for others says so.
	body := v.encode(v.operatorBody())
	v.refused("tls_required", v.send(http.MethodPost, "/operator/register", body, "x-forwarded-for", "192.0.2.1"))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, v.TLSURL+"/operator/register", bytes.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := v.attestedClient().Do(req)
	require.NoError(t, err)
	_ = resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
}

// parallel runs n at once and counts what they say.
func parallel(n int, do func(i int) string) map[string]int {
	said := make([]string, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { said[i] = do(i) })
	}
	wg.Wait()
	counts := map[string]int{}
	for _, s := range said {
		counts[s]++
	}
	return counts
}
