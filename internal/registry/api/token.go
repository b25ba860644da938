package api

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"time"
)

// A join token is a line of text that an operator gives to machines:
//
//	tmj1.ID.SECRET       ID 16 hexadecimal digits, SECRET 32 bytes in base64url without padding
const tokenPrefix = "tmj1"

// ErrTokenForm says that a text is no join token. It never quotes the text.
var ErrTokenForm = errors.New("this is no join token: it has the form tmj1.ID.SECRET, as `telemark fleet token create` prints it")

// Token is a join token as its holder has it.
type Token struct {
	ID     string
	Secret []byte
}

// ParseToken reads a join token.
func ParseToken(s string) (Token, error) {
	parts := strings.Split(strings.TrimSpace(s), ".")
	if len(parts) != 3 || parts[0] != tokenPrefix || len(parts[1]) != 16 || strings.Trim(parts[1], "0123456789abcdef") != "" {
		return Token{}, ErrTokenForm
	}
	secret, err := base64.RawURLEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(secret) != sha256.Size {
		return Token{}, ErrTokenForm
	}
	return Token{ID: parts[1], Secret: secret}, nil
}

// Reveal returns the text of the token, for its holder and for nobody else.
func (t Token) Reveal() string {
	return tokenPrefix + "." + t.ID + "." + base64.RawURLEncoding.EncodeToString(t.Secret)
}

// String names the token without its secret.
func (t Token) String() string { return tokenPrefix + "." + t.ID }

// Key is what proofs are made with; the registry keeps it and not the secret.
//
//	SHA-256("telemark-join-key-v1\0" | u32 len, ID | u32 len, secret)
func (t Token) Key() []byte {
	return sum(sha256.New(), "telemark-join-key-v1", []byte(t.ID), t.Secret)
}

// TokenRequest is the body of POST /v1/tokens.
type TokenRequest struct {
	// Uses is how many machines may join: 1 to 1,000,000, default 1.
	Uses int `json:"uses,omitempty"`
	// ValidFor is a duration like 24h, at most 8760h; default 24h.
	ValidFor string `json:"valid_for,omitempty"`
	// Name, when set, is that of the one machine that may join.
	Name string `json:"name,omitempty"`
	// NamePattern bounds the names that machines may take, as in path.Match;
	// default *.
	NamePattern string `json:"name_pattern,omitempty"`
	// Labels are given to machines that join.
	Labels map[string]string `json:"labels,omitempty"`
	// Note is for people.
	Note string `json:"note,omitempty"`
}

// TokenInfo is what the registry tells of a token.
type TokenInfo struct {
	ID          string            `json:"id"`
	Uses        int               `json:"uses"`
	Used        int               `json:"used"`
	NamePattern string            `json:"name_pattern"`
	Labels      map[string]string `json:"labels,omitempty"`
	Note        string            `json:"note,omitempty"`
	CreatedAt   time.Time         `json:"created_at"`
	CreatedBy   string            `json:"created_by"`
	ExpiresAt   time.Time         `json:"expires_at"`
}

// TokenCreated answers POST /v1/tokens; the token is shown this once.
type TokenCreated struct {
	TokenInfo
	Token string `json:"token"`
}
