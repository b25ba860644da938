package statement_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/statement"
)

// The worked example of docs/spec/identity.md is what this package computes.
func TestWorkedExample(t *testing.T) {
	page, err := os.ReadFile("../../../docs/spec/identity.md")
	require.NoError(t, err)
	raw, err := os.ReadFile("testdata/statements/exposed.json")
	require.NoError(t, err)
	s, err := statement.Parse(raw)
	require.NoError(t, err)

	var want strings.Builder
	register := [48]byte(s.Log.Base)
	fmt.Fprintf(&want, "RTMR3             %x\n", register)
	for _, e := range s.Log.Events {
		digest := e.Digest()
		register = statement.Extend(register, digest)
		fmt.Fprintf(&want, "%-10s digest %x\n           RTMR3  %x\n", e.Name, digest, register)
	}
	data := statement.AttestData(bytes.Repeat([]byte{0x11}, 16), raw)
	fmt.Fprintf(&want, "nonce             %s\nreport data       %s\n                  %s\n", strings.Repeat("11", 16), hex.EncodeToString(data[:32]), hex.EncodeToString(data[32:]))
	fmt.Fprintf(&want, "link message      %x\n", statement.LinkMessage(s.Instance, 14))
	if !bytes.Contains(page, []byte(want.String())) || !bytes.Contains(page, raw) {
		t.Errorf("docs/spec/identity.md does not have this:\n%s\n%s", raw, want.String())
	}
	_, err = s.Judge(register)
	require.NoError(t, err)
}
