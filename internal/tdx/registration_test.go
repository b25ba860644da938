package tdx_test

import (
	"bytes"
	"encoding/hex"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tdx"
)

// The example of the specification is what the code computes, and what a quote
// then carries.
func TestDocumentedReportData(t *testing.T) {
	fill := func(b byte, n int) api.Hex { return bytes.Repeat([]byte{b}, n) }
	r := &api.Registration{
		InstancePubkey: fill(0x11, 32), PPID: fill(0x22, 16), Nonce: []byte("nonce"),
		Operator: &api.Party{Pubkey: fill(0x33, 32), InstanceSignature: fill(0x44, 64), IdentitySignature: fill(0x55, 64)},
	}
	spec, err := os.ReadFile("../../docs/spec/tdx-registration.md")
	require.NoError(t, err)
	for name, data := range map[string][64]byte{"first   ": api.ReportDataV0(r), "second  ": api.ReportDataV1(r)} {
		require.Contains(t, string(spec), name+hex.EncodeToString(data[:]))
		require.Equal(t, data, verify(t, lab.Quote(data)).ReportData)
		read, err := tdx.ReportData(lab.Quote(data))
		require.NoError(t, err)
		require.Equal(t, data, read)
	}
	_, err = tdx.ReportData(make([]byte, 631))
	requireReason(t, api.QuoteLength, err)
}
