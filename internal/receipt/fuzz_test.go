package receipt

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/reason"
)

// FuzzDecode: what is accepted is encoded to the same bytes, by us and by the
// CBOR library, alone and with a decoder that remembers; what is refused has a
// reason of the codec.
func FuzzDecode(f *testing.F) {
	for _, r := range []*Receipt{exampleReceipt(f), groupReceipt(f, 1, 0), groupReceipt(f, 700, 650)} {
		wire, err := r.Encode()
		require.NoError(f, err)
		f.Add(wire)
	}
	d := NewDecoder(64)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Decode(b)
		_, _ = d.Decode(b) // learns the statement
		again, againErr := d.Decode(b)
		if (err == nil) != (againErr == nil) || reason.Of(err) != reason.Of(againErr) {
			t.Fatalf("alone: %v, with a memory: %v", err, againErr)
		}
		if err != nil {
			if !refusesWith(reason.Of(err)) {
				t.Fatalf("refused as %q: %v", reason.Of(err), err)
			}
			if r != nil || again != nil {
				t.Fatal("a refused receipt was returned")
			}
			return
		}
		require.Equal(t, r, again)
		wire, err := r.Encode()
		if err != nil {
			t.Fatalf("accepted, but cannot be encoded: %v", err)
		}
		if !bytes.Equal(wire, b) || len(wire) != r.Size() {
			t.Fatalf("\n%x decodes and encodes to\n%x", b, wire)
		}
		require.Equal(t, b, byLibrary(t, r))
		protected, err := r.Statement.EncodeProtected()
		require.NoError(t, err)
		require.Equal(t, r.Protected, protected)
	})
}

func refusesWith(r reason.Reason) bool {
	switch r {
	case reason.ReceiptTooLarge, reason.ReceiptMalformed, reason.ReceiptNotDeterministic, reason.ReceiptLabels,
		reason.ProfileUnknown, reason.AlgorithmUnknown, reason.ProofCount, reason.ProofMalformed,
		reason.TreeSizeMismatch, reason.StreamInvalid, reason.NonceMalformed:
		return true
	default:
		return false
	}
}

const corpusDir = "testdata/fuzz/FuzzDecode"

// The corpus holds the forgeries of the table as they were when they were
// added; each is refused or, as a receipt, still decodes.
func TestFuzzCorpusIsThere(t *testing.T) {
	entries, err := os.ReadDir(corpusDir)
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(entries), 20)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(corpusDir, e.Name()))
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(string(b), "go test fuzz v1\n[]byte("), e.Name())
	}
}
