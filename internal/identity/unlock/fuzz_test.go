package unlock_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/unlock"
)

// FuzzTranscript: what is read is written again the same.
func FuzzTranscript(f *testing.F) {
	var r unlock.Requests
	x, err := r.New([32]byte{1}, public(1), vm(), now)
	require.NoError(f, err)
	f.Add(x.Bytes())
	x.TLS = nil
	f.Add(x.Bytes())
	f.Add([]byte("telemark-storage-unlock-v1\x00\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := unlock.ParseTranscript(b)
		if err == nil && !bytes.Equal(b, x.Bytes()) {
			t.Fatalf("%x is written as %x", b, x.Bytes())
		}
	})
}

// FuzzOpen: nothing but the one message opens, and whatever comes before it
// does not keep it from opening.
func FuzzOpen(f *testing.F) {
	var r unlock.Requests
	mine := unlock.Mine{Nonce: [32]byte{1}, Signer: private(1)}
	x, err := r.New(mine.Nonce, public(1), vm(), now)
	require.NoError(f, err)
	good, err := unlock.Wrap(x.ReportData(), x, mine, bytes.Repeat([]byte{9}, unlock.KeySize))
	require.NoError(f, err)
	f.Add(good[1:])
	f.Add(good[:len(good)-1])
	f.Add(append([]byte("telemark-storage-key-v1\x00\x00\x00\x05\x00"), good...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if bytes.Equal(b, good) {
			return
		}
		if _, err := r.Open(b, public(1), vm(), now); err == nil {
			t.Fatalf("opened %x", b)
		}
	})
}
