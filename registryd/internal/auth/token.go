package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
)

// A bearer token of registryd is "tmb1." and 32 random bytes in base64url
// without padding, so that its plain SHA-256 can be kept: nobody guesses it.
const (
	tokenPrefix = "tmb1."
	tokenBytes  = 32
	maxBearer   = 8 << 10 // an ID token is the longest
)

// NewToken makes a token, and the entry of the auth file for it.
func NewToken(name string, roles []string) (token string, entry FileToken, err error) {
	var secret [tokenBytes]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return "", FileToken{}, fmt.Errorf("make a token: %w", err)
	}
	token = tokenPrefix + base64.RawURLEncoding.EncodeToString(secret[:])
	sum := sha256.Sum256([]byte(token))
	entry = FileToken{Name: name, SHA256: hex.EncodeToString(sum[:]), Roles: roles}
	return token, entry, (&File{Tokens: []FileToken{entry}}).check()
}

// bearer takes the token out of an Authorization header. There is one such
// header at most.
func bearer(headers []string) (token string, present bool, ok bool) {
	if len(headers) == 0 {
		return "", false, true
	}
	scheme, token, found := strings.Cut(headers[0], " ")
	if len(headers) > 1 || !found || !strings.EqualFold(scheme, "bearer") || token == "" || len(token) > maxBearer {
		return "", true, false
	}
	return token, true, true
}
