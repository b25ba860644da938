//go:build unix

package wire

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
)

// charDevice is a TPM device of the kernel. Write blocks until the TPM has
// executed the command, read then takes the answer, and neither can be
// interrupted. So they run in a goroutine that a time-out leaves behind, and
// a device is not opened again while such a one is still inside the kernel:
// there is never more than one.
type charDevice struct {
	path string
	done chan struct{} // closed by Close

	mu     sync.Mutex // guards the rest
	fd     int        // -1 when closed
	inside bool       // an exchange is in the kernel
	closed bool
}

var stuck struct {
	sync.Mutex
	paths map[string]int // exchanges left behind
}

func openCharDevice(path string) (Conn, error) {
	stuck.Lock()
	n := stuck.paths[path]
	stuck.Unlock()
	if n > 0 {
		return nil, fmt.Errorf("%s: %w to the command sent last", path, ErrTimeout)
	}
	fd, err := syscall.Open(path, syscall.O_RDWR|syscall.O_CLOEXEC|syscall.O_NOCTTY, 0)
	if err != nil {
		if errors.Is(err, syscall.EBUSY) {
			return nil, fmt.Errorf("%s is in use by another process (the kernel's resource manager, /dev/tpmrm0, can be shared): %w", path, err)
		}
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return &charDevice{path: path, done: make(chan struct{}), fd: fd}, nil
}

func (d *charDevice) Exchange(command []byte, timeout time.Duration) ([]byte, error) {
	d.mu.Lock()
	if d.closed || d.inside {
		d.mu.Unlock()
		return nil, os.ErrClosed
	}
	d.inside = true
	fd := d.fd
	d.mu.Unlock()

	type result struct {
		answer []byte
		err    error
	}
	results := make(chan result, 1)
	go func() {
		answer, err := exchangeBlocking(fd, command)
		d.left()
		results <- result{answer, err}
	}()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case r := <-results:
		return r.answer, r.err
	case <-d.done:
		return nil, os.ErrClosed
	case <-timer.C:
		return nil, fmt.Errorf("%w (%v)", ErrTimeout, timeout)
	}
}

// exchangeBlocking reads the answer with as few calls as the device allows:
// kernels before 4.20 give an answer to a single read and drop the rest.
func exchangeBlocking(fd int, command []byte) ([]byte, error) {
	for len(command) > 0 { // one call for the kernel's driver
		n, err := ignoringEINTR(func() (int, error) { return syscall.Write(fd, command) })
		if err != nil {
			return nil, os.NewSyscallError("write", err)
		}
		command = command[n:]
	}
	r := &readBuffer{fd: fd}
	return ReadResponse(r)
}

type readBuffer struct {
	fd   int
	buf  [MaxSize]byte
	rest []byte
}

func (r *readBuffer) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		n, err := ignoringEINTR(func() (int, error) { return syscall.Read(r.fd, r.buf[:]) })
		if err != nil {
			return 0, os.NewSyscallError("read", err)
		}
		if n <= 0 {
			return 0, fmt.Errorf("%w: the device gave none", ErrMalformed)
		}
		r.rest = r.buf[:n]
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func ignoringEINTR(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}

// left is called when an exchange has come back from the kernel.
func (d *charDevice) left() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inside = false
	if d.closed {
		_ = syscall.Close(d.fd)
		d.fd = -1
		stuck.Lock()
		defer stuck.Unlock()
		if stuck.paths[d.path]--; stuck.paths[d.path] <= 0 {
			delete(stuck.paths, d.path)
		}
	}
}

// Close leaves closing to the exchange under way, if there is one: the number
// of a file descriptor that is closed while in use may be given to another file.
func (d *charDevice) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	close(d.done)
	if d.inside {
		stuck.Lock()
		defer stuck.Unlock()
		if stuck.paths == nil {
			stuck.paths = make(map[string]int)
		}
		stuck.paths[d.path]++
		return nil
	}
	err := syscall.Close(d.fd)
	d.fd = -1
	return err
}
