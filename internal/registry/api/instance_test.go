package api_test

import (
	"bytes"
	"encoding/hex"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// The examples of the specification, which clients in other languages are
// written against.
func TestReportDataAreThoseOfTheSpecification(t *testing.T) {
	r := &api.Registration{
		InstancePubkey: bytes.Repeat([]byte{0x11}, 32), PPID: bytes.Repeat([]byte{0x22}, 16), Nonce: []byte("nonce"),
		Operator: &api.Party{
			Pubkey: bytes.Repeat([]byte{0x33}, 32), InstanceSignature: bytes.Repeat([]byte{0x44}, 64), IdentitySignature: bytes.Repeat([]byte{0x55}, 64),
		},
	}
	said := *r
	said.Statement = []byte("statement")
	spec, err := os.ReadFile("../../../docs/spec/tdx-registration.md")
	require.NoError(t, err)
	for name, c := range map[string]struct {
		got  [64]byte
		want string
	}{
		"first":     {api.ReportDataV0(r), "f7252409a7cf4bbf6e137db544082abcb8cafed21c08215156c9b61f4151b25c08877d96dd1ec9de456b353b14fcb33646d390bfc8531f1fa3bb702affe45236"},
		"second":    {api.ReportDataV1(r), "64bbfdcddd8598c04e482c9d1b9a466da6b347eaf2fbf0ccf7a03c3d4ef7e0a4d05307b30c95fa0b45a201ad524117fdd0ccb877313488f167f30adcb1eff8eb"},
		"statement": {api.ReportDataV1(&said), "ffbb77f2de64aad4c19ed68b74e5f063076e2e44b8d388f495e554c4cee2967fdb0e7ec9da848bc184f46787dd0d63394ae0bdf80f23cf2a265f055cd6ef5af2"},
	} {
		require.Equal(t, c.want, hex.EncodeToString(c.got[:]), name)
		require.Contains(t, string(spec), c.want, name)
	}

	// Nothing moves between the last party and the statement.
	moved := said
	moved.Owner = &api.Party{IdentitySignature: said.Statement}
	moved.Statement = nil
	require.NotEqual(t, api.ReportDataV1(&said), api.ReportDataV1(&moved))
}
