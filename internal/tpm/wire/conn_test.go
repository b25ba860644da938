package wire

import (
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What comes behind an answer would be taken for the answer to the next command.
func TestMoreThanOneAnswerToACommandIsNone(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	go func() {
		far, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = far.Close() }()
		for answer := uint32(1); ; answer++ {
			if _, err := io.ReadFull(far, make([]byte, HeaderSize)); err != nil {
				return
			}
			twice := append(Response(answer), Response(answer)...)
			if _, err := far.Write(twice[:HeaderSize+int(answer-1)]); err != nil {
				return
			}
		}
	}()
	s, err := Dial(t.Context(), Address{Unix, l.Addr().String()})
	require.NoError(t, err)
	defer func() { _ = s.Close() }()
	got, err := s.Exchange(Response(0), time.Second)
	require.NoError(t, err)
	require.Equal(t, uint32(1), Code(got))
	_, err = s.Exchange(Response(0), time.Second) // one byte more
	require.ErrorIs(t, err, ErrMalformed)
}
