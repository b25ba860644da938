package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAnswersAreReadWholeHoweverTheyArrive(t *testing.T) {
	t.Parallel()
	frame := append(Response(0x101), make([]byte, 1000)...)
	binary.BigEndian.PutUint32(frame[2:], uint32(len(frame)))
	got, err := ReadResponse(iotest.OneByteReader(bytes.NewReader(frame)))
	require.NoError(t, err)
	require.Equal(t, frame, got)
	require.Equal(t, uint32(0x101), Code(got))
}

func TestAnswersThatAreNoneAreRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		hex  string
		want error
	}{
		"nothing":       {"", io.EOF},
		"half a header": {"800100", io.ErrUnexpectedEOF},
		"cut off":       {"80010000000c00000000aa", io.ErrUnexpectedEOF},
		"tag":           {"12340000000a00000000", ErrMalformed},
		"too short":     {"80010000000900000000", ErrMalformed},
		"too long":      {"80010000100100000000", ErrMalformed},
		"4 GiB":         {"8001ffffffff00000000", ErrMalformed},
		"HTTP":          {hex.EncodeToString([]byte("HTTP/1.1 200 OK")), ErrMalformed},
	} {
		b, err := hex.DecodeString(c.hex)
		require.NoError(t, err)
		_, err = ReadResponse(bytes.NewReader(b))
		require.ErrorIs(t, err, c.want, name)
	}
	_, err := ReadCommand(bytes.NewReader(Response(0)))
	require.NoError(t, err)
	_, err = ReadCommand(bytes.NewReader([]byte{0, 0xC4, 0, 0, 0, 10, 0, 0, 0, 0}))
	require.Error(t, err, "the tag of answers only")
}

// FuzzReadResponse: what is accepted has the length that its header says, and
// nothing is read beyond it.
func FuzzReadResponse(f *testing.F) {
	f.Add(Response(0x922))
	f.Add([]byte{0x80, 0x02, 0, 0, 0, 12, 0, 0, 0, 0, 1, 2, 3})
	f.Add([]byte{0x80, 0x01, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		frame, err := ReadResponse(r)
		if err != nil {
			return
		}
		require.GreaterOrEqual(t, len(frame), HeaderSize)
		require.LessOrEqual(t, len(frame), MaxSize)
		require.Equal(t, b[:len(frame)], frame)
		require.Equal(t, len(b)-len(frame), r.Len())
	})
}

func TestStreamTimesOut(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	defer func() { _ = far.Close() }()
	s := NewStream(near)
	defer func() { _ = s.Close() }()
	go io.Copy(io.Discard, far) //nolint:errcheck // ends with the pipe
	_, err := s.Exchange(Response(0), 20*time.Millisecond)
	require.ErrorIs(t, err, ErrTimeout)
}

func TestDialRefusesWhatIsNoDevice(t *testing.T) {
	t.Parallel()
	for _, a := range []Address{{SWTPM, "dir"}, {Kind(9), "x"}, {Path, t.TempDir()}} {
		_, err := Dial(t.Context(), a)
		require.Error(t, err)
		require.False(t, errors.Is(err, ErrTimeout))
	}
	require.Equal(t, "invalid device", Address{}.String())
	require.True(t, Address{Path, "/dev/tpmrm0"}.Shared())
	require.False(t, Address{Path, "/dev/tpm0"}.Shared())
	require.False(t, Address{Unix, "/run/tpmrm0"}.Shared())
}
