package e2e

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/test/harness"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

// tdx is a registry that takes a laboratory for Intel, and the laboratory, as
// processes.
type tdx struct {
	*fleet
	lab  string // URL
	ppid []byte
}

// withLab starts both. The registry asks the laboratory for collateral.
func withLab(t *testing.T, o harness.RegistryOptions) *tdx {
	t.Helper()
	f := &fleet{T: t, Fleet: harness.Fleet{Dir: t.TempDir()}}
	t.Cleanup(f.end)
	program, dir := filepath.Join(f.Dir, "tdxlab"), filepath.Join(f.Dir, "lab")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./test/tdxlab/cmd/tdxlab")
	build.Dir = harness.Root()
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	lab := &harness.Process{Name: "tdxlab", Path: program, Args: []string{"serve", "--dir", dir, "--listen", "127.0.0.1:0"}, Log: filepath.Join(f.Dir, "lab.log")}
	require.NoError(t, lab.Start())
	t.Cleanup(lab.Kill)
	x := &tdx{fleet: f}
	f.eventually(soon, func() error {
		address, err := os.ReadFile(filepath.Join(dir, "address"))
		x.lab = strings.TrimSpace(string(address))
		return err
	})
	seed, err := os.ReadFile(filepath.Join(dir, "seed"))
	require.NoError(t, err)
	ppid := tdxlab.New(strings.TrimSpace(string(seed))).Platform().PPID
	x.ppid = ppid[:]
	o.Untrusted = true // no TPM is about
	o.Args = append(o.Args, "--dev", "--tdx-roots", filepath.Join(dir, "root.pem"), "--pccs-url", x.lab)
	f.Registry = f.registry("registry", o)
	f.up(f.Registry)
	return x
}

// person is whoever has an Ed25519 key: an instance, an operator, an owner.
type person struct{ ed25519.PrivateKey }

func newPerson(name string) person {
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, name)
	return person{ed25519.NewKeyFromSeed(seed)}
}

func (p person) public() []byte { return p.Public().(ed25519.PublicKey) }

func (p person) String() string { return hex.EncodeToString(p.public()) }

// vouch is what a party says of an instance, and the instance of it.
func (p person) vouch(instance person) *api.Party {
	return &api.Party{
		Pubkey: p.public(), InstanceSignature: ed25519.Sign(p.PrivateKey, instance.public()),
		IdentitySignature: ed25519.Sign(instance.PrivateKey, p.public()),
	}
}

// quote has the laboratory quote report data, as an instance asks its host.
func (x *tdx) quote(report [64]byte) []byte {
	x.Helper()
	resp, err := http.Get(x.lab + "/attest/" + hex.EncodeToString(report[:]))
	require.NoError(x, err)
	defer func() { _ = resp.Body.Close() }()
	require.Equal(x, http.StatusOK, resp.StatusCode)
	quote, err := io.ReadAll(resp.Body)
	require.NoError(x, err)
	return quote
}

// first is a registration of the first generation.
func (x *tdx) first(instance person, operator, owner *api.Party) *api.Registration {
	x.Helper()
	r := &api.Registration{InstancePubkey: instance.public(), PPID: x.ppid, Operator: operator, Owner: owner}
	r.AttestationQuote = x.quote(api.ReportDataV0(r))
	return r
}

// second is a registration of the second generation, with a nonce of the
// registry.
func (x *tdx) second(instance person, operator *api.Party) *api.Registration {
	x.Helper()
	var nonce api.InstanceNonce
	status, body := x.post("/v1/nonces", nil)
	require.Equal(x, http.StatusOK, status, "%s", body)
	require.NoError(x, json.Unmarshal(body, &nonce))
	r := &api.Registration{InstancePubkey: instance.public(), PPID: x.ppid, Operator: operator, Nonce: nonce.Nonce, TLSKey: bytes.Repeat([]byte{7}, 32)}
	r.AttestationQuote = x.quote(api.ReportDataV1(r))
	return r
}

// fields of a first registration, with bytes as the function writes them.
func fields(r *api.Registration, write func([]byte) any) map[string]any {
	out := map[string]any{
		"instance_pubkey": hex.EncodeToString(r.InstancePubkey), "attestation_quote": write(r.AttestationQuote), "ppid": write(r.PPID),
	}
	for name, p := range map[string]*api.Party{"operator": r.Operator, "owner": r.Owner} {
		out[name] = nil
		if p != nil {
			out[name] = map[string]any{
				"pubkey": hex.EncodeToString(p.Pubkey), "instance_signature": hex.EncodeToString(p.InstanceSignature),
				"identity_signature": hex.EncodeToString(p.IdentitySignature),
			}
		}
	}
	return out
}

func inHex(b []byte) any { return hex.EncodeToString(b) }

func inUpperHex(b []byte) any { return strings.ToUpper(hex.EncodeToString(b)) }

func inNumbers(b []byte) any {
	out := make([]int, len(b))
	for i := range b {
		out[i] = int(b[i])
	}
	return out
}

// try sends a body, nil for none, and returns the answer.
func (x *tdx) try(path string, body any) (status int, answer []byte, err error) {
	var content io.Reader = http.NoBody
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		content = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(x.Context(), http.MethodPost, x.Registry.URL+path, content)
	if err != nil {
		return 0, nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

func (x *tdx) post(path string, body any) (status int, answer []byte) {
	x.Helper()
	status, answer, err := x.try(path, body)
	require.NoError(x, err)
	return status, answer
}

// accepted demands that a first registration is taken, with an empty answer.
func (x *tdx) accepted(body any) {
	x.Helper()
	status, answer := x.post("/register", body)
	require.Equal(x, http.StatusOK, status, "%s", answer)
	require.Empty(x, answer)
}

// refused demands that a registration is refused for a reason.
func (x *tdx) refused(path string, body any, want api.Reason) {
	x.Helper()
	status, answer := x.post(path, body)
	require.GreaterOrEqual(x, status, 400)
	require.Equal(x, want, reasonOf(answer), "%s", answer)
}

func reasonOf(answer []byte) api.Reason {
	var body api.ErrorBody
	_ = json.Unmarshal(answer, &body)
	return body.Reason
}

// shown reads GET /instance/{pubkey} as clients of the first generation do.
func (x *tdx) shown(instance person) map[string]any {
	x.Helper()
	resp, err := http.Get(x.Registry.URL + "/instance/" + instance.String())
	require.NoError(x, err)
	defer func() { _ = resp.Body.Close() }()
	var out map[string]any
	require.NoError(x, json.NewDecoder(resp.Body).Decode(&out))
	if resp.StatusCode != http.StatusOK {
		require.Equal(x, http.StatusNotFound, resp.StatusCode)
		require.Equal(x, "not_found", out["reason"])
		return nil
	}
	return out
}

// registrations counts in the audit log how often an instance was registered
// for the first time.
func (x *tdx) registrations(instance person) (n int) {
	x.Helper()
	for after := uint64(0); ; {
		entries, err := x.Registry.Client.AuditEntries(x.Context(), after, 100)
		require.NoError(x, err)
		if len(entries) == 0 {
			return n
		}
		for i := range entries {
			if entries[i].Action == "instance.register" && entries[i].Subject == instance.String() {
				n++
			}
			after = entries[i].Seq
		}
	}
}

func party(p *api.Party) map[string]any {
	return map[string]any{
		"pubkey": inHex(p.Pubkey), "instance_signature": inHex(p.InstanceSignature), "identity_signature": inHex(p.IdentitySignature),
	}
}
