package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// MaxSize bounds a command and an answer in bytes. It is the buffer of the
// Linux kernel's driver and what the PC Client profile asks of a TPM.
const MaxSize = 4096

// HeaderSize is the length of the header of a command and of an answer:
//
//	u16 tag | u32 size of the whole | u32 command code, or response code
const HeaderSize = 10

// Tags (part 2, section 6.9).
const (
	tagResponse   = 0x00C4 // TPM_ST_RSP_COMMAND: the tag of the command was wrong
	tagNoSessions = 0x8001
	tagSessions   = 0x8002
)

// The errors of an exchange. After either the connection cannot be used any more.
var (
	// ErrMalformed says that bytes came which cannot be an answer.
	ErrMalformed = errors.New("malformed TPM answer")
	// ErrTimeout says that no answer came in time.
	ErrTimeout = errors.New("the TPM did not answer in time")
)

// Code returns the command code of a command or the response code of an answer.
func Code(frame []byte) uint32 { return binary.BigEndian.Uint32(frame[6:HeaderSize]) }

// Response makes an answer without parameters, as a TPM that refuses a command does.
func Response(code uint32) []byte {
	b := binary.BigEndian.AppendUint16(make([]byte, 0, HeaderSize), tagNoSessions)
	b = binary.BigEndian.AppendUint32(b, HeaderSize)
	return binary.BigEndian.AppendUint32(b, code)
}

// ReadResponse reads one answer from a stream.
func ReadResponse(r io.Reader) ([]byte, error) { return readFrame(r, checkResponse) }

// ReadCommand reads one command from a stream.
func ReadCommand(r io.Reader) ([]byte, error) { return readFrame(r, checkCommand) }

// readFrame reads the header, bounds the size, and only then makes room.
func readFrame(r io.Reader, check func(header []byte) (int, error)) ([]byte, error) {
	var header [HeaderSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	size, err := check(header[:])
	if err != nil {
		return nil, err
	}
	frame := make([]byte, size)
	copy(frame, header[:])
	if _, err := io.ReadFull(r, frame[HeaderSize:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return frame, nil
}

func checkResponse(header []byte) (int, error) {
	switch tag := binary.BigEndian.Uint16(header); tag {
	case tagNoSessions, tagSessions, tagResponse:
	default:
		return 0, fmt.Errorf("%w: tag %#04x", ErrMalformed, tag)
	}
	return checkSize(header)
}

func checkCommand(header []byte) (int, error) {
	switch tag := binary.BigEndian.Uint16(header); tag {
	case tagNoSessions, tagSessions:
	default:
		return 0, fmt.Errorf("malformed TPM command: tag %#04x", tag)
	}
	return checkSize(header)
}

func checkSize(header []byte) (int, error) {
	size := binary.BigEndian.Uint32(header[2:6])
	if size < HeaderSize || size > MaxSize {
		return 0, fmt.Errorf("%w: its header says %d bytes, %d to %d are possible", ErrMalformed, size, HeaderSize, MaxSize)
	}
	return int(size), nil
}
