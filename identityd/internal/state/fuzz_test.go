package state

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
)

const corpus = "testdata/fuzz/FuzzStateFile"

// wrap makes a file of a body, under a key of zeros.
func wrap(body []byte) []byte {
	file := append([]byte(nil), magic...)
	file = binary.BigEndian.AppendUint32(file, uint32(len(body)))
	file = append(file, body...)
	return append(file, mac(make([]byte, keySize), file)...)
}

// FuzzStateFile reads bodies that whoever owns the disk may have written, as
// after a reboot, when the key is not known yet. What is taken is spelled as this
// program spells it, and opens or is refused with a reason.
func FuzzStateFile(f *testing.F) {
	f.Fuzz(func(t *testing.T, body []byte) {
		file := wrap(body)
		r, err := claim(file)
		if err != nil {
			require.NotEqual(t, reason.Internal, reason.Of(err))
			return
		}
		again, err := r.encode(make([]byte, keySize))
		require.NoError(t, err)
		require.True(t, bytes.Equal(file, again))

		v := newVM(t)
		v.setFile(file)
		m := v.start()
		view := m.View()
		require.False(t, view.SSHAllowed())
		require.Nil(t, m.InFlight())
		require.Equal(t, r.State.order() < OwnerRegistered.order(), view.Linked)
	})
}

func TestCorpusIsThere(t *testing.T) {
	seeds, err := os.ReadDir(corpus)
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(seeds), 5)
	for _, s := range seeds {
		content, err := os.ReadFile(filepath.Join(corpus, s.Name()))
		require.NoError(t, err)
		require.True(t, bytes.HasPrefix(content, []byte("go test fuzz v1\n")))
	}
}
