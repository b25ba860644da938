package server

import (
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

const (
	defaultLimit = 100
	maxLimit     = 1000
	minNonce     = 16
	maxNonce     = 64
	maxKID       = 2 * 66 // a TPM Name with SHA-512
	maxID        = 160
)

// limitOf reads ?limit=.
func limitOf(r *http.Request) (int, error) {
	text := r.URL.Query().Get("limit")
	if text == "" {
		return defaultLimit, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxLimit {
		return 0, api.Refuse(api.BadRequest, "limit: %.32q: want 1 to %d", text, maxLimit)
	}
	return n, nil
}

// numberOf reads a parameter that counts; 0 without it.
func numberOf(r *http.Request, name string) (uint64, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, api.Refuse(api.BadRequest, "%s: %.32q is no number", name, text)
	}
	return n, nil
}

// nonceOf reads ?nonce=, base64url without padding; nil without it.
func nonceOf(r *http.Request) ([]byte, error) {
	text := r.URL.Query().Get("nonce")
	if text == "" {
		return nil, nil
	}
	nonce, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(nonce) < minNonce || len(nonce) > maxNonce {
		return nil, api.Refuse(api.BadRequest, "nonce: want %d to %d bytes in base64url without padding", minNonce, maxNonce)
	}
	return nonce, nil
}

// cursorOf reads ?after=, which the services understand.
func cursorOf(r *http.Request) (string, error) {
	after := r.URL.Query().Get("after")
	if len(after) > 512 {
		return "", api.Refuse(api.BadRequest, "after: take it from `next` of the page before")
	}
	return after, nil
}

// kidOf reads the key's name from the path: lower-case hexadecimal digits.
func kidOf(r *http.Request) (string, error) {
	kid := r.PathValue("kid")
	if b, err := hex.DecodeString(kid); err != nil || len(b) == 0 || len(kid) > maxKID || kid != strings.ToLower(kid) {
		return "", api.Refuse(api.BadRequest, "%.80q is no key: want the TPM Name in lower-case hexadecimal digits", kid)
	}
	return kid, nil
}

// pubkeyOf reads an instance's key from the path; upper case is taken, as
// clients of the first generation send it.
func pubkeyOf(r *http.Request) (string, error) { return instanceKeyOf(r, "pubkey") }

func instanceKeyOf(r *http.Request, name string) (string, error) {
	pubkey := strings.ToLower(r.PathValue(name))
	if b, err := hex.DecodeString(pubkey); err != nil || len(b) != 32 {
		return "", api.Refuse(api.BadRequest, "%.80q is no instance: want its public key, 64 hexadecimal digits", pubkey)
	}
	return pubkey, nil
}

// idOf reads a machine's name or EK hash, a token's ID or a policy's scope.
func idOf(r *http.Request, name string, atMost int) (string, error) {
	id := r.PathValue(name)
	if id == "" || len(id) > atMost {
		return "", api.Refuse(api.NotFound, "there is nothing called %.64q", id)
	}
	return id, nil
}
