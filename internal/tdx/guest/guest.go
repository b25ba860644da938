// Package guest is the guest's side of TDX: it gets quotes from the kernel
// (configfs-tsm, Linux 6.7 and later: Documentation/ABI/testing/configfs-tsm)
// and reads and extends RTMR3 (the measurement files of Linux 6.16:
// Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest, or the rtmrs
// of configfs-tsm that some kernels before it have). For development it takes
// both from a server that forges them (package test/tdxlab).
//
// The kernel may take its time, or for ever: every call ends with its context
// at the latest, while the kernel's call goes on, and whoever comes next waits
// for it.
//
// It leaves out the ioctl of /dev/tdx_guest that was there before configfs-tsm,
// and other registers. Tests run against imitations of both interfaces: the
// kernel's own are to be had in a TD only.
package guest

import (
	"context"
	"errors"
	"fmt"

	"github.com/telemark-otel/telemark/internal/tdx"
)

// Errors, wrapped with what was attempted.
var (
	// ErrNoTDX: this machine makes no quotes.
	ErrNoTDX = errors.New("this machine is no TDX guest")
	// ErrReadOnly: RTMR3 cannot be extended on this machine.
	ErrReadOnly = errors.New("RTMR3 cannot be extended here")
)

// Guest is safe for concurrent use: quotes are made one at a time, and so are
// calls of the register, which do not wait for quotes.
type Guest interface {
	// Quote returns a quote over report data. It ends with ctx at the latest.
	Quote(ctx context.Context, reportData [64]byte) ([]byte, error)
	// RTMR3 reads the register, ErrReadOnly where it cannot be extended.
	RTMR3(ctx context.Context) ([48]byte, error)
	// ExtendRTMR3 sets it to SHA-384(RTMR3 | digest). After an error other than
	// ErrReadOnly it may have been extended, or be extended yet: RTMR3 tells,
	// which waits for it.
	ExtendRTMR3(ctx context.Context, digest [48]byte) error
}

// Options of Open.
type Options struct {
	// Mock is the base URL of a server that forges quotes (GET
	// /attest/{report data as 128 hexadecimal digits}, GET /rtmr3, POST
	// /rtmr3/{96 digits}). For development only: the caller decides.
	Mock string
}

// Open finds what this machine has.
func Open(ctx context.Context, o Options) (Guest, error) {
	if o.Mock != "" {
		return openMock(o.Mock)
	}
	return openKernel(ctx, system())
}

// PPID returns the platform's PPID, 16 bytes, from the PCK certificate in a quote
// that this machine made. It verifies nothing.
func PPID(quote []byte) ([]byte, error) {
	ppid, err := tdx.PPID(quote)
	if err != nil {
		return nil, fmt.Errorf("read the PPID of a quote: %w", err)
	}
	return ppid, nil
}

// register is 48 bytes as the kernel or a server gave them.
func register(b []byte) ([48]byte, error) {
	if len(b) != 48 {
		return [48]byte{}, fmt.Errorf("read RTMR3: %d bytes in place of 48", len(b))
	}
	return [48]byte(b), nil
}
