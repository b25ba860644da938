package registrar_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/registrar"
	"github.com/telemark-otel/telemark/internal/registry/api"
)

// instance is what the registry knows of a VM.
func (x *registry) instance(v *vm) *api.Instance {
	x.t.Helper()
	i, err := x.client().Instance(x.t.Context(), hex.EncodeToString(v.m.Instance()))
	require.NoError(x.t, err)
	return i
}

func TestRegistryHearsEveryTransition(t *testing.T) {
	x := newRegistry(t).up()
	v := newVM(t)
	r := x.of(v)
	require.NoError(t, r.Tell(t.Context()), "a fresh machine owes nothing")
	require.Empty(t, x.calls)
	require.True(t, r.Status().Told)

	for _, step := range []func(){v.owned, v.configured, v.exposed} {
		step()
		require.False(t, r.Status().Told)
		require.NoError(t, r.Tell(t.Context()))
		require.True(t, r.Status().Told)
		i := x.instance(v)
		require.Equal(t, v.m.Counter(), i.Facts.Counter)
		require.Equal(t, string(v.m.View().State), i.Facts.State)
		require.Equal(t, api.FactsRTMR3, i.Facts.Evidence)
	}
	i := x.instance(v)
	require.Equal(t, "closed", i.Facts.SSH)
	require.Equal(t, image+"@"+imageDigest, i.Facts.Image)
	require.Equal(t, api.TDXVerified, i.State)
	require.NotZero(t, r.Status().Expires)

	quotes := v.quotes
	require.NoError(t, r.Tell(t.Context()), "nothing is owed")
	require.Equal(t, quotes, v.quotes)
}

func TestRegistryThatIsDownIsToldLater(t *testing.T) {
	x := newRegistry(t).up()
	x.down()
	v := newVM(t)
	v.owned()
	r := x.of(v)
	err := r.Tell(t.Context())
	refused(t, reason.RegistryUnreachable, err)
	require.True(t, reason.Of(err).Retryable())
	s := r.Status()
	require.Equal(t, string(reason.RegistryUnreachable), s.Reason)
	require.False(t, s.Told)
	require.True(t, v.m.View().RegistryOwed)

	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); r.Run(ctx) }()
	x.up()
	require.Eventually(t, func() bool { return r.Status().Told }, 30*time.Second, 20*time.Millisecond)
	require.Empty(t, r.Status().Reason)
	cancel()
	<-ended
	require.Equal(t, v.m.Counter(), x.instance(v).Facts.Counter)
}

// The registration was written, and the answer is lost: it is said again.
func TestLostAnswerIsFollowedByAPlainRenewal(t *testing.T) {
	x := newRegistry(t).up()
	v := newVM(t)
	v.owned()
	r := x.of(v)
	x.hooks(nil, func(resp *http.Response) error {
		if resp.Request.URL.Path == "/v1/instances" {
			return errors.New("lost")
		}
		return nil
	})
	refused(t, reason.RegistryUnreachable, r.Tell(t.Context()))
	require.Equal(t, v.m.Counter(), x.instance(v).Facts.Counter, "it was written")
	require.True(t, v.m.View().RegistryOwed)
	x.hooks(nil, nil)
	require.NoError(t, r.Tell(t.Context()))
	require.False(t, v.m.View().RegistryOwed)
}

func TestRefusalThatOnlyPeopleCanLiftIsTold(t *testing.T) {
	x := newRegistry(t).up()
	v := newVM(t)
	v.owned()
	r := x.of(v, func(o *registrar.Options) {
		o.PPID = func(context.Context) ([]byte, error) { return make([]byte, 16), nil }
	})
	err := r.Tell(t.Context())
	refused(t, reason.RegistryRefused, err)
	require.False(t, reason.Of(err).Retryable())
	require.ErrorContains(t, err, "ppid_mismatch")
	s := r.Status()
	require.Contains(t, s.LastError, "ppid_mismatch")
	require.Greater(t, time.Until(s.NextTry), 20*time.Minute)
	require.True(t, v.m.View().RegistryOwed)
}

func TestRebootedInstanceGoesOnUnderItsNewKey(t *testing.T) {
	x := newRegistry(t).up()
	v := newVM(t)
	v.owned()
	v.configured()
	v.exposed()
	require.NoError(t, x.of(v).Tell(t.Context()))

	next := v.reboot(v.disk, v.volume)
	r := x.of(next)
	require.NoError(t, r.Witness(t.Context()))
	require.False(t, next.m.View().RegistryPending)
	err := r.Tell(t.Context())
	refused(t, reason.OperatorRenewalNeeded, err)
	require.Equal(t, 1, x.seen("POST /v1/instances"), "it was not asked")

	require.NoError(t, next.m.Renew(role(next.m, 1)))
	require.NoError(t, r.Tell(t.Context()))
	require.Equal(t, api.TDXSuperseded, x.instance(v).State)
	i := x.instance(next)
	require.Equal(t, v.m.View().Origin, i.Facts.Origin)
	require.Equal(t, "boot-1", i.Facts.Boot)
}

// The host sets the disk back to before the door was closed.
// Two VMs run from copies of one disk. The registry hears of one, and the other
// learns from what it signs that it is the late one.
// Somebody in between says that all is well, and the registry never hears of it:
// later the disk could be set back to where the registry stands.
// Within a boot the registry's revision does not go back: it was restored from a
// backup, and knows less than it did.
func TestRegistryThatDoesNotAnswerIsGivenUpInTime(t *testing.T) {
	hole, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, and says nothing
	require.NoError(t, err)
	defer func() { _ = hole.Close() }()
	v := newVM(t)
	v.owned()
	x := newRegistry(t)
	client, err := registrar.NewClient(nil)
	require.NoError(t, err)
	client.Timeout = 200 * time.Millisecond
	r := x.of(v, func(o *registrar.Options) { o.URL, o.Client = "http://"+hole.Addr().String(), client })
	began := time.Now()
	refused(t, reason.RegistryUnreachable, r.Tell(t.Context()))
	require.Less(t, time.Since(began), 5*time.Second)

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	refused(t, reason.RegistryUnreachable, r.Tell(ctx))
}

func TestRedirectIsNotFollowed(t *testing.T) {
	x := newRegistry(t).up()
	v := newVM(t)
	v.owned()
	x.hooks(func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, x.url+r.URL.Path, http.StatusTemporaryRedirect)
		return true
	}, nil)
	refused(t, reason.RegistryRefused, x.of(v).Tell(t.Context()))
	require.Equal(t, 1, len(x.calls))
}

func TestRegistryOfTheFirstGenerationIsToldOnlyWhenAskedFor(t *testing.T) {
	x := newRegistry(t).up()
	x.hooks(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/v1/") {
			http.NotFound(w, r)
			return true
		}
		return false
	}, nil)
	v := newVM(t)
	v.owned()
	refused(t, reason.RegistryRefused, x.of(v).Tell(t.Context()))
	require.Zero(t, x.seen("POST /register"))
	require.NoError(t, x.of(v, func(o *registrar.Options) { o.Pin, o.FirstGeneration = nil, true }).Tell(t.Context()))
	require.Equal(t, 1, x.instance(v).Generation)
	require.Nil(t, x.instance(v).Facts)
	require.False(t, v.m.View().RegistryOwed)
}

func TestAnswerWithoutEndIsNotRead(t *testing.T) {
	x := newRegistry(t).up()
	v := newVM(t)
	v.owned()
	x.hooks(nil, func(resp *http.Response) error {
		body, err := io.ReadAll(resp.Body)
		if resp.Request.URL.Path == "/v1/nonces" {
			body = append(body, bytes.Repeat([]byte(" "), 2<<20)...)
		}
		forge(resp, resp.StatusCode, body)
		return err
	})
	refused(t, reason.RegistryAnswerInvalid, x.of(v).Tell(t.Context()))
}

func TestUnreadableAnswersAreRefused(t *testing.T) {
	x := newRegistry(t).up()
	v := newVM(t)
	v.owned()
	for name, c := range map[string]struct {
		status int
		body   string
		want   reason.Reason
	}{
		"no JSON":          {200, "hello", reason.RegistryAnswerInvalid},
		"no nonce":         {200, `{}`, reason.RegistryAnswerInvalid},
		"huge nonce":       {200, `{"nonce":"` + strings.Repeat("AAAA", 1000) + `"}`, reason.RegistryAnswerInvalid},
		"a proxy's page":   {403, "<html>", reason.RegistryRefused},
		"a proxy is tired": {502, "<html>", reason.RegistryUnreachable},
		"busy":             {503, `{"error":"x","reason":"busy","retry_after":7}`, reason.RegistryUnreachable},
		"a made up reason": {400, `{"error":"x","reason":"made_up"}`, reason.RegistryRefused},
	} {
		t.Run(name, func(t *testing.T) {
			x.hooks(func(w http.ResponseWriter, _ *http.Request) bool {
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
				return true
			}, nil)
			r := x.of(v)
			refused(t, c.want, r.Tell(t.Context()))
			if name == "busy" {
				require.Greater(t, time.Until(r.Status().NextTry), 5*time.Second)
			}
		})
	}
}

func TestAddressesThatAreNoneAreRefused(t *testing.T) {
	v := newVM(t)
	for _, address := range []string{"", "registry", "ftp://registry", "http://", "http://u:p@registry", "http://registry?x=1", "http://registry#x"} {
		_, err := registrar.New(registrar.Options{URL: address, Machine: v.m, Statement: v.statement, Quote: v.quote, PPID: v.ppid})
		require.Error(t, err, address)
	}
	_, err := registrar.New(registrar.Options{URL: "http://registry"})
	require.Error(t, err)
	_, err = registrar.New(registrar.Options{URL: "http://registry", Pin: []byte("x"), Machine: v.m, Statement: v.statement, Quote: v.quote, PPID: v.ppid})
	require.Error(t, err)
	_, err = registrar.NewClient([]byte("x"))
	require.Error(t, err)
}
