package workload

import (
	"encoding/binary"
	"errors"
	"io"
)

// Podman sends both outputs of a process without a terminal, and logs, as
// frames:
//
//	stream 0|1|2 (1 byte) · 000000 (3) · length (4, big endian) · bytes
//
// A length is only ever used to count, never to allocate.

var errFrame = errors.New("podman's stream of frames is malformed")

const frameHeader = 8

// demux copies the frames to stdout and stderr until the stream ends. An end
// inside a frame is io.ErrUnexpectedEOF.
func demux(stdout, stderr io.Writer, r io.Reader) error {
	header, buffer := make([]byte, frameHeader), make([]byte, 32<<10)
	for {
		if _, err := io.ReadFull(r, header); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		to := stdout
		switch header[0] {
		case 0, 1:
		case 2:
			to = stderr
		default:
			return errFrame
		}
		if header[1]|header[2]|header[3] != 0 {
			return errFrame
		}
		n := int64(binary.BigEndian.Uint32(header[4:]))
		copied, err := io.CopyBuffer(onlyWriter{to}, io.LimitReader(r, n), buffer)
		if err != nil {
			return err
		}
		if copied < n {
			return io.ErrUnexpectedEOF
		}
	}
}

// onlyWriter hides ReadFrom, which would not use the buffer.
type onlyWriter struct{ io.Writer }
