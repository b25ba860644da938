package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

// A value that is no scalar of the curve is passed over, and always in the same
// way: the key has to be the same after a restart.
func TestTLSKeyIsTheFirstScalar(t *testing.T) {
	var asked []string
	derive := func(purpose string) (out [32]byte) {
		asked = append(asked, purpose)
		b := byte(0xff) // above the order
		if purpose == "tls-key-3" {
			b = 7
		}
		copy(out[:], bytes.Repeat([]byte{b}, 32))
		return out
	}
	first, err := tlsKey(derive)
	require.NoError(t, err)
	require.Equal(t, []string{"tls-key", "tls-key-2", "tls-key-3"}, asked)
	again, err := tlsKey(derive)
	require.NoError(t, err)
	require.True(t, first.Equal(again))
	_, err = tlsKey(func(string) [32]byte { return [32]byte{} })
	require.ErrorContains(t, err, "no value is a scalar")
}

func TestPodmansLastWordsAreKept(t *testing.T) {
	var said tail
	for range 100 {
		_, err := said.Write(bytes.Repeat([]byte("x"), 100))
		require.NoError(t, err)
	}
	_, err := said.Write([]byte("the last\n"))
	require.NoError(t, err)
	got := said.take()
	require.Len(t, got, maxTail-1)
	require.Contains(t, got, "xthe last")
	require.Empty(t, said.take())
}
