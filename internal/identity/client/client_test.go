package client_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/identity/client"
	"github.com/telemark-otel/telemark/internal/identity/identitytest"
	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/identity/unlock"
	"github.com/telemark-otel/telemark/internal/tdx/collateral"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

var lab = tdxlab.New("client")

// quotes verifies by the lab's root.
func quotes(t *testing.T) *collateral.Verifier {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, lab.WriteBundle(dir, time.Now()))
	v, err := collateral.New(collateral.Options{Source: collateral.Bundle{Dir: dir}, Roots: lab.Roots()})
	require.NoError(t, err)
	t.Cleanup(v.Close)
	return v
}

func newKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	return key
}

func publicOf(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

// serve serves an instance with its own TLS key.
func serve(t *testing.T, i *identitytest.Instance) string {
	t.Helper()
	s := httptest.NewUnstartedServer(i.Handler())
	s.TLS = i.TLSConfig()
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

func instance(t *testing.T) (*identitytest.Instance, string) {
	t.Helper()
	i, err := identitytest.New(lab)
	require.NoError(t, err)
	return i, serve(t, i)
}

func dial(t *testing.T, url string, edits ...func(*client.Options)) *client.Client {
	t.Helper()
	o := client.Options{URL: url, Quotes: quotes(t)}
	for _, edit := range edits {
		edit(&o)
	}
	c, err := client.New(o)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func attest(t *testing.T, c *client.Client) *client.Instance {
	t.Helper()
	i, err := c.Attest(t.Context())
	require.NoError(t, err)
	return i
}

func doubted(t *testing.T, err error, r client.Reason) {
	t.Helper()
	require.ErrorIs(t, err, &client.Doubt{Reason: r})
}

func refused(t *testing.T, err error, reason string) {
	t.Helper()
	require.ErrorIs(t, err, &client.Refusal{Reason: reason})
}

// memory is what was seen, as a tool keeps it.
type memory map[string]client.Known

func (m memory) Recall(origin ed25519.PublicKey) (client.Known, error) {
	return m[string(origin)], nil
}

func (m memory) Remember(origin ed25519.PublicKey, s *client.Seen) error {
	k := m[string(origin)]
	m[string(origin)] = client.Known{Counter: max(k.Counter, s.Counter), Measurements: s.Measurements}
	return nil
}

// owned registers operator and owner, and returns the owner and the volume's key.
func owned(t *testing.T, c *client.Client) (owner ed25519.PrivateKey, key []byte) {
	t.Helper()
	owner, key = newKey(t), unlock.NewKey()
	_, err := attest(t, c).RegisterOperator(t.Context(), newKey(t), publicOf(owner))
	require.NoError(t, err)
	i := attest(t, c)
	ask, err := i.Ask(t.Context(), owner)
	require.NoError(t, err)
	sealed, err := ask.Seal(key, client.Known{})
	require.NoError(t, err)
	_, err = i.RegisterOwner(t.Context(), owner, identitytest.Token, sealed)
	require.NoError(t, err)
	return owner, key
}

func configure(t *testing.T, c *client.Client, owner ed25519.PrivateKey) {
	t.Helper()
	image, port := "app:1", int64(8080)
	_, err := attest(t, c).Configure(t.Context(), owner, api.Configure{Image: &image, Port: &port, PersistDirs: []string{}})
	require.NoError(t, err)
}

func TestWholeLifeOfAnInstance(t *testing.T) {
	vm, url := instance(t)
	known := memory{}
	c := dial(t, url, func(o *client.Options) { o.Memory = known })
	owner, key := owned(t, c)
	require.Equal(t, key, vm.Secret())
	configure(t, c, owner)
	i := attest(t, c)
	require.Equal(t, statement.SSHIsOpen, i.Facts.SSH)
	require.Equal(t, "app:1@"+identitytest.Digest, i.Facts.Image)
	require.True(t, i.Verified())
	require.Equal(t, client.Attested, i.Channel())
	_, err := i.Expose(t.Context(), owner, "app:1")
	require.NoError(t, err)
	i = attest(t, c)
	require.Equal(t, statement.SSHIsClosed, i.Facts.SSH)
	require.Equal(t, []string{api.PathRegisterOperator, api.PathRegisterOwner, api.PathConfigure, api.PathExpose}, vm.Steps())
	require.Equal(t, vm.Counter(), known[string(i.Statement.Origin)].Counter)

	// The same request again is for a counter that is over.
	_, err = i.Expose(t.Context(), owner, "app:1")
	refused(t, err, "workload_missing")

	// After a reboot it is locked, and then goes on as the same identity.
	origin := bytes.Clone(i.Statement.Origin)
	require.NoError(t, vm.Reboot())
	c = dial(t, url, func(o *client.Options) { o.Memory = known })
	i = attest(t, c)
	require.True(t, i.Locked())
	ask, err := i.Ask(t.Context(), owner)
	require.NoError(t, err)
	seen := known[string(origin)]
	sealed, err := ask.Seal(key, seen)
	require.NoError(t, err)
	_, err = i.Unlock(t.Context(), ask, sealed, seen.Counter)
	require.NoError(t, err)
	i = attest(t, c)
	require.Equal(t, origin, []byte(i.Statement.Origin))
	require.NotEqual(t, origin, []byte(i.Key))
	require.Equal(t, statement.SSHIsClosed, i.Facts.SSH)
}

func TestRegistryThatIsDownIsToldAndNotFatal(t *testing.T) {
	vm, url := instance(t)
	vm.RegistryDown()
	done, err := attest(t, dial(t, url)).RegisterOperator(t.Context(), newKey(t), nil)
	require.NoError(t, err)
	require.True(t, done.Pending)
	require.Equal(t, "registry_unreachable", done.Reason)
	require.Equal(t, identitytest.Token, done.OwnerToken)
}

func TestSecretsAreNotSentInClear(t *testing.T) {
	vm, _ := instance(t)
	plain := httptest.NewServer(vm.Handler())
	defer plain.Close()
	require.Equal(t, client.Local, attest(t, dial(t, plain.URL)).Channel())

	// Another machine, by a name that leads here.
	here, err := url.Parse(plain.URL)
	require.NoError(t, err)
	away := func(o *client.Options) { o.URL, o.Proxy = "http://vm.example:80", http.ProxyURL(here) }
	i := attest(t, dial(t, plain.URL, away))
	require.Equal(t, client.Plain, i.Channel())
	owner := newKey(t)
	_, err = i.RegisterOperator(t.Context(), owner, nil)
	doubted(t, err, client.ChannelOpen)
	_, err = i.RegisterOwner(t.Context(), owner, identitytest.Token, nil)
	doubted(t, err, client.ChannelOpen)
	_, err = i.Configure(t.Context(), owner, api.Configure{Registry: &api.Credentials{Username: "u", Password: "p"}})
	doubted(t, err, client.ChannelOpen)
	require.Empty(t, vm.Steps())
	// With the owner's key named, and signed, the token is worth nothing to others.
	_, err = i.RegisterOperator(t.Context(), owner, publicOf(owner))
	require.NoError(t, err)
}

func TestAnswersThatAreTooLargeOrNoneAreRefused(t *testing.T) {
	vm, url := instance(t)
	serve := func(f http.HandlerFunc) {
		vm.Lie(identitytest.Lies{Serve: func(w http.ResponseWriter, r *http.Request) bool { f(w, r); return true }})
	}
	serve(func(w http.ResponseWriter, _ *http.Request) {
		for range api.MaxAnswer/1024 + 1024 {
			if _, err := w.Write(bytes.Repeat([]byte(" "), 1024)); err != nil {
				return
			}
		}
	})
	_, err := dial(t, url).Attest(t.Context())
	doubted(t, err, client.AnswerMalformed)
	serve(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "<html>") })
	_, err = dial(t, url).Attest(t.Context())
	doubted(t, err, client.AnswerMalformed)
	serve(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, `{"pubkey":"00"}`) })
	_, err = dial(t, url).Attest(t.Context())
	doubted(t, err, client.AnswerMalformed)
	serve(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://elsewhere.example/", http.StatusFound)
	})
	_, err = dial(t, url).Attest(t.Context())
	require.ErrorContains(t, err, "redirects")
	serve(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "gateway", http.StatusBadGateway) })
	_, err = dial(t, url).Attest(t.Context())
	require.ErrorContains(t, err, "without a reason")
	serve(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = dial(t, url).Attest(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestWordsOfARefusalAreBoundedAndCommandNoTerminal(t *testing.T) {
	vm, url := instance(t)
	vm.Lie(identitytest.Lies{Serve: func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusTeapot)
		_, _ = fmt.Fprintf(w, `{"error":"%s[31m%s","reason":"x[2J","retry_after":-5}`, `\u001b`, strings.Repeat("a", 9999))
		return true
	}})
	_, err := dial(t, url).Attest(t.Context())
	r, ok := errors.AsType[*client.Refusal](err)
	require.True(t, ok, "%v", err)
	require.Less(t, len(err.Error()), 2000)
	require.NotContains(t, err.Error(), "\x1b")
	require.Zero(t, r.RetryAfter)
}

// lying signs with another key than it names.
type lying struct{ ed25519.PrivateKey }

func (lying) Public() crypto.PublicKey { return make(ed25519.PublicKey, 32) }

func TestSignerThatFailsIsNoticedBeforeAnythingIsSent(t *testing.T) {
	vm, url := instance(t)
	_, err := attest(t, dial(t, url)).RegisterOperator(t.Context(), lying{newKey(t)}, nil)
	doubted(t, err, client.SignerInvalid)
	require.Empty(t, vm.Steps())
}

func TestUnverifiedQuotesAreForDevelopmentOnly(t *testing.T) {
	vm, url := instance(t)
	vm.Lie(identitytest.Lies{Quote: []func(*tdxlab.Quote){func(q *tdxlab.Quote) { q.BadSignature = true }}})
	skip := func(o *client.Options) { o.Quotes = client.Unverified{} }
	i := attest(t, dial(t, url, skip))
	require.False(t, i.Verified())
	require.Nil(t, i.Measurements())
	// What the quote says is still held against nonce and statement.
	vm.Lie(identitytest.Lies{Nonce: func(n []byte) []byte { return n[:16] }})
	_, err := dial(t, url, skip).Attest(t.Context())
	doubted(t, err, client.QuoteMismatch)
	vm.Lie(identitytest.Lies{Attestation: func(a *api.Attestation) { a.Quote = a.Quote[:100] }})
	_, err = dial(t, url, skip).Attest(t.Context())
	doubted(t, err, client.QuoteRefused)
}

func TestOlderServiceIsSpokenToInTheOlderForm(t *testing.T) {
	vm, err := identitytest.New(lab)
	require.NoError(t, err)
	vm.Legacy, vm.Source = true, "legacy"
	s := httptest.NewServer(vm.Handler())
	defer s.Close()
	_, err = dial(t, s.URL).Attest(t.Context())
	refused(t, err, "not_found")
	c := dial(t, s.URL, func(o *client.Options) { o.Legacy = true })
	i := attest(t, c)
	owner := newKey(t)
	_, err = i.RegisterOperator(t.Context(), newKey(t), nil)
	require.NoError(t, err)
	_, err = i.RegisterOwner(t.Context(), owner, identitytest.Token, nil)
	require.NoError(t, err)
	image, port := "app:1", int64(80)
	_, err = i.Configure(t.Context(), owner, api.Configure{Image: &image, Port: &port, PersistDirs: []string{}})
	require.NoError(t, err)
	_, err = i.Expose(t.Context(), owner, image)
	require.NoError(t, err)
	require.Equal(t, []string{"/operator/register", "/owner/register", "/workload/configure", "/workload/expose"}, vm.Steps())
	_, err = i.Ask(t.Context(), owner)
	doubted(t, err, client.StorageRefused)
}

func TestAddressesThatAreNoneAreRefused(t *testing.T) {
	for _, url := range []string{"", "vm.example", "ftp://vm.example", "https://", "https://u:p@vm.example", "https://vm.example/?a=b", "https://vm.example/#x"} {
		_, err := client.New(client.Options{URL: url})
		require.Error(t, err, url)
	}
}
