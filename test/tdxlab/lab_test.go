package tdxlab_test

import (
	"bytes"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tdx-guest/abi"
	pb "github.com/google/go-tdx-guest/proto/tdx"
	"github.com/google/go-tdx-guest/verify"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/test/tdxlab"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func TestSameSeedSameBytes(t *testing.T) {
	a, b, other := tdxlab.New("seed"), tdxlab.New("seed"), tdxlab.New("other")
	require.Equal(t, a.RootPEM(), b.RootPEM())
	require.Equal(t, a.Quote([64]byte{1}), b.Quote([64]byte{1}))
	require.Equal(t, a.Collateral(now), b.Collateral(now))
	require.NotEqual(t, a.RootPEM(), other.RootPEM())
	require.NotEqual(t, a.Quote([64]byte{1}), a.Quote([64]byte{2}))
}

// A verifier that knows nothing of the lab takes its quotes once it trusts
// its root, and not before.
func TestQuotesSatisfyTheLibrary(t *testing.T) {
	lab := tdxlab.New("seed")
	quote, err := abi.QuoteToProto(lab.Quote([64]byte{1}))
	require.NoError(t, err)
	times := &verify.TimeSet{PckCertChain: now}
	require.NoError(t, verify.TdxQuote(quote, &verify.Options{TrustedRoots: lab.Roots(), Now: times}))
	require.Error(t, verify.TdxQuote(quote, &verify.Options{TrustedRoots: tdxlab.New("other").Roots(), Now: times}))
}

// getter answers the library from the lab in place of Intel.
type getter struct{ docs *tdxlab.Documents }

func (g getter) Get(url string) (map[string][]string, []byte, error) {
	header := func(name string, chain []byte) map[string][]string {
		return map[string][]string{http.CanonicalHeaderKey(name): {strings.ReplaceAll(string(chain), "+", "%2B")}}
	}
	switch {
	case strings.Contains(url, "/tcb?"):
		return header("TCB-Info-Issuer-Chain", g.docs.TCBInfoChain), g.docs.TCBInfo, nil
	case strings.Contains(url, "/qe/identity"):
		return header("SGX-Enclave-Identity-Issuer-Chain", g.docs.QEIdentityChain), g.docs.QEIdentity, nil
	case strings.Contains(url, "/pckcrl"):
		return header("SGX-PCK-CRL-Issuer-Chain", g.docs.PCKCRLChain), g.docs.PCKCRL, nil
	default:
		return nil, g.docs.RootCRL, nil
	}
}

func TestCollateralSatisfiesTheLibrary(t *testing.T) {
	lab := tdxlab.New("seed")
	check := func(edits ...func(*tdxlab.Collateral)) error {
		return verify.RawTdxQuote(lab.Quote([64]byte{1}), &verify.Options{
			TrustedRoots: lab.Roots(), Getter: getter{lab.Collateral(now, edits...)}, GetCollateral: true, CheckRevocations: true,
			Now: &verify.TimeSet{PckCertChain: now, TcbInfo: now, QeIdentity: now, PckCrl: now, RootCaCrl: now},
		})
	}
	require.NoError(t, check())
	pck, _, _ := lab.Serials()
	require.ErrorContains(t, check(func(c *tdxlab.Collateral) { c.PCKCRL.Revoked = append(c.PCKCRL.Revoked, pck) }), "revoked")
	require.Error(t, check(func(c *tdxlab.Collateral) { c.TCBInfo.ForeignKey = true }))
}

func TestServerSpeaksThePCCSAPI(t *testing.T) {
	lab := tdxlab.New("seed")
	server := httptest.NewServer((&tdxlab.Server{Lab: lab, Now: func() time.Time { return now }}).Handler())
	defer server.Close()
	docs := lab.Collateral(now)
	report := strings.Repeat("ab", 64)
	for _, c := range []struct {
		path   string
		status int
		header string
		body   []byte
	}{
		{"/tdx/certification/v4/tcb?fmspc=" + lab.FMSPC(), 200, "TCB-Info-Issuer-Chain", docs.TCBInfo},
		{"/tdx/certification/v4/tcb?fmspc=" + strings.ToUpper(lab.FMSPC()), 200, "TCB-Info-Issuer-Chain", docs.TCBInfo},
		{"/tdx/certification/v4/tcb?fmspc=000000000000", 404, "", nil},
		{"/tdx/certification/v4/qe/identity", 200, "SGX-Enclave-Identity-Issuer-Chain", docs.QEIdentity},
		{"/sgx/certification/v4/pckcrl?ca=platform&encoding=der", 200, "SGX-PCK-CRL-Issuer-Chain", docs.PCKCRL},
		{"/sgx/certification/v4/pckcrl?ca=platform", 200, "SGX-PCK-CRL-Issuer-Chain", hex.AppendEncode(nil, docs.PCKCRL)},
		{"/sgx/certification/v4/pckcrl?ca=nobody", 404, "", nil},
		{"/sgx/certification/v4/rootcacrl", 200, "", hex.AppendEncode(nil, docs.RootCRL)},
		{"/attest/" + report, 200, "", lab.Quote([64]byte([]byte(strings.Repeat("\xab", 64))))},
		{"/attest/" + report[2:], 400, "", nil},
		{"/attest/" + strings.Repeat("zz", 64), 400, "", nil},
		{"/elsewhere", 404, "", nil},
	} {
		resp, err := http.Get(server.URL + c.path)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, c.status, resp.StatusCode, c.path)
		if c.status != 200 {
			var e struct{ Error string }
			require.NoError(t, json.Unmarshal(body, &e), c.path)
			require.NotEmpty(t, e.Error)
			continue
		}
		require.Equal(t, c.body, body, c.path)
		if c.header != "" {
			require.NotEmpty(t, resp.Header.Get(c.header), c.path)
		}
	}
}

func TestCertificateHasIntelsShape(t *testing.T) {
	lab := tdxlab.New("seed")
	require.Equal(t, "Intel SGX Root CA", lab.Root().Subject.CommonName)
	require.Equal(t, []string{"Telemark laboratory, not Intel"}, lab.Root().Subject.Organization)
	require.NoError(t, lab.Root().CheckSignatureFrom(lab.Root()))
	require.Equal(t, x509.ECDSAWithSHA256, lab.Root().SignatureAlgorithm)
}

func TestEachTDHasARegister(t *testing.T) {
	server := httptest.NewServer((&tdxlab.Server{Lab: tdxlab.New("seed")}).Handler())
	defer server.Close()
	call := func(method, path string, want int) string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, nil)
		require.NoError(t, err)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer func() { require.NoError(t, resp.Body.Close()) }()
		require.Equal(t, want, resp.StatusCode)
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return string(b)
	}
	inQuote := func(td string) string {
		t.Helper()
		q, err := abi.QuoteToProto([]byte(call(http.MethodGet, td+"/attest/"+strings.Repeat("00", 64), http.StatusOK)))
		require.NoError(t, err)
		return hex.EncodeToString(q.(*pb.QuoteV4).GetTdQuoteBody().GetRtmrs()[3])
	}
	zeros := strings.Repeat("00", 48)
	require.Equal(t, zeros, inQuote(""))
	digest := strings.Repeat("01", 48)
	sum := sha512.Sum384(append(make([]byte, 48), bytes.Repeat([]byte{1}, 48)...))
	want := hex.EncodeToString(sum[:])
	require.Equal(t, want, call(http.MethodPost, "/td/one/rtmr3/"+digest, http.StatusOK))
	require.Equal(t, want, call(http.MethodGet, "/td/one/rtmr3", http.StatusOK))
	require.Equal(t, want, inQuote("/td/one"))
	require.Equal(t, zeros, inQuote("/td/two"))
	require.Equal(t, zeros, inQuote(""))
	call(http.MethodPost, "/rtmr3/00", http.StatusBadRequest)
	call(http.MethodDelete, "/td/one/rtmr3", http.StatusNoContent)
	require.Equal(t, zeros, inQuote("/td/one"))
	for i := range 64 {
		call(http.MethodPost, fmt.Sprintf("/td/%d/rtmr3/%s", i, digest), http.StatusOK)
	}
	call(http.MethodPost, "/td/more/rtmr3/"+digest, http.StatusInsufficientStorage)
}
