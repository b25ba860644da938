package tdx_test

import (
	"bytes"
	"encoding/binary"
	"net/url"
	"testing"
	"time"

	testcases "github.com/google/go-tdx-guest/testing"
	"github.com/google/go-tdx-guest/testing/testdata"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tdx"
)

// A quote and collateral that Intel signed, from the library's test data. The
// quote is of a machine from before TDX 1.0 and its collateral of June 2023.
var then = time.Date(2023, 7, 1, 1, 0, 0, 0, time.UTC)

// realQuote is the library's quote without what its recorder left after it.
func realQuote(t *testing.T) []byte {
	t.Helper()
	q := testdata.RawQuote
	end := 636 + int(binary.LittleEndian.Uint32(q[632:]))
	require.Less(t, end, len(q))
	return q[:end]
}

func realCollateral(t *testing.T) *tdx.Collateral {
	t.Helper()
	chain := func(header map[string][]string) []byte {
		require.Len(t, header, 1)
		for _, values := range header {
			text, err := url.QueryUnescape(values[0])
			require.NoError(t, err)
			return []byte(text)
		}
		return nil
	}
	return &tdx.Collateral{
		TCBInfo: bytes.TrimSpace(testdata.TcbInfoBody), TCBInfoChain: chain(testcases.TcbInfoHeader),
		QEIdentity: bytes.TrimSpace(testdata.QeIdentityBody), QEIdentityChain: chain(testcases.QeIdentityHeader),
		PCKCRL: testdata.PckCrlBody, PCKCRLChain: chain(testcases.PckCrlHeader),
		RootCRL: testdata.RootCrlBody,
	}
}

func TestPinnedRootIsIntels(t *testing.T) {
	chain := realQuote(t)
	chain = chain[bytes.Index(chain, []byte("-----BEGIN")):]
	last := chain[bytes.LastIndex(chain, []byte("-----BEGIN")):]
	require.True(t, tdx.IntelRoots().AppendCertsFromPEM(last))
	pool := tdx.IntelRoots()
	again := pool.Clone()
	require.True(t, again.AppendCertsFromPEM(last))
	require.True(t, pool.Equal(again), "the root of a real quote is the one that is pinned")
}

func TestRealQuoteIsRead(t *testing.T) {
	q, err := tdx.Parse(realQuote(t))
	require.NoError(t, err)
	require.Equal(t, &tdx.Quote{FMSPC: "50806f000000", CA: "platform"}, q)
}

func TestRealQuoteWithItsRecordersTailIsRefused(t *testing.T) {
	_, err := tdx.Parse(testdata.RawQuote)
	requireReason(t, api.QuoteLength, err)
}

func TestRealQuoteVerifiesToIntelsRoot(t *testing.T) {
	a, err := tdx.Authenticate(realQuote(t), tdx.Options{}, then)
	require.NoError(t, err)
	require.Equal(t, "50806f000000", a.FMSPC)
}

func TestRealCollateralVerifiesToIntelsRoot(t *testing.T) {
	e, err := tdx.Open(realCollateral(t), tdx.Options{}, then)
	require.NoError(t, err)
	require.Equal(t, map[string]uint64{"tcbinfo-50806f000000": 15, "qeidentity": 15, "rootcrl": 1, "pckcrl-platform": 1}, e.Marks())
	require.Equal(t, time.Date(2023, 7, 8, 7, 24, 59, 0, time.UTC), e.NotAfter())
}

// The machine that made it was never patched: it is below both levels.
func TestRealQuoteOfAnUnpatchedMachineIsRefused(t *testing.T) {
	_, err := tdx.Verify(realQuote(t), realCollateral(t), tdx.Options{}, then)
	requireReason(t, api.TCBStatusNotAccepted, err)
}

func TestRealCollateralIsExpiredToday(t *testing.T) {
	_, err := tdx.Verify(realQuote(t), realCollateral(t), tdx.Options{}, now)
	requireReason(t, api.CollateralExpired, err)
}

func TestRealQuoteOnAForeignRootIsRefused(t *testing.T) {
	_, err := tdx.Verify(realQuote(t), realCollateral(t), trusted, then)
	requireReason(t, api.PCKUntrusted, err)
}

func TestRealQuoteChangedIsRefused(t *testing.T) {
	q := bytes.Clone(realQuote(t))
	q[184] ^= 1
	_, err := tdx.Verify(q, realCollateral(t), tdx.Options{}, then)
	requireReason(t, api.QuoteSignature, err)
}
