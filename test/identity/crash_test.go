package identity_test

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/killtest"
)

// traced starts identityd to be killed at its durable write n, or never with 0.
func (v *vm) traced(n int) *killtest.Process {
	v.Helper()
	cmd := exec.CommandContext(v.Context(), v.Path, v.Args...)
	cmd.Env = append(os.Environ(), v.Env...)
	log, err := os.OpenFile(v.Process.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(v, err)
	v.Cleanup(func() { _ = log.Close() })
	cmd.Stdout, cmd.Stderr = log, log
	return killtest.Start(v.T, cmd, n)
}

// serves waits until the process serves, or has ended.
func (v *vm) serves(p *killtest.Process) {
	v.Helper()
	v.eventually(func() error {
		select {
		case <-p.Ended():
			return nil
		default:
		}
		_, err := v.try(http.MethodGet, api.PathPubkey, nil)
		return err
	})
}

// attested is what the instance says of itself, as a relying party believes it: the
// quote verified under a nonce of ours, the event log replayed against RTMR3.
func (v *vm) attested() *statement.Facts {
	v.Helper()
	nonce := make([]byte, 32)
	rand.Read(nonce)
	got := v.send(http.MethodGet, api.PathAttestation+"?nonce="+hex.EncodeToString(nonce), nil)
	require.Equal(v, http.StatusOK, got.Code, "%s", got)
	var a api.Attestation
	require.NoError(v, json.Unmarshal(got.content, &a))
	q, err := v.quotes().Verify(v.Context(), a.Quote, time.Now())
	require.NoError(v, err)
	require.Equal(v, statement.AttestData(nonce, a.Statement), q.ReportData)
	s, err := statement.Parse(a.Statement)
	require.NoError(v, err)
	facts, err := s.Judge([48]byte(q.Measurements.RTMRs[3]))
	require.NoError(v, err)
	return facts
}

// A step that is taken again and again, killed at each durable write of it in
// turn, until it goes through.
type crash struct {
	fewest int                   // durable writes that it makes at least
	ready  func(*testing.T) *vm  // powered, and its identityd not started
	before func(*vm)             // brings it to where the step begins, unless it is there
	step   func(*vm) sending     // prepares the request
	after  func(*vm, int) string // looks at what the restarted service has made of it
	reuse  bool                  // it can be taken again on the same VM

	publishes bool // a port, which is to be done alone
}

// sending sends a request whose answer may be lost.
type sending func() (*answer, error)

// lanes run at the same time, each with every so manieth write.
const lanes = 4

func (c *crash) run(t *testing.T) {
	for lane := range lanes {
		t.Run(fmt.Sprint(lane), func(t *testing.T) {
			t.Parallel()
			c.lane(t, lane)
		})
	}
}

func (c *crash) lane(t *testing.T, lane int) {
	states := map[string]int{}
	var v *vm
	for n := 1 + lane; ; n += lanes {
		if v == nil || !c.reuse {
			if v != nil {
				v.gone()
			}
			v = c.ready(t)
		}
		writes, killed := c.point(v, n)
		states[c.after(v, n)]++
		s := v.state()
		require.Nil(t, s.Step, "killed at write %d, %q: half a step is left", n, writes)
		require.Empty(t, s.Problems, "killed at write %d, %q", n, writes)
		if !killed {
			t.Logf("%d durable writes; killed at every %dth of them: %v", len(writes), lanes, states)
			require.Greater(t, n, c.fewest)
			return
		}
	}
}

// point takes the step once, killed at write n, and starts the service again.
func (c *crash) point(v *vm, n int) (writes []string, killed bool) {
	v.Helper()
	v.Kill()
	p := v.traced(0)
	v.serves(p)
	c.before(v)
	v.settled()
	send := c.step(v)
	at := func() {
		p.Arm(n)
		a, err := send()
		if killed = p.Killed(); !killed {
			require.NoError(v, err)
			require.Less(v, a.Code, 300, "%s", a)
			_ = p.Signal(syscall.SIGKILL)
		}
		<-p.Ended()
		require.NoError(v, v.Up(v.Context()))
	}
	if c.publishes {
		alone(at)
	} else {
		at()
	}
	return p.Writes(), killed
}

// settled waits until the registry was told, so that only the step writes.
func (v *vm) settled() {
	v.Helper()
	v.eventually(func() error {
		if r := v.state().Registry; r != nil && !r.Told && v.state().State != "fresh" {
			return fmt.Errorf("not told: %s", r.LastError)
		}
		return nil
	})
}

func TestKilledWhileItStartsForTheFirstTime(t *testing.T) {
	t.Parallel()
	for n := 1; ; n++ {
		v := powered(t)
		p := v.traced(n)
		v.serves(p)
		killed := p.Killed()
		_ = p.Signal(syscall.SIGKILL)
		<-p.Ended()
		require.NoError(t, v.Up(t.Context()))
		require.Equal(t, "fresh", v.state().State)
		v.registerOperator()
		v.gone()
		if !killed {
			t.Logf("%d durable writes", len(p.Writes()))
			require.Greater(t, n, 3)
			return
		}
	}
}

func TestKilledWhileTheOperatorRegisters(t *testing.T) {
	t.Parallel()
	c := &crash{
		fewest: 2,
		ready:  func(t *testing.T) *vm { return powered(t) },
		before: func(*vm) {},
		step: func(v *vm) sending {
			b := v.encode(v.operatorBody())
			return func() (*answer, error) { return v.try(http.MethodPost, "/operator/register", b) }
		},
		after: func(v *vm, n int) string {
			s := v.state().State
			if s == "fresh" {
				v.registerOperator()
			}
			require.Equal(v, "operator_registered", v.state().State, "at write %d", n)
			return s
		},
	}
	c.run(t)
}

func TestKilledWhileTheOwnerRegisters(t *testing.T) {
	t.Parallel()
	tokens := sync.Map{}
	c := &crash{
		fewest: 8,
		ready:  func(t *testing.T) *vm { return powered(t) },
		before: func(v *vm) { tokens.Store(v, v.registerOperator()) },
		step: func(v *vm) sending {
			token, _ := tokens.Load(v)
			b := v.encode(v.ownerBody())
			return func() (*answer, error) {
				return v.try(http.MethodPost, "/owner/register", b, "x-token", token.(string))
			}
		},
		after: func(v *vm, n int) string {
			s := v.state().State
			if s == "operator_registered" { // the token is not used up by what was undone
				token, _ := tokens.Load(v)
				v.registerOwner(token.(string))
			}
			require.Equal(v, "owner_registered", v.state().State, "at write %d", n)
			require.Equal(v, "mounted", v.state().Storage.Volume, "at write %d", n)
			return s
		},
	}
	c.run(t)
}

// withData is a VM whose workload has something to lose.
func withData(t *testing.T) *vm {
	t.Helper()
	v := newVM(t)
	v.configured("/data")
	v.copyIn("/data/a", "kept\n")
	return v
}

// TestKilledWhileItConfigures replaces one workload by another, over and over.
func TestKilledWhileItConfigures(t *testing.T) {
	t.Parallel()
	other := func(v *vm) string {
		if v.state().Workload.Image == app {
			return app2
		}
		return app
	}
	c := &crash{
		fewest: 8, reuse: true,
		ready: func(t *testing.T) *vm {
			v := withData(t)
			v.Podman.Import(t, app2, "second")
			return v
		},
		before: func(*vm) {},
		step: func(v *vm) sending {
			b := v.encode(v.configureBody(other(v), "/data", "/more"))
			counter := v.state().Counter
			signature := v.owner.sign(api.Message(http.MethodPost, api.PathConfigure, v.instance(), counter, b))
			return func() (*answer, error) {
				return v.try(http.MethodPost, api.PathConfigure, b, api.HeaderSignature, signature.String(), api.HeaderCounter, fmt.Sprint(counter))
			}
		},
		after: func(v *vm, n int) string {
			s := v.state()
			require.Equal(v, "workload_configured", s.State, "at write %d", n)
			require.Equal(v, s.Workload.Digest, s.Container.ImageDigest, "at write %d: what runs is what the state says", n)
			require.True(v, s.Container.Running)
			require.Equal(v, result{"kept\n", "", 0}, v.ssh("cat /data/a"), "at write %d", n)
			f := v.attested()
			require.Equal(v, s.Workload.Image+"@"+s.Workload.Digest, f.Image, "at write %d", n)
			require.Equal(v, statement.SSHIsOpen, f.SSH)
			return s.Workload.Image
		},
	}
	c.run(t)
}

// TestKilledWhileItExposes: from the closing on it can only go forward.
func TestKilledWhileItExposes(t *testing.T) {
	t.Parallel()
	c := &crash{
		fewest: 6, publishes: true,
		ready:  withData,
		before: func(*vm) {},
		step: func(v *vm) sending {
			b := v.encode(v.exposeBody(app))
			return func() (*answer, error) {
				return v.try(http.MethodPost, "/workload/expose", b, "x-signature", v.owner.sign(b).String())
			}
		},
		after: func(v *vm, n int) string {
			s := v.state()
			if s.State == "workload_configured" {
				require.Equal(v, api.SSHOpen, s.SSH.State, "at write %d", n)
				require.Equal(v, result{"kept\n", "", 0}, v.ssh("cat /data/a"))
				v.unreachable()
				v.expose()
			}
			require.Equal(v, "workload_exposed", v.state().State, "at write %d", n)
			require.False(v, v.knocks())
			v.reachable(words)
			require.Equal(v, "kept\n", v.inside("/data/a"))
			require.Equal(v, statement.SSHIsClosed, v.attested().SSH, "at write %d", n)
			return s.State
		},
	}
	c.run(t)
}

// TestKilledWhileItComesBack kills it at each durable write of its start.
func TestKilledWhileItComesBack(t *testing.T) {
	t.Parallel()
	v := withData(t)
	v.Kill()
	for n := 1; ; n++ {
		p := v.traced(n)
		v.serves(p)
		killed := p.Killed()
		if !killed {
			t.Logf("%d durable writes", len(p.Writes()))
			require.Greater(t, n, 3)
			_ = p.Signal(syscall.SIGKILL)
			<-p.Ended()
			break
		}
		<-p.Ended()
	}
	require.NoError(t, v.Up(t.Context()))
	require.Equal(t, result{"kept\n", "", 0}, v.ssh("cat /data/a"))
	require.Equal(t, statement.SSHIsOpen, v.attested().SSH)
	v.expose()
	require.Equal(t, statement.SSHIsClosed, v.attested().SSH)
}
