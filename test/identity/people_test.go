package identity_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/identity/unlock"
)

// person is an operator or owner with a key, which is in a file too.
type person struct {
	ed25519.PrivateKey
	file string // as OpenSSH keeps keys
}

func newPerson(t *testing.T, name string) *person {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	block, err := ssh.MarshalPrivateKey(key, "")
	require.NoError(t, err)
	p := &person{key, filepath.Join(t.TempDir(), name)}
	require.NoError(t, os.WriteFile(p.file, pem.EncodeToMemory(block), 0o600))
	return p
}

func (p *person) public() api.Hex { return api.Hex(p.Public().(ed25519.PublicKey)) }

func (p *person) sign(message []byte) api.Hex { return api.Hex(ed25519.Sign(p.PrivateKey, message)) }

// answer is one of the daemon's, of whatever kind.
type answer struct {
	Code int `json:"-"`
	api.Done
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Error   string `json:"error"`
	Pubkey  string `json:"pubkey"`
	content []byte
}

// tried is what came, for messages.
func (a *answer) String() string { return fmt.Sprintf("%d %.300s", a.Code, a.content) }

// send sends a request as it is.
func (v *vm) send(method, path string, body []byte, headers ...string) *answer {
	v.Helper()
	a, err := v.try(method, path, body, headers...)
	require.NoError(v, err)
	return a
}

func (v *vm) try(method, path string, body []byte, headers ...string) (*answer, error) {
	req, err := http.NewRequestWithContext(v.Context(), method, v.URL+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body == nil {
		req.Body = http.NoBody
		req.ContentLength = 0
	} else {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	a := &answer{Code: resp.StatusCode}
	if a.content, err = io.ReadAll(resp.Body); err != nil {
		return nil, err
	}
	// Those of other kinds leave it empty; who reads them decodes them.
	_ = json.Unmarshal(a.content, a)
	return a, nil
}

func (v *vm) accepted(a *answer) *answer {
	v.Helper()
	require.Equal(v, http.StatusOK, a.Code, "%s", a)
	require.Equal(v, api.StatusSuccess, a.Status, "%s", a)
	return a
}

// refused is an answer that is no success, with a reason and words.
func (v *vm) refused(reason string, a *answer) {
	v.Helper()
	require.Equal(v, reason, a.Reason, "%s", a)
	require.GreaterOrEqual(v, a.Code, 400, "%s", a)
	require.NotEmpty(v, a.Error, "%s", a)
}

func (v *vm) state() *api.State {
	v.Helper()
	a := v.send(http.MethodGet, api.PathState, nil)
	require.Equal(v, http.StatusOK, a.Code, "%s", a)
	s := &api.State{}
	require.NoError(v, json.Unmarshal(a.content, s))
	return s
}

// instance is the instance key.
func (v *vm) instance() []byte {
	v.Helper()
	a := v.send(http.MethodGet, api.PathPubkey, nil)
	require.Equal(v, http.StatusOK, a.Code, "%s", a)
	key, err := hex.DecodeString(a.Pubkey)
	require.NoError(v, err)
	require.Len(v, key, ed25519.PublicKeySize)
	return key
}

func (v *vm) encode(body any) []byte {
	v.Helper()
	b, err := json.Marshal(body)
	require.NoError(v, err)
	return b
}

// second sends a request of the second form: method, path, instance, counter and
// body are signed.
func (v *vm) second(p *person, path string, body any, headers ...string) *answer {
	v.Helper()
	counter, b := v.state().Counter, v.encode(body)
	signature := p.sign(api.Message(http.MethodPost, path, v.instance(), counter, b))
	return v.send(http.MethodPost, path, b, append(headers, api.HeaderSignature, signature.String(), api.HeaderCounter, fmt.Sprint(counter))...)
}

// older sends a request of the older form: the raw body is signed.
func (v *vm) older(p *person, path string, body any) *answer {
	v.Helper()
	b := v.encode(body)
	return v.send(http.MethodPost, path, b, api.HeaderSignature, p.sign(b).String())
}

func (v *vm) operatorBody() *api.Operator {
	v.Helper()
	return &api.Operator{Pubkey: v.operator.public(), Signature: v.operator.sign(v.instance())}
}

// registerOperator returns the owner's token.
func (v *vm) registerOperator() string {
	v.Helper()
	a := v.accepted(v.second(v.operator, api.PathRegisterOperator, v.operatorBody()))
	require.NotEmpty(v, a.OwnerToken)
	return a.OwnerToken
}

// sealed wraps a volume's key for the VM, without a look at its quote: the tools
// that look are tested for themselves.
func (v *vm) sealed(p *person, key []byte) api.Hex {
	v.Helper()
	nonce := unlock.NewNonce()
	a := v.send(http.MethodPost, api.PathStorageRequest, v.encode(api.StorageRequest{Owner: p.public(), Nonce: nonce[:]}))
	require.Equal(v, http.StatusOK, a.Code, "%s", a)
	var ask api.StorageAsk
	require.NoError(v, json.Unmarshal(a.content, &ask))
	t, err := unlock.ParseTranscript(ask.Transcript)
	require.NoError(v, err)
	wrapped, err := unlock.Wrap(t.ReportData(), t, unlock.Mine{Nonce: nonce, Signer: p.PrivateKey, Counter: t.Counter, Volume: &t.Volume}, key)
	require.NoError(v, err)
	return wrapped
}

// volumeKey is the one that these tests' owners have.
var volumeKey = bytes.Repeat([]byte{0x5a, 0xc3}, unlock.KeySize/2)

func (v *vm) ownerBody() *api.Owner {
	v.Helper()
	if !v.sends {
		return &api.Owner{Pubkey: v.owner.public(), Signature: v.owner.sign(v.instance())}
	}
	return &api.Owner{Pubkey: v.owner.public(), Signature: v.owner.sign(v.instance()), SealedKey: v.sealed(v.owner, volumeKey)}
}

func (v *vm) registerOwner(token string) {
	v.Helper()
	v.accepted(v.second(v.owner, api.PathRegisterOwner, v.ownerBody(), api.HeaderToken, token))
}

func (v *vm) configureBody(image string, dirs ...string) *api.Configure {
	v.Helper()
	port := int64(8080)
	if dirs == nil {
		dirs = []string{}
	}
	return &api.Configure{InstancePubkey: v.instance(), Image: &image, PersistDirs: dirs, Port: &port}
}

func (v *vm) exposeBody(image string) *api.Expose {
	v.Helper()
	return &api.Expose{InstancePubkey: v.instance(), Image: &image}
}

// configured takes a fresh VM to workload_configured.
func (v *vm) configured(dirs ...string) {
	v.Helper()
	v.registerOwner(v.registerOperator())
	v.accepted(v.second(v.owner, api.PathConfigure, v.configureBody(app, dirs...)))
}

func (v *vm) expose() {
	v.Helper()
	alone(func() { v.accepted(v.second(v.owner, api.PathExpose, v.exposeBody(app))) })
}

// unlock is what the owner's tool does after a reboot.
func (v *vm) unlock(p *person, key []byte, counter uint64) (a *answer) {
	v.Helper()
	body := &api.Unlock{InstancePubkey: v.instance(), Signature: p.sign(v.instance()), SealedKey: v.sealed(p, key), LastCounter: &counter}
	alone(func() { a = v.second(p, api.PathUnlock, body) })
	return a
}
