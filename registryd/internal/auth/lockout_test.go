package auth_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/registryd/internal/auth"
)

// Whoever sends invented tokens must not keep others from showing theirs, nor
// have the provider asked without end.
func TestFloodOfForgedIDTokensLocksNobodyOut(t *testing.T) {
	p := newIDP(t)
	a := auth.New(&auth.File{OIDC: &auth.FileOIDC{
		Issuer: p.URL, Audience: "telemark", Claim: "groups", Roles: map[string][]string{"desk": {"approver"}},
	}})
	now := time.Now()
	claims := map[string]any{
		"iss": p.URL, "aud": "telemark", "sub": "anna", "groups": "desk", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
	_, err := a.Identify(with(p.token(t, p.key, claims)), now)
	require.NoError(t, err)

	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	for i := range 300 {
		claims["jti"] = i
		_, err = a.Identify(with(p.token(t, stranger, claims)), now)
		require.Error(t, err)
		_, err = a.Identify(with(strings.Repeat("x.", 2)+"x"), now)
		require.Error(t, err)
	}
	require.Less(t, p.asked.Load(), int64(50), "of the provider")

	claims["sub"] = "bert"
	id, err := a.Identify(with(p.token(t, p.key, claims)), now)
	require.NoError(t, err)
	require.Equal(t, "oidc:bert", id.Name)
}
