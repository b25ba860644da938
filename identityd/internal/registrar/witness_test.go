package registrar_test

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/registrar"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/internal/registry/answer"
)

func TestRollbackIsSeenByTheWitness(t *testing.T) {
	x := newRegistry(t).up()
	v := newVM(t)
	v.owned()
	v.configured()
	disk, volume := v.disk.clone(), v.volume
	v.exposed()
	require.NoError(t, x.of(v).Tell(t.Context()))

	old := v.reboot(disk, volume)
	require.NoError(t, old.m.Witness(state.OwnerTool, 0), "the owner's tool knows nothing")
	r := x.of(old)
	refused(t, reason.StateRollback, r.Witness(t.Context()))
	view := old.m.View()
	require.True(t, view.RolledBack)
	require.False(t, view.SSHAllowed())
	before := len(x.calls)
	refused(t, reason.StateRollback, r.Tell(t.Context()))
	require.Len(t, x.calls, before, "nothing is told of it")
}

func TestCopyOfTheVMIsToldThatItIsLate(t *testing.T) {
	x := newRegistry(t).up()
	v := newVM(t)
	v.owned()
	require.NoError(t, x.of(v).Tell(t.Context()))
	disk, volume := v.disk.clone(), v.volume
	one, two := v.reboot(v.disk, v.volume), v.reboot(disk, volume)
	first, second := x.of(one), x.of(two)
	require.NoError(t, first.Witness(t.Context()))
	require.NoError(t, second.Witness(t.Context()), "nobody was told anything yet")
	require.NoError(t, one.m.Renew(role(one.m, 1)))
	one.configured()
	one.exposed()
	require.NoError(t, first.Tell(t.Context()))
	require.NoError(t, two.m.Renew(role(two.m, 1)))
	refused(t, reason.StateRollback, second.Tell(t.Context()))
	require.True(t, two.m.View().RolledBack)
}

func TestWitnessThatIsReplayedForeignOrForgedIsRefused(t *testing.T) {
	x := newRegistry(t).up()
	other := newRegistry(t).up()
	v := newVM(t)
	v.owned()
	stranger := newVM(t)
	stranger.owned()

	// Recorded while the registry knew nothing.
	var recorded []byte
	x.hooks(nil, func(resp *http.Response) error {
		if strings.HasPrefix(resp.Request.URL.Path, "/v1/identities/") {
			body, err := io.ReadAll(resp.Body)
			recorded = body
			forge(resp, resp.StatusCode, body)
			return err
		}
		return nil
	})
	require.NoError(t, x.of(v).Witness(t.Context()))
	x.hooks(nil, nil)
	require.NotEmpty(t, recorded)
	require.NoError(t, x.of(v).Tell(t.Context()))
	next := v.reboot(v.disk, v.volume)
	r := x.of(next)

	for name, after := range map[string]func(*http.Response) error{
		"replayed": func(resp *http.Response) error { forge(resp, 200, recorded); return nil },
		"about another identity": func(resp *http.Response) error {
			path := "/v1/identities/" + hex.EncodeToString(stranger.m.Instance()) + "?" + resp.Request.URL.RawQuery
			got, err := http.Get(x.url + path)
			if err != nil {
				return err
			}
			defer func() { _ = got.Body.Close() }()
			body, err := io.ReadAll(got.Body)
			forge(resp, 200, body)
			return err
		},
		"of another registry": func(resp *http.Response) error {
			got, err := http.Get(other.url + resp.Request.URL.RequestURI())
			if err != nil {
				return err
			}
			defer func() { _ = got.Body.Close() }()
			body, err := io.ReadAll(got.Body)
			forge(resp, 200, body)
			return err
		},
		"plain JSON": func(resp *http.Response) error {
			forge(resp, 200, []byte(`{"counter":0}`))
			return nil
		},
		"one bit": func(resp *http.Response) error {
			body, err := io.ReadAll(resp.Body)
			body[len(body)-1] ^= 1
			forge(resp, 200, body)
			return err
		},
		"larger than any": func(resp *http.Response) error { forge(resp, 200, make([]byte, 2<<20)); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			x.hooks(nil, after)
			defer x.hooks(nil, nil)
			refused(t, reason.RegistryAnswerInvalid, r.Witness(t.Context()))
			require.True(t, next.m.View().RegistryPending)
			refused(t, reason.RegistryAnswerInvalid, r.Tell(t.Context()))
		})
	}
	wrong := x.of(next, func(o *registrar.Options) { o.Pin = other.pin })
	refused(t, reason.RegistryAnswerInvalid, wrong.Witness(t.Context()))
	for name, clock := range map[string]time.Duration{"behind": -time.Hour, "ahead": time.Hour} {
		off := x.of(next, func(o *registrar.Options) { o.Now = func() time.Time { return time.Now().Add(clock) } })
		refused(t, reason.RegistryAnswerInvalid, off.Witness(t.Context()))
		require.NotEmpty(t, name)
	}
	require.NoError(t, r.Witness(t.Context()))
}

func TestPretendedRegistrationIsNotBelieved(t *testing.T) {
	x := newRegistry(t).up()
	v := newVM(t)
	v.owned()
	pretend := func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v1/instances" {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"pubkey":"`+hex.EncodeToString(v.m.Instance())+`","verified_at":"2026-11-21T12:00:00Z","expires_at":"2026-11-22T12:00:00Z","operator":null,"owner":null}`)
		return true
	}
	x.hooks(pretend, nil)
	r := x.of(v)
	refused(t, reason.RegistryAnswerInvalid, r.Tell(t.Context()))
	require.True(t, v.m.View().RegistryOwed)

	// Also when it heard of the instance before.
	x.hooks(nil, nil)
	require.NoError(t, r.Tell(t.Context()))
	v.configured()
	x.hooks(pretend, nil)
	refused(t, reason.RegistryAnswerInvalid, r.Tell(t.Context()))
	require.True(t, v.m.View().RegistryOwed)
}

func TestRegistryThatWentBackIsNoWitness(t *testing.T) {
	x := newRegistry(t).up()
	v := newVM(t)
	v.owned()
	r := x.of(v)
	require.NoError(t, r.Tell(t.Context()))
	encoded, err := os.ReadFile(filepath.Join(x.dir, "key.pem"))
	require.NoError(t, err)
	block, _ := pem.Decode(encoded)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	require.NoError(t, err)
	signer, err := answer.NewSigner(key.(ed25519.PrivateKey))
	require.NoError(t, err)
	verifier, err := answer.NewVerifier(x.pin)
	require.NoError(t, err)
	back := uint64(1)
	x.hooks(nil, func(resp *http.Response) error {
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		var i answer.Identity
		if err := verifier.Open(answer.KindIdentity, body, &i); err != nil {
			return err
		}
		i.Revision -= back
		body, err = signer.Sign(answer.KindIdentity, &i)
		forge(resp, http.StatusOK, body)
		return err
	})
	refused(t, reason.RegistryAnswerInvalid, r.Witness(t.Context()))
	back = 0
	require.NoError(t, r.Witness(t.Context()))
}

func TestWithoutAPinTheOwnerHasToSpeakFirst(t *testing.T) {
	x := newRegistry(t).up()
	unpinned := func(o *registrar.Options) { o.Pin = nil }
	v := newVM(t)
	v.owned()
	require.NoError(t, x.of(v, unpinned).Tell(t.Context()))
	next := v.reboot(v.disk, v.volume)
	r := x.of(next, unpinned)
	refused(t, reason.RegistryUnpinned, r.Witness(t.Context()))
	refused(t, reason.RegistryUnpinned, r.Tell(t.Context()))
	require.NoError(t, next.m.Witness(state.OwnerTool, v.m.Counter()))
	require.NoError(t, next.m.Renew(role(next.m, 1)))
	require.NoError(t, r.Tell(t.Context()))
	require.Equal(t, "boot-1", x.instance(next).Facts.Boot)
}
