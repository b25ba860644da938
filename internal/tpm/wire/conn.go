package wire

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Conn is a connection to a TPM. Exchange may not be called by two goroutines
// at once; Close may be called at any time, more than once, and makes an
// Exchange under way fail. After any error of Exchange the Conn is of no use but to be closed.
type Conn interface {
	// Exchange sends one command and returns its answer, whole and with a
	// header that was checked.
	Exchange(command []byte, timeout time.Duration) ([]byte, error)
	Close() error
}

// Dial connects to a device that exists, so not to one of kind SWTPM.
func Dial(ctx context.Context, a Address) (Conn, error) {
	switch a.Kind {
	case Path:
		fi, err := os.Stat(a.Target)
		if err != nil {
			return nil, err
		}
		switch {
		case fi.Mode()&os.ModeSocket != 0:
			return dialUnix(ctx, a.Target)
		case fi.Mode()&os.ModeCharDevice != 0:
			return openCharDevice(a.Target)
		default:
			return nil, fmt.Errorf("%s is neither a character device nor a socket", a.Target)
		}
	case Unix:
		return dialUnix(ctx, a.Target)
	case TCP:
		return dial(ctx, "tcp", a.Target)
	case SWTPM:
		return nil, errors.New("a device of kind swtpm is started, not dialled")
	default:
		return nil, fmt.Errorf("%s cannot be dialled", a)
	}
}

func dial(ctx context.Context, network, address string) (Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return NewStream(c), nil
}

// maxSocketPath is what fits into sockaddr_un with its closing zero.
const maxSocketPath = 107

// dialUnix also reaches sockets whose path is too long for the system call, by
// way of the directory's file descriptor.
func dialUnix(ctx context.Context, path string) (Conn, error) {
	if len(path) <= maxSocketPath {
		return dial(ctx, "unix", path)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	return dial(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
}

type stream struct {
	c  net.Conn
	in *bufio.Reader // an answer takes one call of the system
}

// NewStream returns a Conn over a raw TPM stream.
func NewStream(c net.Conn) Conn { return stream{c, bufio.NewReaderSize(c, MaxSize)} }

func (s stream) Exchange(command []byte, timeout time.Duration) ([]byte, error) {
	if err := s.c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	if _, err := s.c.Write(command); err != nil {
		return nil, timedOut(err, timeout)
	}
	answer, err := ReadResponse(s.in)
	if err != nil {
		return nil, timedOut(err, timeout)
	}
	if n := s.in.Buffered(); n > 0 { // the next command would get it for its answer
		return nil, fmt.Errorf("%w: %d bytes follow it", ErrMalformed, n)
	}
	return answer, nil
}

func (s stream) Close() error { return s.c.Close() }

func timedOut(err error, timeout time.Duration) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w (%v)", ErrTimeout, timeout)
	}
	return err
}
