package server_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/registry/audit"
	"github.com/telemark-otel/telemark/internal/tpmattest"
	"github.com/telemark-otel/telemark/internal/tpmattest/attesttest"
	"github.com/telemark-otel/telemark/registryd/internal/server"
)

func keyOf(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func publicOf(seed byte) []byte { return keyOf(seed).Public().(ed25519.PublicKey) }

func partyOf(instance, party byte) *api.Party {
	return &api.Party{
		Pubkey:            publicOf(party),
		InstanceSignature: ed25519.Sign(keyOf(party), publicOf(instance)),
		IdentitySignature: ed25519.Sign(keyOf(instance), publicOf(party)),
	}
}

// first is the body of a first-generation registration.
func (r *rig) first(seed byte, parties ...byte) *api.Registration {
	ppid := r.lab.Platform().PPID
	reg := &api.Registration{InstancePubkey: publicOf(seed), PPID: ppid[:]}
	if len(parties) > 0 {
		reg.Operator = partyOf(seed, parties[0])
	}
	if len(parties) > 1 {
		reg.Owner = partyOf(seed, parties[1])
	}
	reg.AttestationQuote = r.lab.Quote(api.ReportDataV0(reg))
	return reg
}

// body is what a client of a generation sends: the first has no tls_key.
func body(t testing.TB, reg *api.Registration, leave ...string) map[string]any {
	t.Helper()
	encoded, err := json.Marshal(reg)
	require.NoError(t, err)
	var m map[string]any
	require.NoError(t, json.Unmarshal(encoded, &m))
	for _, name := range append(leave, "tls_key") {
		delete(m, name)
	}
	return m
}

func TestFirstGenerationRegistersAndIsReadBack(t *testing.T) {
	r := newRig(t)
	reg := r.first(1, 2, 3)
	for range 2 { // a repeated registration is accepted
		resp := r.do(http.MethodPost, "/register", body(t, reg))
		require.Equal(t, http.StatusOK, resp.StatusCode, "%s", resp.body)
		require.Empty(t, resp.body)
	}
	path := "/instance/" + strings.ToUpper(hex.EncodeToString(reg.InstancePubkey))
	got := ok[api.Instance](t, r.do(http.MethodGet, path, nil))
	require.Equal(t, reg.PPID, got.PPID)
	require.Equal(t, reg.AttestationQuote, got.AttestationQuote)
	require.Equal(t, reg.Operator, got.Operator)
	require.Equal(t, reg.Owner, got.Owner)
	require.Equal(t, "none", got.Freshness)

	// In /v1 PPID and quote are for viewers.
	got = ok[api.Instance](t, r.do(http.MethodGet, "/v1/instances/"+hex.EncodeToString(reg.InstancePubkey), nil))
	require.Empty(t, got.PPID)
	require.Empty(t, got.AttestationQuote)
	got = ok[api.Instance](t, r.do(http.MethodGet, "/v1/instances/"+hex.EncodeToString(reg.InstancePubkey), nil, r.as("viewer")))
	require.Equal(t, reg.PPID, got.PPID)

	// Errors of the first generation have two members.
	reg.PPID = append(api.Hex(nil), reg.PPID...)
	reg.PPID[0] ^= 1
	resp := r.do(http.MethodPost, "/register", body(t, reg))
	e := refused(t, api.PPIDChanged, resp)
	require.Empty(t, e.Help)
	var members map[string]any
	require.NoError(t, json.Unmarshal(resp.body, &members))
	require.Len(t, members, 2)
	refused(t, api.NotFound, r.do(http.MethodGet, "/instance/"+strings.Repeat("ab", 32), nil))
}

func TestFirstGenerationBytesMayBeNumbers(t *testing.T) {
	r := newRig(t)
	reg := r.first(1)
	b := body(t, reg)
	for name, value := range map[string][]byte{"attestation_quote": reg.AttestationQuote, "ppid": reg.PPID} {
		numbers := make([]int, len(value))
		for i, v := range value {
			numbers[i] = int(v)
		}
		b[name] = numbers
	}
	require.Equal(t, http.StatusOK, r.do(http.MethodPost, "/register", b).StatusCode)
	b["ppid"] = []int{256}
	refused(t, api.BadRequest, r.do(http.MethodPost, "/register", b))
}

func TestFirstGenerationTakesNoNonce(t *testing.T) {
	r := newRig(t)
	b := body(t, r.first(1))
	b["nonce"] = "AAAA"
	refused(t, api.BadRequest, r.do(http.MethodPost, "/register", b))
	b = body(t, r.first(1))
	b["tls_key"] = ""
	refused(t, api.BadRequest, r.do(http.MethodPost, "/register", b))
}

func TestSecondGenerationRegistersIsListedAndRevoked(t *testing.T) {
	r := newRig(t)
	register := func(seed byte, parties ...byte) *api.Registration {
		reg := r.first(seed, parties...)
		reg.Nonce = ok[api.InstanceNonce](t, r.do(http.MethodPost, "/v1/nonces", nil)).Nonce
		reg.TLSKey = bytes.Repeat([]byte{9}, 32)
		reg.AttestationQuote = r.lab.Quote(api.ReportDataV1(reg))
		got := ok[api.Instance](t, r.do(http.MethodPost, "/v1/instances", reg))
		require.Equal(t, "nonce", got.Freshness)
		return reg
	}
	one := register(1, 2)
	for seed := byte(10); seed < 15; seed++ {
		register(seed)
	}
	// A nonce is good once.
	refused(t, api.SessionUsed, r.do(http.MethodPost, "/v1/instances", one))

	// Pages.
	var all []api.Instance
	path := "/v1/instances?limit=4"
	for pages := 0; path != ""; pages++ {
		require.Less(t, pages, 5)
		page := ok[api.Page[api.Instance]](t, r.do(http.MethodGet, path, nil, r.as("viewer")))
		require.LessOrEqual(t, len(page.Items), 4)
		all, path = append(all, page.Items...), ""
		if page.Next != "" {
			path = "/v1/instances?limit=4&after=" + url.QueryEscape(page.Next)
		}
	}
	require.Len(t, all, 6)
	page := ok[api.Page[api.Instance]](t, r.do(http.MethodGet, "/v1/instances?operator="+hex.EncodeToString(publicOf(2)), nil, r.as("viewer")))
	require.Len(t, page.Items, 1)

	pubkey := hex.EncodeToString(one.InstancePubkey)
	got := ok[api.Instance](t, r.do(http.MethodPost, "/v1/instances/"+pubkey+"/revoke", api.RevokeRequest{Reason: "stolen"}, r.as("admin")))
	require.Equal(t, api.TDXRevoked, got.State)
	refused(t, api.BadRequest, r.do(http.MethodPost, "/v1/instances/"+pubkey+"/revoke", api.RevokeRequest{}, r.as("admin")))
	page = ok[api.Page[api.Instance]](t, r.do(http.MethodGet, "/v1/instances?state=revoked", nil, r.as("viewer")))
	require.Len(t, page.Items, 1)
	page = ok[api.Page[api.Instance]](t, r.do(http.MethodGet, "/v1/instances?state=expired", nil, r.as("viewer")))
	require.Empty(t, page.Items)
}

// Of many first registrations at once one is written, the others are answered
// the same or refused in order.
func TestHundredParallelFirstRegistrations(t *testing.T) {
	r := newRig(t, func(s *settings) { s.MaxVerifications = 8 })
	b, err := json.Marshal(body(t, r.first(1, 2)))
	require.NoError(t, err)
	var wg sync.WaitGroup
	var mu sync.Mutex
	codes := map[int]int{}
	for range 100 {
		wg.Go(func() {
			resp := r.do(http.MethodPost, "/register", b)
			mu.Lock()
			defer mu.Unlock()
			codes[resp.StatusCode]++
		})
	}
	wg.Wait()
	require.Positive(t, codes[http.StatusOK])
	require.Equal(t, 100, codes[http.StatusOK]+codes[http.StatusServiceUnavailable], "%v", codes)
	entries := ok[api.Page[audit.Entry]](t, r.do(http.MethodGet, "/v1/audit", nil, r.as("auditor")))
	require.Len(t, entries.Items, 1)
}

// machine is a TPM that enrols over HTTP.
type machine struct {
	r           *rig
	tpm         *attesttest.TPM
	ek, ak, key *attesttest.Object
	certificate []byte
	token       *api.Token
	name        string
}

func (r *rig) machine(tpm *attesttest.TPM, seed string) *machine {
	r.t.Helper()
	template := attesttest.EKP256
	if seed != "" {
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: []byte(fmt.Sprintf("%-32s", seed))}})
	}
	m := &machine{
		r: r, tpm: tpm, ek: tpm.EK(template),
		ak:  tpm.Primary(tpm2.TPMRHEndorsement, attesttest.ECDSA(tpm2.TPMECCNistP256, attesttest.AKAttributes, "ak"+seed)),
		key: tpm.Primary(tpm2.TPMRHOwner, attesttest.ECDSA(tpm2.TPMECCNistP256, attesttest.KeyAttributes, "key"+seed)),
	}
	ek, err := tpmattest.ParseEK(m.ek.Public)
	require.NoError(r.t, err)
	m.certificate = r.vendor.Certify(ek.Public)
	return m
}

func (m *machine) kid() string { return hex.EncodeToString(m.key.Name.Buffer) }

func (m *machine) start() *api.EnrolmentStart {
	return &api.EnrolmentStart{
		Hierarchy:     api.Hierarchy{EK: m.ek.Public, AK: m.ak.Public, Key: m.key.Public},
		EKCertificate: m.certificate, Name: m.name,
	}
}

// enrol goes through both requests and returns the second answer.
func (m *machine) enrol() *reply {
	t := m.r.t
	t.Helper()
	c := ok[api.Challenge](t, m.r.do(http.MethodPost, "/v1/enrolments", m.start()))
	secret, err := m.tpm.Activate(m.ek, m.ak, c.Credential)
	require.NoError(t, err)
	h := m.start().Hierarchy
	complete := &api.EnrolmentComplete{
		EnrolmentStart: *m.start(), Session: c.Session,
		Activation: api.ActivationProof(secret, c.Session, h),
		Certify:    m.tpm.Certify(m.ak, m.key, api.CertifyData(c.Nonce, c.Session, h.Key)),
	}
	if m.token != nil {
		complete.Token = &api.TokenProof{ID: m.token.ID, Proof: api.JoinProof(m.token.Key(), c.Session, h)}
	}
	return m.r.do(http.MethodPost, "/v1/enrolments/complete", complete)
}

func (r *rig) joinToken(req api.TokenRequest) *api.Token {
	r.t.Helper()
	resp := r.do(http.MethodPost, "/v1/tokens", req, r.as("admin"))
	require.Equal(r.t, http.StatusCreated, resp.StatusCode)
	token, err := api.ParseToken(ok[api.TokenCreated](r.t, resp).Token)
	require.NoError(r.t, err)
	return &token
}

// signed asks as a verifier does and opens the answer.
func (r *rig) signedKey(kid string, edits ...edit) *answer.Key {
	r.t.Helper()
	nonce := make([]byte, 32)
	_, _ = rand.Read(nonce)
	resp := r.do(http.MethodGet, "/v1/keys/"+kid+"?nonce="+base64.RawURLEncoding.EncodeToString(nonce), nil, edits...)
	require.Equal(r.t, http.StatusOK, resp.StatusCode, "%s", resp.body)
	require.Equal(r.t, "application/cose", resp.Header.Get("Content-Type"))
	var k answer.Key
	require.NoError(r.t, r.verifier.Open(answer.KindKey, resp.body, &k))
	require.Equal(r.t, nonce, k.Nonce)
	return &k
}

func TestMachineEnrolsByTokenAndIsRevoked(t *testing.T) {
	r := newRig(t)
	m := r.machine(attesttest.New(t), "")
	m.token, m.name = r.joinToken(api.TokenRequest{Labels: map[string]string{"site": "fra"}}), "edge-a"
	require.Empty(t, r.signedKey(m.kid()).Record.State, "unknown is signed too")

	resp := m.enrol()
	require.Equal(t, http.StatusOK, resp.StatusCode, "%s", resp.body)
	e := ok[api.Enrolment](t, resp)
	require.Equal(t, api.EvidenceChain, e.Evidence)
	require.Equal(t, m.kid(), e.KID)

	key := ok[api.Key](t, r.do(http.MethodGet, "/v1/keys/"+m.kid(), nil))
	require.Equal(t, api.StateEnrolled, key.State)
	require.NotEmpty(t, key.Entry)
	require.Equal(t, api.StateEnrolled, r.signedKey(m.kid()).Record.State)
	cose := r.do(http.MethodGet, "/v1/keys/"+m.kid(), nil, header("Accept", "application/json;q=0.1, application/cose"))
	require.Equal(t, "application/cose", cose.Header.Get("Content-Type"))

	// By name, by hash and in lists.
	one := ok[api.Machine](t, r.do(http.MethodGet, "/v1/machines/edge-a", nil, r.as("viewer")))
	require.Equal(t, one, ok[api.Machine](t, r.do(http.MethodGet, "/v1/machines/"+one.Machine, nil, r.as("viewer"))))
	require.Len(t, one.Keys, 1)
	list := ok[api.Page[api.Machine]](t, r.do(http.MethodGet, "/v1/machines?state=enrolled&name=edge&label=site%3Dfra", nil, r.as("viewer")))
	require.Len(t, list.Items, 1)
	list = ok[api.Page[api.Machine]](t, r.do(http.MethodGet, "/v1/machines?label=site%3Dams", nil, r.as("viewer")))
	require.Empty(t, list.Items)

	tokens := ok[api.Page[api.TokenInfo]](t, r.do(http.MethodGet, "/v1/tokens", nil, r.as("admin")))
	require.Equal(t, 1, tokens.Items[0].Used)
	require.Equal(t, http.StatusNoContent, r.do(http.MethodDelete, "/v1/tokens/"+m.token.ID, nil, r.as("admin")).StatusCode)
	refused(t, api.NotFound, r.do(http.MethodDelete, "/v1/tokens/"+m.token.ID, nil, r.as("admin")))

	ok[api.Key](t, r.do(http.MethodPost, "/v1/keys/"+m.kid()+"/revoke", api.RevokeRequest{Reason: "stolen"}, r.as("admin")))
	require.Equal(t, api.StateRevoked, r.signedKey(m.kid()).Record.State)
	refused(t, api.KeyRevoked, m.enrol())

	snapshot := r.do(http.MethodGet, "/v1/keys?since=0", nil, r.as("viewer"))
	var s answer.Snapshot
	require.NoError(t, r.verifier.Open(answer.KindSnapshot, snapshot.body, &s))
	require.Len(t, s.Records, 1)
	require.Equal(t, s.Revision, s.Through)
}

func TestMachineWaitsForApproval(t *testing.T) {
	r := newRig(t)
	tpm := attesttest.New(t)
	m := r.machine(tpm, "")
	m.name = "edge-b"
	resp := m.enrol()
	require.Equal(t, http.StatusAccepted, resp.StatusCode, "%s", resp.body)
	hash := ok[api.Enrolment](t, resp).Machine
	require.Equal(t, api.StatePending, ok[api.Machine](t, r.do(http.MethodGet, "/v1/machines/"+hash, nil, r.as("viewer"))).State)

	got := ok[api.Machine](t, r.do(http.MethodPost, "/v1/machines/"+hash+"/approve", api.ApproveRequest{}, r.as("approver")))
	require.Equal(t, api.StateEnrolled, got.State)
	require.Equal(t, api.ByApproval, got.Membership)

	got = ok[api.Machine](t, r.do(http.MethodPost, "/v1/machines/edge-b/revoke", api.RevokeRequest{Reason: "sold"}, r.as("admin")))
	require.Equal(t, "sold", got.Revoked)
	refused(t, api.MachineRevoked, m.enrol())

	tpm.Flush(m.ak, m.key, m.ek)
	other := r.machine(tpm, "other")
	resp = other.enrol()
	require.Equal(t, http.StatusAccepted, resp.StatusCode)
	hash = ok[api.Enrolment](t, resp).Machine
	require.Equal(t, http.StatusNoContent, r.do(http.MethodPost, "/v1/machines/"+hash+"/reject", nil, r.as("approver")).StatusCode)
	refused(t, api.NotFound, r.do(http.MethodGet, "/v1/machines/"+hash, nil, r.as("viewer")))
}

func TestInventoryIsImportedAndReplaced(t *testing.T) {
	r := newRig(t)
	entry := func(i int) api.AllowEntry {
		return api.AllowEntry{EKHash: fmt.Sprintf("%064x", i), Name: fmt.Sprintf("edge-%d", i), Labels: map[string]string{"site": "fra"}}
	}
	in := &api.ImportRequest{Machines: []api.AllowEntry{entry(1), entry(2)}, DryRun: true}
	require.Equal(t, 2, ok[api.ImportResult](t, r.do(http.MethodPost, "/v1/machines/import", in, r.as("admin"))).Added)
	require.Empty(t, ok[api.Page[api.Machine]](t, r.do(http.MethodGet, "/v1/machines", nil, r.as("viewer"))).Items)
	in.DryRun = false
	ok[api.ImportResult](t, r.do(http.MethodPost, "/v1/machines/import", in, r.as("admin")))
	bad := &api.ImportRequest{Machines: []api.AllowEntry{entry(3), {EKHash: fmt.Sprintf("%064x", 4), Name: "edge-1"}}}
	result := ok[api.ImportResult](t, r.do(http.MethodPost, "/v1/machines/import", bad, r.as("admin")))
	require.Len(t, result.Errors, 1)
	require.Equal(t, 1, result.Errors[0].Index)

	replaced := ok[api.Machine](t, r.do(http.MethodPost, "/v1/machines/edge-1/replace",
		api.ReplaceRequest{EKHash: fmt.Sprintf("%064x", 9), Reason: "broken"}, r.as("admin")))
	require.Equal(t, "edge-1", replaced.Name)
	require.Equal(t, fmt.Sprintf("%064x", 9), replaced.Machine)
}

func TestTenThousandMachinesFitIntoOneImport(t *testing.T) {
	r := newRig(t)
	in := &api.ImportRequest{}
	for i := range 10_000 {
		in.Machines = append(in.Machines, api.AllowEntry{
			EKHash: fmt.Sprintf("%064x", i), Name: fmt.Sprintf("edge-%d.rack-%d.fra.example", i, i/40), Labels: map[string]string{"site": "fra", "rack": fmt.Sprint(i / 40)},
		})
	}
	require.Equal(t, 10_000, ok[api.ImportResult](t, r.do(http.MethodPost, "/v1/machines/import", in, r.as("admin"))).Added)
}

func TestPoliciesAreWrittenListedAndRemoved(t *testing.T) {
	r := newRig(t)
	p := api.Policy{Freshness: "live", Bind: map[string]string{"host.name": "name"}}
	scope := "label:site=fra"
	got := ok[api.Policy](t, r.do(http.MethodPut, "/v1/policies/"+url.PathEscape(scope), p, r.as("admin")))
	require.Equal(t, scope, got.Scope)
	require.Equal(t, "token:admin", got.UpdatedBy)
	require.Len(t, ok[api.Page[api.Policy]](t, r.do(http.MethodGet, "/v1/policies", nil, r.as("viewer"))).Items, 1)
	p.Scope = "default"
	refused(t, api.BadRequest, r.do(http.MethodPut, "/v1/policies/"+url.PathEscape(scope), p, r.as("admin")))
	require.Equal(t, http.StatusNoContent, r.do(http.MethodDelete, "/v1/policies/"+url.PathEscape(scope), nil, r.as("admin")).StatusCode)
	refused(t, api.NotFound, r.do(http.MethodDelete, "/v1/policies/"+url.PathEscape(scope), nil, r.as("admin")))
}

// A verifier that got the signed answer without the geofence would accept what
// policy refuses, and everybody else does not need to know where machines stand.
func TestLocationIsForViewers(t *testing.T) {
	r := newRig(t)
	m := r.machine(attesttest.New(t), "")
	m.token = r.joinToken(api.TokenRequest{})
	require.Equal(t, http.StatusOK, m.enrol().StatusCode)
	fence := `{"location":{"within":{"type":"Polygon","coordinates":[[[8,50],[9,50],[9,51],[8,51],[8,50]]]}}}`
	ok[api.Policy](t, r.do(http.MethodPut, "/v1/policies/default", fence, r.as("admin")))

	key := ok[api.Key](t, r.do(http.MethodGet, "/v1/keys/"+m.kid(), nil))
	require.NotContains(t, string(key.Entry), "location")
	require.Contains(t, string(key.Entry), "public_key")
	nonce := "?nonce=" + base64.RawURLEncoding.EncodeToString(make([]byte, 32))
	refused(t, api.Unauthenticated, r.do(http.MethodGet, "/v1/keys/"+m.kid()+nonce, nil))

	key = ok[api.Key](t, r.do(http.MethodGet, "/v1/keys/"+m.kid(), nil, r.as("viewer")))
	require.Contains(t, string(key.Entry), "coordinates")
	require.Contains(t, string(r.signedKey(m.kid(), r.as("viewer")).Record.Entry), "coordinates")
}

func TestAuditLogIsReadAndItsEndIsSigned(t *testing.T) {
	r := newRig(t)
	refused(t, api.NotFound, r.do(http.MethodGet, "/v1/audit/head", nil, r.as("auditor")))
	nonce := bytes.Repeat([]byte{5}, 32)
	fresh := func() *answer.AuditHead {
		resp := r.do(http.MethodGet, "/v1/audit/head?nonce="+base64.RawURLEncoding.EncodeToString(nonce), nil, r.as("auditor"))
		var h answer.AuditHead
		require.NoError(t, r.verifier.Open(answer.KindAuditHead, resp.body, &h))
		require.Equal(t, nonce, h.Nonce)
		return &h
	}
	require.Zero(t, fresh().Seq)
	for range 5 {
		r.joinToken(api.TokenRequest{})
	}
	page := ok[api.Page[audit.Entry]](t, r.do(http.MethodGet, "/v1/audit?limit=3", nil, r.as("auditor")))
	require.Len(t, page.Items, 3)
	require.Equal(t, "3", page.Next)
	rest := ok[api.Page[audit.Entry]](t, r.do(http.MethodGet, "/v1/audit?after="+page.Next, nil, r.as("auditor")))
	chain := &audit.Chain{}
	for _, e := range append(page.Items, rest.Items...) {
		require.Equal(t, "token:admin", e.Actor)
		require.NoError(t, chain.Append(&e))
	}
	seq, hash := chain.Last()
	head := ok[audit.Head](t, r.do(http.MethodGet, "/v1/audit/head", nil, r.as("auditor")))
	require.Equal(t, seq, head.Seq)
	require.Equal(t, hash, head.Hash)
	require.Equal(t, hash, fresh().Hash)
	var stored answer.AuditHead
	require.NoError(t, r.verifier.Open(answer.KindAuditHead, head.Signed, &stored))
}

func TestOperationalEndpoints(t *testing.T) {
	r := newRig(t, func(s *settings) { s.Off = []string{"tdx_verification: off"} })
	require.Equal(t, []string{"tdx_verification: off"}, ok[server.Health](t, r.do(http.MethodGet, "/health", nil)).Off)
	require.Equal(t, []string{"store", "key"}, ok[server.Ready](t, r.do(http.MethodGet, "/ready", nil)).Checks)
	pem := r.do(http.MethodGet, "/v1/registry-key", nil)
	_, err := answer.NewVerifier(pem.body)
	require.NoError(t, err)
	require.Contains(t, string(r.do(http.MethodGet, "/v1/openapi.yaml", nil).body), "openapi: 3.0.3")
	text := string(r.do(http.MethodGet, "/metrics", nil, r.as("viewer")).body)
	require.Contains(t, text, `telemark_registry_requests_total{code="200",reason="",route="/health"} 1`)
	r.server.Stop()
	refused(t, api.Busy, r.do(http.MethodGet, "/ready", nil))
	require.Equal(t, http.StatusOK, r.do(http.MethodGet, "/health", nil).StatusCode)
}
