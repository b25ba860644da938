package auth_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/registryd/internal/auth"
)

func with(token string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r
}

func TestRolesHoldOneAnother(t *testing.T) {
	for held, wants := range map[auth.Role][]auth.Role{
		auth.Viewer:                  {auth.Viewer},
		auth.Approver:                {auth.Viewer, auth.Approver},
		auth.Auditor:                 {auth.Viewer, auth.Auditor},
		auth.Auditor | auth.Approver: {auth.Viewer, auth.Auditor, auth.Approver},
		auth.Admin:                   {auth.Viewer, auth.Auditor, auth.Approver, auth.Admin},
		0:                            {},
	} {
		for _, want := range []auth.Role{auth.Viewer, auth.Approver, auth.Auditor, auth.Admin} {
			require.Equal(t, slices.Contains(wants, want), held.Has(want), "%s has %s", held, want)
		}
	}
	_, err := auth.ParseRole("root")
	require.Error(t, err)
	require.Equal(t, "viewer,admin", (auth.Admin | auth.Viewer).String())
}

func TestTokensAreKnownByTheirHash(t *testing.T) {
	token, entry, err := auth.NewToken("ops", []string{"admin"})
	require.NoError(t, err)
	require.NotContains(t, fmt.Sprint(entry), token[5:])
	entry.Expires = time.Now().Add(time.Hour)
	a := auth.New(&auth.File{Tokens: []auth.FileToken{entry}, Anonymous: []string{"viewer"}})
	now := time.Now()

	id, err := a.Identify(with(token), now)
	require.NoError(t, err)
	require.Equal(t, "token:ops", id.Name)
	require.True(t, id.Roles.Has(auth.Admin))
	require.Equal(t, entry.Expires, id.Expires)

	for _, wrong := range []string{token + "x", token[:len(token)-1], strings.ToUpper(token), entry.SHA256, "a.b.c", "x"} {
		_, err = a.Identify(with(wrong), now)
		require.ErrorIs(t, err, auth.ErrCredentials, wrong)
	}
	_, err = a.Identify(with(token), entry.Expires)
	require.ErrorIs(t, err, auth.ErrCredentials, "expired")
	r := with(token)
	r.Header.Set("Authorization", "Basic "+token)
	_, err = a.Identify(r, now)
	require.ErrorIs(t, err, auth.ErrCredentials)

	id, err = a.Identify(with(""), now)
	require.NoError(t, err)
	require.True(t, id.Anonymous())
	require.True(t, id.Roles.Has(auth.Viewer))
	require.True(t, a.Anybody(auth.Admin))
	require.False(t, auth.New(nil).Anybody(auth.Viewer))
}

func TestAuthFilesThatSayTooMuchAreRefused(t *testing.T) {
	hash := strings.Repeat("ab", 32)
	for text, says := range map[string]string{
		"tokens:\n  - name: a\n    sha256: " + hash + "\n    roles: [viewer]\n    secret: x\n": "line 5: field secret not found",
		"token: []\n":                                                   "line 1: field token not found",
		"anonymous: [viewer]\nanonymous: []\n":                          "already defined",
		"anonymous: [viewer]\n---\nanonymous: []\n":                     "behind its first document",
		"anonymous: [approver]\n":                                       "may be viewer or nothing",
		"tokens:\n  - {name: a, sha256: " + hash + ", roles: []}\n":     "tokens[0]::roles: is empty",
		"tokens:\n  - {name: a, sha256: " + hash + ", roles: [root]}\n": `role "root"`,
		"tokens:\n  - {name: '', sha256: " + hash + ", roles: [admin]}": "tokens[0]::name",
		"tokens:\n  - {name: a, sha256: ab, roles: [admin]}":            "64 hexadecimal digits",
		"tokens:\n  - {name: a, sha256: " + hash + ", roles: [admin]}\n  - {name: a, sha256: " + strings.Repeat("cd", 32) + ", roles: [admin]}\n": "stands there twice",
		"tokens:\n  - {name: a, sha256: " + hash + ", roles: [admin]}\n  - {name: b, sha256: " + hash + ", roles: [admin]}\n":                     "has the same token",
		"mtls:\n  - {roles: [admin]}\n":                                                          "exactly one of subject, dns and uri",
		"mtls:\n  - {subject: a, dns: b, roles: [admin]}\n":                                      "exactly one of subject, dns and uri",
		"mtls:\n  - {subject: a, roles: [admin]}\n  - {subject: a, roles: [viewer]}\n":           "stands there twice",
		"oidc: {issuer: 'http://id.example', audience: a, claim: g, roles: {a: [admin]}}\n":      "https://",
		"oidc: {issuer: 'https://id.example', claim: g, roles: {a: [admin]}}\n":                  "oidc::audience",
		"oidc: {issuer: 'https://id.example', audience: a, roles: {a: [admin]}}\n":               "oidc::claim",
		"oidc: {issuer: 'https://id.example', audience: a, claim: g}\n":                          "oidc::roles",
		"oidc: {issuer: 'https://id.example', audience: a, claim: g, roles: {a: [superuser]}}\n": "superuser",
	} {
		_, err := auth.Parse([]byte(text))
		require.ErrorContains(t, err, says, text)
	}
	f, err := auth.Parse(nil)
	require.NoError(t, err)
	require.Equal(t, &auth.File{}, f)
}

// idp is an identity provider: discovery, keys, and tokens of any content.
type idp struct {
	*httptest.Server
	key   *ecdsa.PrivateKey
	asked atomic.Int64
	down  atomic.Bool
}

func newIDP(t *testing.T) *idp {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	p := &idp{key: key}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.asked.Add(1)
		if p.down.Load() {
			http.Error(w, "down", http.StatusBadGateway)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		point, _ := key.PublicKey.Bytes()
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			_ = json.NewEncoder(w).Encode(map[string]any{
				"issuer": p.URL, "jwks_uri": p.URL + "/keys", "authorization_endpoint": p.URL + "/a", "token_endpoint": p.URL + "/t",
				"id_token_signing_alg_values_supported": []string{"ES256"},
			})
		case "/keys":
			_ = json.NewEncoder(w).Encode(map[string]any{"keys": []any{map[string]any{
				"kty": "EC", "crv": "P-256", "kid": "1", "alg": "ES256", "use": "sig", "x": b64(point[1:33]), "y": b64(point[33:]),
			}}})
		}
	}))
	t.Cleanup(p.Close)
	return p
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func (p *idp) token(t *testing.T, key *ecdsa.PrivateKey, claims map[string]any) string {
	t.Helper()
	body, err := json.Marshal(claims)
	require.NoError(t, err)
	signed := b64([]byte(`{"alg":"ES256","kid":"1","typ":"JWT"}`)) + "." + b64(body)
	sum := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	require.NoError(t, err)
	return signed + "." + b64(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}

func TestIDTokensGiveRolesByTheirClaim(t *testing.T) {
	p := newIDP(t)
	a := auth.New(&auth.File{OIDC: &auth.FileOIDC{
		Issuer: p.URL, Audience: "telemark", Claim: "groups",
		Roles: map[string][]string{"admins": {"admin"}, "desk": {"approver"}},
	}})
	now := time.Now()
	claims := func(change map[string]any) map[string]any {
		c := map[string]any{"iss": p.URL, "aud": "telemark", "sub": "anna", "exp": now.Add(time.Hour).Unix(), "iat": now.Unix(), "groups": []string{"desk", "other"}}
		maps.Copy(c, change)
		return c
	}
	good := p.token(t, p.key, claims(nil))

	// A provider that is not there is no reason to let anybody in.
	p.down.Store(true)
	_, err := a.Identify(with(good), now)
	require.ErrorIs(t, err, auth.ErrProvider)
	asked := p.asked.Load()
	_, err = a.Identify(with(good), now.Add(time.Second))
	require.ErrorIs(t, err, auth.ErrProvider)
	require.Equal(t, asked, p.asked.Load(), "it is not asked again at once")
	p.down.Store(false)
	now = now.Add(10 * time.Second)

	id, err := a.Identify(with(good), now)
	require.NoError(t, err)
	require.Equal(t, "oidc:anna", id.Name)
	require.Equal(t, auth.Approver, id.Roles)
	require.False(t, id.Expires.IsZero())
	asked = p.asked.Load()
	for range 50 {
		_, err = a.Identify(with(good), now)
		require.NoError(t, err)
	}
	require.Equal(t, asked, p.asked.Load())

	id, err = a.Identify(with(p.token(t, p.key, claims(map[string]any{"groups": "admins"}))), now)
	require.NoError(t, err)
	require.True(t, id.Roles.Has(auth.Admin))
	id, err = a.Identify(with(p.token(t, p.key, claims(map[string]any{"groups": []any{1, "nothing"}}))), now)
	require.NoError(t, err)
	require.Zero(t, id.Roles)
	require.False(t, id.Anonymous())

	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	for name, token := range map[string]string{
		"another service's":  p.token(t, p.key, claims(map[string]any{"aud": "payroll"})),
		"another provider's": p.token(t, p.key, claims(map[string]any{"iss": "https://evil.example"})),
		"expired":            p.token(t, p.key, claims(map[string]any{"exp": now.Add(-time.Hour).Unix()})),
		"signed by another":  p.token(t, stranger, claims(nil)),
		"without signature":  strings.Join(strings.Split(good, ".")[:2], ".") + ".",
		"algorithm none":     b64([]byte(`{"alg":"none"}`)) + "." + strings.Split(good, ".")[1] + ".",
		"no subject":         p.token(t, p.key, claims(map[string]any{"sub": ""})),
		"screen control":     p.token(t, p.key, claims(map[string]any{"sub": "anna\x1b[2K\root"})),
	} {
		_, err := a.Identify(with(token), now)
		require.ErrorIs(t, err, auth.ErrCredentials, name)
	}
	_, err = a.Identify(with(good), now.Add(2*time.Hour))
	require.Error(t, err, "what is remembered ends with the token")
}
