package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/configfs/linuxtsm"
	"github.com/google/go-configfs-tsm/report"

	"github.com/telemark-otel/telemark/internal/tdx"
)

const provider = "tdx_guest"

// interfaces are what the kernel offers.
type interfaces struct {
	// tsm is /sys/kernel/config/tsm; the error says that there is none.
	tsm func() (configfsi.Client, error)
	// measurement is the file of RTMR3 of Linux 6.16.
	measurement string
	// rtmrs is the directory of registers of configfs-tsm.
	rtmrs string
}

func system() interfaces {
	return interfaces{
		tsm:         linuxtsm.MakeClient,
		measurement: "/sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384",
		rtmrs:       configfsi.TsmPrefix + "/rtmrs",
	}
}

// rtmr3 is one way to the register. Calls are one at a time.
type rtmr3 interface {
	read() ([48]byte, error)
	extend(digest [48]byte) error
}

// kernel is the Guest of a TD.
type kernel struct {
	// A quote takes its time; the register does not wait for it.
	quotes, registers queue

	tsm   configfsi.Client
	rtmr3 rtmr3 // nil where there is no way
}

func openKernel(ctx context.Context, i interfaces) (Guest, error) {
	k := &kernel{quotes: newQueue(), registers: newQueue()}
	_, err := run(ctx, k.quotes, "look for a TDX guest", func() (struct{}, error) {
		tsm, err := i.tsm()
		if err != nil {
			return struct{}{}, fmt.Errorf("%w: open configfs-tsm: %w", ErrNoTDX, err)
		}
		k.tsm = tsm
		if err := k.isTDX(); err != nil {
			return struct{}{}, err
		}
		k.rtmr3, err = i.register(tsm)
		return struct{}{}, err
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

// isTDX asks an empty report who makes it: other machines have configfs-tsm too.
func (k *kernel) isTDX() (err error) {
	r, err := report.CreateOpenReport(k.tsm)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoTDX, err)
	}
	defer func() { err = errors.Join(err, r.Destroy()) }()
	name, err := r.ReadOption("provider")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoTDX, err)
	}
	return is(string(name))
}

func is(name string) error {
	if name = strings.TrimSpace(name); name != provider {
		return fmt.Errorf("%w: its reports are of %.32q", ErrNoTDX, name)
	}
	return nil
}

// Quote implements Guest.
func (k *kernel) Quote(ctx context.Context, reportData [64]byte) ([]byte, error) {
	return run(ctx, k.quotes, "get a quote", func() ([]byte, error) {
		r, err := report.Get(k.tsm, &report.Request{InBlob: reportData[:]})
		if err != nil {
			return nil, err
		}
		if err := is(r.Provider); err != nil {
			return nil, err
		}
		return checked(r.OutBlob, reportData)
	})
}

// checked looks that a quote is one, and over what was asked for.
func checked(quote []byte, reportData [64]byte) ([]byte, error) {
	if len(quote) > tdx.MaxQuote {
		return nil, fmt.Errorf("it has %d bytes", len(quote))
	}
	got, err := tdx.ReportData(quote)
	if err != nil {
		return nil, err
	}
	if got != reportData {
		return nil, errors.New("it is over other report data than were asked for")
	}
	return quote, nil
}

// RTMR3 implements Guest.
func (k *kernel) RTMR3(ctx context.Context) ([48]byte, error) {
	if k.rtmr3 == nil {
		return [48]byte{}, ErrReadOnly
	}
	return run(ctx, k.registers, "read RTMR3", k.rtmr3.read)
}

// ExtendRTMR3 implements Guest.
func (k *kernel) ExtendRTMR3(ctx context.Context, digest [48]byte) error {
	if k.rtmr3 == nil {
		return ErrReadOnly
	}
	_, err := run(ctx, k.registers, "extend RTMR3", func() (struct{}, error) { return struct{}{}, k.rtmr3.extend(digest) })
	return err
}

// register finds a way to RTMR3, nil when there is none.
func (i interfaces) register(tsm configfsi.Client) (rtmr3, error) {
	// Opening for writing extends nothing.
	f, err := os.OpenFile(i.measurement, os.O_RDWR, 0)
	if err == nil {
		return file(i.measurement), f.Close()
	}
	if !absent(err) {
		return nil, fmt.Errorf("open RTMR3: %w", err)
	}
	if info, err := os.Stat(i.rtmrs); err != nil || !info.IsDir() {
		return nil, nil
	}
	r := rtmrs{tsm}
	if _, err := r.read(); err != nil {
		if absent(err) {
			return nil, nil
		}
		return nil, err
	}
	return r, nil
}

// absent reports whether there is no way here, and not that it failed.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, errReadOnlyFS)
}
