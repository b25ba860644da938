// Package transittest is a stand-in for the transit secrets engine of OpenBao and
// Vault, for tests, and not the real one, which Debian does not package: encrypt and
// decrypt under /v1/transit as its HTTP API documents them, AES-256-GCM with
// associated data, and tokens with a policy of yes or no. It leaves out everything
// else.
package transittest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// Engine is one, over TLS.
type Engine struct {
	URL string
	CA  []byte // PEM, of its certificate

	server *httptest.Server
	aead   cipher.AEAD

	mu      sync.Mutex
	tokens  map[string]bool // that may use the key
	seen    []string        // tokens, in the order of the calls
	disrupt []http.HandlerFunc
}

// Token may use the key of a new engine.
const Token = "s.instance"

// Key is the name of the one key.
const Key = "volumes"

// New starts one, which ends with the test.
func New(tb testing.TB) *Engine {
	tb.Helper()
	key := make([]byte, 32)
	rand.Read(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		tb.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		tb.Fatal(err)
	}
	e := &Engine{aead: aead, tokens: map[string]bool{Token: true}}
	e.server = httptest.NewTLSServer(e)
	tb.Cleanup(e.server.Close)
	e.URL = e.server.URL
	e.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: e.server.Certificate().Raw})
	return e
}

// Transport trusts the engine's certificate.
func (e *Engine) Transport() http.RoundTripper { return e.server.Client().Transport }

// Allow lets these tokens use the key, and no others.
func (e *Engine) Allow(tokens ...string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tokens = map[string]bool{}
	for _, t := range tokens {
		e.tokens[t] = true
	}
}

// Next lets handlers answer the next calls in the engine's place.
func (e *Engine) Next(handlers ...http.HandlerFunc) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.disrupt = append(e.disrupt, handlers...)
}

// Calls are the tokens of the calls since it was asked last.
func (e *Engine) Calls() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	calls := e.seen
	e.seen = nil
	return calls
}

// ServeHTTP serves the API.
func (e *Engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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
	what, known := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/v1/transit/"), "/"+Key)
	if !known || r.Method != http.MethodPut && r.Method != http.MethodPost {
		Fail(w, http.StatusNotFound, "no handler for route")
		return
	}
	if !allowed {
		Fail(w, http.StatusForbidden, "permission denied")
		return
	}
	e.serve(w, r, what)
}

func (e *Engine) serve(w http.ResponseWriter, r *http.Request, what string) {
	var in struct {
		Plaintext  string `json:"plaintext"`
		Ciphertext string `json:"ciphertext"`
		Data       []byte `json:"associated_data"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		Fail(w, http.StatusBadRequest, "failed to parse JSON input")
		return
	}
	out := map[string]any{}
	switch what {
	case "encrypt":
		plain, err := base64.StdEncoding.DecodeString(in.Plaintext)
		if err != nil {
			Fail(w, http.StatusBadRequest, "failed to base64-decode plaintext")
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
			Fail(w, http.StatusBadRequest, "invalid ciphertext: no prefix")
			return
		}
		plain, err := e.aead.Open(nil, sealed[:n], sealed[n:], in.Data)
		if err != nil {
			Fail(w, http.StatusBadRequest, "cipher: message authentication failed")
			return
		}
		out["plaintext"] = base64.StdEncoding.EncodeToString(plain)
	default:
		Fail(w, http.StatusNotFound, "unsupported path")
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"request_id": "0", "lease_duration": 0, "data": out})
}

// Fail answers as the engine does when it refuses or fails.
func Fail(w http.ResponseWriter, status int, words string) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []string{words}})
}
