package storage

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/transittest"
)

// engine is a stand-in for the real one.
type engine struct{ *transittest.Engine }

func newEngine(t *testing.T) *engine {
	t.Helper()
	return &engine{transittest.New(t)}
}

// options are for Vault; token is asked for at each call.
func (e *engine) options(token func(context.Context) (string, error)) VaultOptions {
	if token == nil {
		token = func(context.Context) (string, error) { return transittest.Token, nil }
	}
	return VaultOptions{Address: e.URL, Key: transittest.Key, Token: token, Transport: e.Transport()}
}

func (e *engine) source(t *testing.T, edits ...func(*VaultOptions)) Source {
	t.Helper()
	o := e.options(nil)
	for _, edit := range edits {
		edit(&o)
	}
	s, err := Vault(o)
	require.NoError(t, err)
	return s
}

func TestVaultKeepsTheKeyOfAVolume(t *testing.T) {
	e, path := newEngine(t), place(t)
	d := open(t, path)
	source := e.source(t)
	require.Empty(t, source.Warning())
	require.NoError(t, d.Create(t.Context(), ID{1}, source))
	h, err := d.Header()
	require.NoError(t, err)
	require.Equal(t, VaultKey, h.Source)
	require.True(t, strings.HasPrefix(string(h.Sealed), "vault:v1:"))
	v, err := d.Mount(t.Context(), ID{1}, source)
	require.NoError(t, err)
	write(t, filepath.Join(v.Path(), "a"), "kept")
	require.NoError(t, d.Close(t.Context()))

	// As after a reboot: only the engine has what it takes.
	d = open(t, path)
	_, err = d.Mount(t.Context(), ID{1}, given(1))
	refused(t, SourceOther, err)
	v, err = d.Mount(t.Context(), ID{1}, e.source(t))
	require.NoError(t, err)
	reads(t, filepath.Join(v.Path(), "a"), "kept")
}

func TestSealedKeyOfAnotherVolumeIsRefused(t *testing.T) {
	e := newEngine(t)
	source := e.source(t)
	key, sealed, err := source.Create(t.Context(), ID{1})
	require.NoError(t, err)
	same, err := source.Release(t.Context(), ID{1}, sealed)
	require.NoError(t, err)
	require.Equal(t, key.b, same.b)
	// As a host does who puts it beside another volume: the engine was told the
	// name as associated data.
	_, err = source.Release(t.Context(), ID{2}, sealed)
	refused(t, SourceFailed, err)
	require.ErrorContains(t, err, "message authentication failed")
	sealed[len(sealed)-5] ^= 1
	_, err = source.Release(t.Context(), ID{1}, sealed)
	refused(t, SourceFailed, err)
	_, err = source.Release(t.Context(), ID{1}, nil)
	refused(t, SourceFailed, err)
}

func TestTokenIsReadAtEachCall(t *testing.T) {
	e := newEngine(t)
	token := "s.first"
	e.Allow("s.first")
	source, err := Vault(e.options(func(context.Context) (string, error) { return token, nil }))
	require.NoError(t, err)
	_, sealed, err := source.Create(t.Context(), ID{1})
	require.NoError(t, err)
	// The first runs out and is replaced.
	e.Allow("s.second")
	_, err = source.Release(t.Context(), ID{1}, sealed)
	refused(t, SourceFailed, err)
	require.ErrorContains(t, err, "permission denied")
	require.NotContains(t, err.Error(), token)
	token = "s.second"
	_, err = source.Release(t.Context(), ID{1}, sealed)
	require.NoError(t, err)
	require.Equal(t, []string{"s.first", "s.first", "s.second"}, e.Calls(), "403 is not tried again")

	source, err = Vault(e.options(func(context.Context) (string, error) { return "", errors.New("expired") }))
	require.NoError(t, err)
	_, _, err = source.Create(t.Context(), ID{1})
	refused(t, SourceFailed, err)
	require.Empty(t, e.Calls())
}

func TestEngineThatFailsForAMomentIsAskedAgain(t *testing.T) {
	e := newEngine(t)
	source := e.source(t)
	sealedNow := func(w http.ResponseWriter, _ *http.Request) {
		transittest.Fail(w, http.StatusServiceUnavailable, "Vault is sealed")
	}
	e.Next(sealedNow, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	_, _, err := source.Create(t.Context(), ID{1})
	require.NoError(t, err)
	require.Len(t, e.Calls(), vaultAttempts)

	e.Next(sealedNow, sealedNow, sealedNow)
	_, _, err = source.Create(t.Context(), ID{1})
	refused(t, SourceFailed, err)
	require.ErrorContains(t, err, "Vault is sealed")
	require.Len(t, e.Calls(), vaultAttempts)
}

func TestEngineThatHangsHoldsNobodyUp(t *testing.T) {
	e := newEngine(t)
	released := make(chan struct{})
	t.Cleanup(func() { close(released) })
	e.Next(func(http.ResponseWriter, *http.Request) { <-released })
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, _, err := e.source(t).Create(ctx, ID{1})
	refused(t, SourceFailed, err)
	require.Less(t, time.Since(began), 5*time.Second)

	// The disk's own limit holds too, and nothing is left of the volume.
	e.Next(func(http.ResponseWriter, *http.Request) { <-released })
	path := place(t)
	d := open(t, path, func(o *Options) { o.MountTimeout = 200 * time.Millisecond })
	refused(t, SourceFailed, d.Create(t.Context(), ID{1}, e.source(t)))
	_, err = d.Header()
	refused(t, VolumeMissing, err)
	require.NoDirExists(t, filepath.Join(path, nameNew))
}

func TestRedirectDoesNotCarryTheToken(t *testing.T) {
	var reached []string
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		reached = append(reached, r.Header.Get("X-Vault-Token"))
	}))
	t.Cleanup(elsewhere.Close)
	for _, status := range []int{301, 302, 303, 307, 308} {
		e := newEngine(t)
		e.Next(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, status) })
		_, _, err := e.source(t).Create(t.Context(), ID{1})
		refused(t, SourceFailed, err)
		require.ErrorContains(t, err, "not followed")
		require.Empty(t, reached, "%d", status)
	}
}

func TestEnvironmentDoesNotLeadElsewhere(t *testing.T) {
	e := newEngine(t)
	elsewhere := newEngine(t)
	for _, prefix := range []string{"BAO_", "VAULT_"} {
		t.Setenv(prefix+"ADDR", elsewhere.URL)
		t.Setenv(prefix+"AGENT_ADDR", elsewhere.URL)
		t.Setenv(prefix+"TOKEN", "s.environment")
		t.Setenv(prefix+"NAMESPACE", "other")
		t.Setenv(prefix+"MAX_RETRIES", "99")
	}
	var namespace string
	refuse := func(w http.ResponseWriter, r *http.Request) {
		namespace += r.Header.Get("X-Vault-Namespace")
		transittest.Fail(w, http.StatusInternalServerError, "no")
	}
	e.Next(refuse, refuse, refuse)
	_, _, err := e.source(t).Create(t.Context(), ID{1})
	refused(t, SourceFailed, err)
	require.Empty(t, namespace)
	require.Equal(t, []string{transittest.Token, transittest.Token, transittest.Token}, e.Calls())
	require.Empty(t, elsewhere.Calls())
}

func TestAnswersOfTheEngineThatAreRefused(t *testing.T) {
	answer := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }
	}
	key := func(n int) string { return base64.StdEncoding.EncodeToString(make([]byte, n)) }
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		want    Reason
	}{
		"empty":           {answer(""), SourceFailed},
		"204":             {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, SourceFailed},
		"not JSON":        {answer("<html>"), SourceFailed},
		"without data":    {answer(`{}`), SourceFailed},
		"another type":    {answer(`{"data":{"plaintext":7}}`), SourceFailed},
		"not base64":      {answer(`{"data":{"plaintext":"!"}}`), SourceFailed},
		"an empty key":    {answer(`{"data":{"plaintext":""}}`), SourceFailed},
		"a short key":     {answer(`{"data":{"plaintext":"` + base64.StdEncoding.EncodeToString(secret(1)[1:]) + `"}}`), KeyInvalid},
		"a long key":      {answer(`{"data":{"plaintext":"` + key(KeySize+1) + `"}}`), KeyInvalid},
		"a key of zeros":  {answer(`{"data":{"plaintext":"` + key(KeySize) + `"}}`), KeyInvalid},
		"nested too deep": {answer(strings.Repeat(`{"data":`, 30000)), SourceFailed},
		"without end": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprint(w, `{"data":{"plaintext":"`)
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}, SourceFailed},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t)
			e.Next(c.handler)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			_, err := e.source(t).Release(ctx, ID{1}, []byte("vault:v1:x"))
			refused(t, c.want, err)
			require.NoError(t, ctx.Err())
			require.Less(t, len(err.Error()), 1000)
		})
	}
	e := newEngine(t)
	e.Next(answer(`{"data":{"ciphertext":"` + strings.Repeat("x", maxSealed+1) + `"}}`))
	_, _, err := e.source(t).Create(t.Context(), ID{1})
	refused(t, SourceFailed, err)
}

func TestVaultOptionsThatAreRefused(t *testing.T) {
	e := newEngine(t)
	for name, edit := range map[string]func(*VaultOptions){
		"plain HTTP":         func(o *VaultOptions) { o.Address = "http://vault:8200" },
		"no scheme":          func(o *VaultOptions) { o.Address = "vault:8200" },
		"another scheme":     func(o *VaultOptions) { o.Address = "unix:///run/vault"; o.Insecure = true },
		"no key":             func(o *VaultOptions) { o.Key = "" },
		"a key that climbs":  func(o *VaultOptions) { o.Key = "a/../../../sys/raw" },
		"a mount that climb": func(o *VaultOptions) { o.Mount = "transit/.." },
		"a query":            func(o *VaultOptions) { o.Key = "a?x=1" },
		"no token":           func(o *VaultOptions) { o.Token = nil },
	} {
		o := e.options(nil)
		edit(&o)
		_, err := Vault(o)
		require.Equal(t, SourceFailed, ReasonOf(err), name)
	}
	o := e.options(nil)
	o.Address, o.Insecure = "http://127.0.0.1:8200", true
	_, err := Vault(o)
	require.NoError(t, err)
}

func TestUnknownServerIsNotTrustedWithTheToken(t *testing.T) {
	e := newEngine(t)
	source := e.source(t, func(o *VaultOptions) { o.Transport = nil })
	_, _, err := source.Create(t.Context(), ID{1})
	refused(t, SourceFailed, err)
	require.Empty(t, e.Calls())
}
