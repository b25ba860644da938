package receipt

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/merkle"
)

// exampleVectors are the values of the worked example of docs/spec/receipt.md,
// computed by this package.
func exampleVectors(t testing.TB) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	put := func(name string, b []byte) { out[name] = b }
	hash := func(name string, d block.Digest) { out[name] = d[:] }

	key := exampleKey(t)
	private, err := key.Bytes()
	require.NoError(t, err)
	put("private-key", private)
	public, err := key.PublicKey.Bytes()
	require.NoError(t, err)
	put("public-key", public)
	put("kid", exampleKID())
	put("ueid", UEID("example", exampleKID()))

	leaves := exampleLeaves()
	hashes := make([]block.Digest, len(leaves))
	for i := range leaves {
		hashes[i] = leaves[i].Hash()
	}
	hash("key-list-digest", *leaves[1].Keys)
	hash("leaf-0", hashes[0])
	hash("leaf-1", hashes[1])
	hash("leaf-2", hashes[2])
	hash("root", merkle.Build(hashes).Root())

	r := exampleReceipt(t)
	put("protected", r.Protected)
	message := SigStructure(r.Protected, exampleRoot(t, r))
	put("sig-structure", message)
	hash("sig-structure-hash", sha256.Sum256(message))
	put("signature", r.Signature)
	hash("statement-hash", StatementHash(message))
	wire, err := r.Encode()
	require.NoError(t, err)
	put("receipt", wire)
	return out
}

// A vector stands in the page as a marker and the indented or fenced hex after
// it; what follows a # is for people.
var vectorBlock = regexp.MustCompile("(?s)<!-- vector: ([a-z0-9-]+) -->\n```[a-z]*\n(.*?)```")

func TestWorkedExampleOfTheSpecification(t *testing.T) {
	page, err := os.ReadFile("../../docs/spec/receipt.md")
	require.NoError(t, err)
	want := exampleVectors(t)
	seen := map[string]bool{}
	for _, m := range vectorBlock.FindAllStringSubmatch(string(page), -1) {
		var digits strings.Builder
		for line := range strings.Lines(m[2]) {
			line, _, _ = strings.Cut(line, "#")
			digits.WriteString(strings.Join(strings.Fields(line), ""))
		}
		got, err := hex.DecodeString(digits.String())
		require.NoError(t, err, m[1])
		require.Equal(t, hex.EncodeToString(want[m[1]]), hex.EncodeToString(got), m[1])
		require.False(t, seen[m[1]], "%s stands there twice", m[1])
		seen[m[1]] = true
	}
	for name := range want {
		require.True(t, seen[name], "%s is not in the page", name)
	}
}

// The bytes of the page verify, by themselves.
func TestReceiptOfTheSpecificationVerifies(t *testing.T) {
	v := exampleVectors(t)
	r, err := Decode(v["receipt"])
	require.NoError(t, err)
	leaf := exampleLeaves()[1]
	root, err := r.Root(leaf.Hash())
	require.NoError(t, err)
	require.NoError(t, VerifySignature(ES256, exampleKey(t).Public(), SigStructure(r.Protected, root), r.Signature))
}

// Every reason that Decode gives stands in the page's table.
func TestSpecificationNamesEveryReasonOfTheCodec(t *testing.T) {
	page, err := os.ReadFile("../../docs/spec/receipt.md")
	require.NoError(t, err)
	for _, c := range refusals(t) {
		require.Contains(t, string(page), "`"+string(c.want)+"`")
	}
}
