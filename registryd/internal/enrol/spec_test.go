package enrol_test

import (
	"bytes"
	"encoding/hex"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// run is n bytes counting up from first.
func run(first byte, n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = first + byte(i)
	}
	return out
}

// The values in the specification are those that the code computes.
func TestSpecificationsExamplesAreTrue(t *testing.T) {
	spec, err := os.ReadFile("../../../docs/spec/enrolment.md")
	require.NoError(t, err)
	nonce, session, secret := run(0x00, 32), run(0x20, 164), run(0x80, 32)
	h := api.Hierarchy{EK: []byte("ek"), AK: []byte("ak"), Key: []byte("key")}
	token := api.Token{ID: "0123456789abcdef", Secret: run(0xC0, 32)}
	for name, value := range map[string][]byte{
		"HierarchyHash":   api.HierarchyHash(h),
		"CertifyData":     api.CertifyData(nonce, session, h.Key),
		"QuoteData":       api.QuoteData(nonce, session, h.Key),
		"ActivationProof": api.ActivationProof(secret, session, h),
		"TokenKey":        token.Key(),
		"JoinProof":       api.JoinProof(token.Key(), session, h),
	} {
		require.True(t, bytes.Contains(spec, []byte(hex.EncodeToString(value))), "%s is %x", name, value)
	}
	require.Contains(t, string(spec), token.Reveal())
}
