package storage

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// transit is a stand-in for the transit secrets engine of OpenBao and Vault, not
// the real one, which Debian does not package: encrypt and decrypt under
// /v1/transit as its HTTP API documents them, AES-256-GCM with associated data,
// tokens with a policy of yes or no.
type transit struct {
	server *httptest.Server
	aead   cipher.AEAD

	mu      sync.Mutex
	tokens  map[string]bool // that may use the key
	seen    []string        // tokens, in the order of the calls
	disrupt []http.HandlerFunc
}

const transitToken = "s.instance"

func newTransit(t *testing.T) *transit {
	t.Helper()
	block, err := aes.NewCipher(secret(9))
	require.NoError(t, err)
	aead, err := cipher.NewGCM(block)
	require.NoError(t, err)
	e := &transit{aead: aead, tokens: map[string]bool{transitToken: true}}
	e.server = httptest.NewTLSServer(e)
	t.Cleanup(e.server.Close)
	return e
}

// options are for Vault; token is asked for at each call.
func (e *transit) options(token func(context.Context) (string, error)) VaultOptions {
	if token == nil {
		token = func(context.Context) (string, error) { return transitToken, nil }
	}
	return VaultOptions{Address: e.server.URL, Key: "volumes", Token: token, Transport: e.server.Client().Transport}
}

func (e *transit) source(t *testing.T, edits ...func(*VaultOptions)) Source {
	t.Helper()
	o := e.options(nil)
	for _, edit := range edits {
		edit(&o)
	}
	s, err := Vault(o)
	require.NoError(t, err)
	return s
}

// next lets handlers answer the next calls in the engine's place.
func (e *transit) next(handlers ...http.HandlerFunc) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.disrupt = append(e.disrupt, handlers...)
}

func (e *transit) calls() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	calls := e.seen
	e.seen = nil
	return calls
}

func (e *transit) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token := r.Header.Get("X-Vault-Token")
	e.mu.Lock()
	e.seen = append(e.seen, token)
	allowed := e.tokens[token]
	var instead http.HandlerFunc
	if len(e.disrupt) > 0 {
		instead, e.disrupt = e.disrupt[0], e.disrupt[1:]
	}
	e.mu.Unlock()
	if instead != nil {
		instead(w, r)
		return
	}
	what, known := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/v1/transit/"), "/volumes")
	if !known || r.Method != http.MethodPut && r.Method != http.MethodPost {
		transitError(w, http.StatusNotFound, "no handler for route")
		return
	}
	if !allowed {
		transitError(w, http.StatusForbidden, "permission denied")
		return
	}
	e.serve(w, r, what)
}

func (e *transit) serve(w http.ResponseWriter, r *http.Request, what string) {
	var in struct {
		Plaintext  string `json:"plaintext"`
		Ciphertext string `json:"ciphertext"`
		Data       []byte `json:"associated_data"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		transitError(w, http.StatusBadRequest, "failed to parse JSON input")
		return
	}
	out := map[string]any{}
	switch what {
	case "encrypt":
		plain, err := base64.StdEncoding.DecodeString(in.Plaintext)
		if err != nil {
			transitError(w, http.StatusBadRequest, "failed to base64-decode plaintext")
			return
		}
		nonce := make([]byte, e.aead.NonceSize())
		rand.Read(nonce)
		out["ciphertext"] = "vault:v1:" + base64.StdEncoding.EncodeToString(e.aead.Seal(nonce, nonce, plain, in.Data))
		out["key_version"] = 1
	case "decrypt":
		sealed, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(in.Ciphertext, "vault:v1:"))
		n := e.aead.NonceSize()
		if err != nil || len(sealed) < n {
			transitError(w, http.StatusBadRequest, "invalid ciphertext: no prefix")
			return
		}
		plain, err := e.aead.Open(nil, sealed[:n], sealed[n:], in.Data)
		if err != nil {
			transitError(w, http.StatusBadRequest, "cipher: message authentication failed")
			return
		}
		out["plaintext"] = base64.StdEncoding.EncodeToString(plain)
	default:
		transitError(w, http.StatusNotFound, "unsupported path")
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"request_id": "0", "lease_duration": 0, "data": out})
}

func transitError(w http.ResponseWriter, status int, words string) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []string{words}})
}
