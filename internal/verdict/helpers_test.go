package verdict_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/digest"
)

// manifest changes the manifest of the first block.
func manifest(t *testing.T, d digest.Batch, change func([]byte) []byte) {
	p, err := d.At(0).Proof()
	require.NoError(t, err)
	d.At(0).StripProof()
	p.Manifest = change(p.Manifest)
	d.At(0).Attach(p)
}
