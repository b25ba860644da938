package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/identity/identitytest"
	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

// life is an instance with an operator and an owner who use the command line.
type life struct {
	t          *testing.T
	vm         *identitytest.Instance
	url, plain string // attested, and without TLS
	dir        string
}

func newLife(t *testing.T, lab *tdxlab.Lab) *life {
	t.Helper()
	vm, err := identitytest.New(lab)
	require.NoError(t, err)
	attested := httptest.NewUnstartedServer(vm.Handler())
	attested.TLS = vm.TLSConfig()
	attested.StartTLS()
	plain := httptest.NewServer(vm.Handler())
	t.Cleanup(func() { attested.Close(); plain.Close() })
	l := &life{t: t, vm: vm, url: attested.URL, plain: plain.URL, dir: t.TempDir()}
	require.NoError(t, os.WriteFile(l.file("root.pem"), lab.RootPEM(), 0o600))
	require.NoError(t, os.Mkdir(l.file("collateral"), 0o700))
	require.NoError(t, lab.WriteBundle(l.file("collateral"), time.Now()))
	require.NoError(t, os.WriteFile(l.file("tdx.yaml"), []byte("policies:\n  - name: lab\n    tcb:\n      accept: [{status: UpToDate}]\n      advisories: [\"*\"]\n"), 0o600))
	for _, who := range []string{"operator", "owner"} {
		code, out := l.telemark(who, "key", "new", l.file(who+".key"))
		require.Zero(t, code, out)
	}
	return l
}

func (l *life) file(name string) string { return filepath.Join(l.dir, name) }

// telemark runs a command line, and returns all that it printed.
func (l *life) telemark(args ...string) (int, string) {
	l.t.Helper()
	var out bytes.Buffer
	code := run(args, strings.NewReader(""), &out, &out)
	return code, out.String()
}

// at runs a command about the instance.
func (l *life) at(url string, args ...string) (int, string) {
	l.t.Helper()
	return l.telemark(append(args, url, "--quote-roots", l.file("root.pem"), "--collateral-dir", l.file("collateral"), "--state-dir", l.file("instances"))...)
}

func (l *life) must(args ...string) {
	l.t.Helper()
	code, out := l.at(l.url, args...)
	require.Zero(l.t, code, out)
}

func (l *life) configured() *life {
	l.must("operator", "register", "--key", l.file("operator.key"), "--write-token", l.file("owner.token"))
	l.must("owner", "register", "--key", l.file("owner.key"), "--token-file", l.file("owner.token"))
	l.must("workload", "configure", "--key", l.file("owner.key"), "--image", "app:1", "--port", "8080")
	return l
}

// success is what a step is answered with by somebody who did not take it.
const success = `{"status":"success"}`

// The host drops the expose, and shows another VM, as genuine, that is closed.
func TestExposeIsNotShownByAnotherInstance(t *testing.T) {
	lab := tdxlab.New("twins")
	l, twin := newLife(t, lab).configured(), newLife(t, lab).configured()
	twin.must("workload", "configure", "--key", twin.file("owner.key"), "--image", "app:1", "--port", "8080")
	twin.must("workload", "expose", "--key", twin.file("owner.key"))
	other := twin.vm.Handler()
	var dropped atomic.Bool
	l.vm.Lie(identitytest.Lies{Serve: func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.URL.Path == api.PathExpose:
			dropped.Store(true)
			_, _ = w.Write([]byte(success))
		case dropped.Load():
			other.ServeHTTP(w, r)
		default:
			return false
		}
		return true
	}})
	code, out := l.at(l.plain, "workload", "expose", "--key", l.file("owner.key"))
	require.True(t, dropped.Load())
	require.Equal(t, exitRefused, code, out)
	require.NotContains(t, out, "closed for good")
	require.NotContains(t, out, "closed since")
}

// The VM refused, which raises its counter too, and the host says success.
func TestExposeThatDidNotHappenIsNotCalledClosed(t *testing.T) {
	l := newLife(t, tdxlab.New("refused")).configured()
	l.vm.Lie(identitytest.Lies{Serve: func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != api.PathExpose {
			return false
		}
		l.vm.Rollback(l.vm.Counter() + 2)
		_, _ = w.Write([]byte(success))
		return true
	}})
	code, out := l.at(l.plain, "workload", "expose", "--key", l.file("owner.key"))
	require.Equal(t, exitRefused, code, out)
	require.NotContains(t, out, "SSH closed for good")
}

func TestConfigureThatDidNotHappenIsNotCalledDone(t *testing.T) {
	l := newLife(t, tdxlab.New("refused")).configured()
	l.vm.Lie(identitytest.Lies{Serve: func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != api.PathConfigure {
			return false
		}
		l.vm.Rollback(l.vm.Counter() + 2)
		_, _ = w.Write([]byte(success))
		return true
	}})
	code, out := l.at(l.plain, "workload", "configure", "--key", l.file("owner.key"), "--image", "app:2", "--port", "8080")
	require.Equal(t, exitRefused, code, out)
	require.NotContains(t, out, "The container runs")
}

// elsewhere is a machine of the owner's that remembers nothing of the instance.
func (l *life) elsewhere() []string {
	l.t.Helper()
	require.NoError(l.t, os.WriteFile(l.file("volume.key"), []byte(hex.EncodeToString(l.vm.Secret())), 0o600))
	return []string{
		"storage", "unlock", l.url, "--quote-roots", l.file("root.pem"), "--collateral-dir", l.file("collateral"),
		"--state-dir", l.file("elsewhere"), "--key", l.file("owner.key"), "--volume-key", l.file("volume.key"),
	}
}

func (l *life) unlocked() bool { return slices.Contains(l.vm.Steps(), api.PathUnlock) }

// Any VM of an up to date platform has a quote that verifies. Without anything that
// says which image may run, the volume's key would go to the host's own.
func TestVolumeKeyIsNotSentToAnyVMThatAsks(t *testing.T) {
	l := newLife(t, tdxlab.New("anybody")).configured()
	require.NoError(t, l.vm.Reboot())
	l.vm.Lie(identitytest.Lies{Quote: []func(*tdxlab.Quote){func(q *tdxlab.Quote) { q.MRTD[0] ^= 1 }}})
	code, out := l.telemark(l.elsewhere()...)
	require.Equal(t, exitRefused, code, out)
	require.Contains(t, out, "--policy")
	require.False(t, l.unlocked())

	code, out = l.at(l.url, "storage", "unlock", "--key", l.file("owner.key"))
	require.Equal(t, exitRefused, code, out)
	require.Contains(t, out, "measurements_changed", "a machine that remembers sees it")

	l.vm.Lie(identitytest.Lies{})
	code, out = l.telemark(append(l.elsewhere(), "--policy", l.file("tdx.yaml"))...)
	require.Zero(t, code, out)
	require.True(t, l.unlocked())
	require.Contains(t, out, "set back", "nobody said which counter was the last")
}

// What only the VM, locked, says of its identity is the host's word: the registry
// asked about another one has seen nothing.
func TestSecondWitnessIsNotAskedAboutTheHostsIdentity(t *testing.T) {
	l := newLife(t, tdxlab.New("witness")).configured()
	origin := hex.EncodeToString(l.vm.Key())
	signer, err := answer.NewSigner(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32)))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(l.file("registry.pub"), signer.Public(), 0o600))
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		nonce, _ := base64.RawURLEncoding.DecodeString(r.URL.Query().Get("nonce"))
		asked := strings.TrimPrefix(r.URL.Path, "/v1/identities/")
		key, _ := hex.DecodeString(asked)
		i := &answer.Identity{
			Head:   answer.Head{Store: "s", Nonce: nonce, Revision: 1, IssuedAt: time.Now(), NotAfter: time.Now().Add(time.Minute)},
			Origin: key,
		}
		if asked == origin {
			i.Instance, i.Counter, i.Verified = key, 1000, true
		}
		signed, _ := signer.Sign(answer.KindIdentity, i)
		_, _ = w.Write(signed)
	}))
	defer registry.Close()
	require.NoError(t, l.vm.Reboot())
	l.vm.Lie(identitytest.Lies{Serve: func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != api.PathState {
			return false
		}
		_, _ = w.Write([]byte(`{"origin_pubkey":"` + strings.Repeat("ab", 32) + `"}`))
		return true
	}})
	args := append(l.elsewhere(), "--policy", l.file("tdx.yaml"), "--registry", registry.URL, "--pin", l.file("registry.pub"))
	code, out := l.telemark(args...)
	require.NotZero(t, code, out)
	require.False(t, l.unlocked(), out)

	code, out = l.telemark(append(args, "--origin", origin)...)
	require.Equal(t, exitRefused, code, out)
	require.Contains(t, out, "state_rollback")
	require.False(t, l.unlocked(), out)
}

// The time is the VM's clock's, which the host sets.
func TestTimeOfClosingIsNotCalledProven(t *testing.T) {
	l := newLife(t, tdxlab.New("clock")).configured()
	l.must("workload", "expose", "--key", l.file("owner.key"))
	_, out := l.at(l.url, "workload", "status")
	require.Contains(t, out, "by the VM's own clock")
	_, out = l.at(l.url, "workload", "status", "--insecure-skip-quote")
	require.Contains(t, out, "closed, as nothing shows", "nothing was looked at")
	require.Contains(t, out, "WARNING: the quote is NOT verified")
}
