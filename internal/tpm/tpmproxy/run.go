package tpmproxy

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// Run is the proxy as a command: it listens on a unix socket, says so on
// stdout, and relays to a device until ctx ends. Faults come from a JSON file (a list
// of [Fault]) that is read again when it changes, so that a script can make
// and end trouble.
func Run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("tpmproxy", flag.ContinueOnError)
	flags.SetOutput(stdout)
	socket := flags.String("listen", "", "unix socket `path` to listen on")
	device := flags.String("device", "", "`device` to relay to: a path, unix:PATH or tcp:HOST:PORT")
	delay := flags.Duration("delay", 0, "delay of every command")
	file := flags.String("faults", "", "JSON `file` with a list of faults, read again when it changes")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *socket == "" || *device == "" {
		return errors.New("tpmproxy: -listen and -device are required")
	}
	always := Fault{Delay: Duration(*delay)}
	p, err := New(*device, always)
	if err != nil {
		return err
	}
	if err := os.Remove(*socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", *socket)
	if err != nil {
		return err
	}
	if *file != "" {
		if err := p.load(*file, always); err != nil {
			_ = l.Close()
			return err
		}
		go p.follow(ctx, *file, always, stdout)
	}
	_, _ = fmt.Fprintf(stdout, "listening on unix:%s\n", *socket)
	return p.Serve(ctx, l)
}

const followEvery = 20 * time.Millisecond

func (p *Proxy) follow(ctx context.Context, file string, always Fault, log io.Writer) {
	var last os.FileInfo
	for sleep(ctx, followEvery) {
		fi, err := os.Stat(file)
		if err != nil || last != nil && os.SameFile(last, fi) && fi.ModTime().Equal(last.ModTime()) && fi.Size() == last.Size() {
			continue
		}
		if last != nil {
			if err := p.load(file, always); err != nil {
				_, _ = fmt.Fprintln(log, err) // half written, perhaps: the next look tells
				continue
			}
		}
		last = fi
	}
}

func (p *Proxy) load(file string, always Fault) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var faults []Fault
	if err := json.Unmarshal(b, &faults); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	p.Set(append([]Fault{always}, faults...)...)
	return nil
}
