// Package tpmproxy stands between a user and a TPM and makes trouble on
// purpose: it delays commands, loses connections and answers, and answers in
// the TPM's place with response codes or rubbish. It is for tests and for
// trying out what an installation does when its TPM is slow or ill. It must
// not stand in front of a TPM that matters: it listens on a unix socket that
// anybody with access to its directory can use.
package tpmproxy

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/telemark-otel/telemark/internal/tpm/wire"
)

// Action is what happens to a command.
type Action string

// The actions.
const (
	Pass     Action = ""         // goes through, after the delay
	Drop     Action = "drop"     // the connection ends, the TPM sees nothing
	Lose     Action = "lose"     // the TPM executes it, the connection ends before the answer
	Hang     Action = "hang"     // no answer, and the connection stays
	Code     Action = "code"     // the answer is Fault.Code, the TPM sees nothing
	Garbage  Action = "garbage"  // an answer that is none
	Truncate Action = "truncate" // half of the answer, then the connection ends
	Oversize Action = "oversize" // a header that announces 4 GiB
	Flip     Action = "flip"     // the answer with its last bit turned over
	Shorten  Action = "shorten"  // an answer of the right form with half of its content
)

// Fault strikes commands.
type Fault struct {
	Command uint32   `json:"command,omitempty"` // code of the commands that it strikes; 0 is every
	Skip    int      `json:"skip,omitempty"`    // how many of them pass first
	Times   int      `json:"times,omitempty"`   // how many it strikes then; 0 is all
	Delay   Duration `json:"delay,omitempty"`   // before the command goes on
	Action  Action   `json:"action,omitempty"`
	Code    uint32   `json:"code,omitempty"` // response code, for the action code
}

// Duration is a time.Duration that is a string like "100ms" in JSON.
type Duration time.Duration

// UnmarshalText parses a duration.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// MarshalText formats a duration.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Proxy relays clients to one device.
type Proxy struct {
	mu       sync.Mutex // guards the rest
	upstream wire.Address
	faults   []Fault
	commands map[uint32]int // seen, by code
	struck   int
}

// New returns a proxy to a device. One of kind swtpm: cannot be behind it.
func New(device string, faults ...Fault) (*Proxy, error) {
	p := &Proxy{faults: faults, commands: make(map[uint32]int)}
	return p, p.Redirect(device)
}

// Redirect names another device for the clients that connect from now on.
func (p *Proxy) Redirect(device string) error {
	a, err := wire.ParseAddress(device)
	if err != nil {
		return err
	}
	if a.Kind == wire.SWTPM {
		return errors.New("the proxy does not start swtpm; start it and name its socket")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.upstream = a
	return nil
}

// Set replaces the faults; with none, everything passes.
func (p *Proxy) Set(faults ...Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append([]Fault(nil), faults...)
}

// Commands says how many commands of a code have come; of all codes for 0.
func (p *Proxy) Commands(code uint32) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if code != 0 {
		return p.commands[code]
	}
	n := 0
	for _, c := range p.commands {
		n += c
	}
	return n
}

// Struck says how many commands met a fault with an action.
func (p *Proxy) Struck() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.struck
}

// strike returns what happens to a command: all delays that meet it, and the
// first action.
func (p *Proxy) strike(code uint32) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.commands[code]++
	var hit Fault
	for i := range p.faults {
		f := &p.faults[i]
		switch {
		case f.Command != 0 && f.Command != code:
			continue
		case f.Skip > 0:
			f.Skip--
			continue
		case f.Times < 0: // used up
			continue
		case f.Times == 1:
			f.Times = -1
		case f.Times > 1:
			f.Times--
		}
		hit.Delay += f.Delay
		if hit.Action == Pass && f.Action != Pass {
			hit.Action, hit.Code = f.Action, f.Code
			p.struck++
		}
	}
	return hit
}

// Serve relays clients of l until ctx ends, and closes l.
func (p *Proxy) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		clients.Go(func() { p.relay(ctx, c) })
	}
}

// upstreamTimeout is longer than any command takes; it is the user's business to give up earlier.
const upstreamTimeout = 5 * time.Minute

func (p *Proxy) relay(ctx context.Context, client net.Conn) {
	defer func() { _ = client.Close() }()
	dialing, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	p.mu.Lock()
	upstream := p.upstream
	p.mu.Unlock()
	device, err := wire.Dial(dialing, upstream)
	if err != nil {
		return
	}
	defer func() { _ = device.Close() }()
	stop := context.AfterFunc(ctx, func() { _, _ = client.Close(), device.Close() })
	defer stop()
	for {
		command, err := wire.ReadCommand(client)
		if err != nil {
			return
		}
		fault := p.strike(wire.Code(command))
		if !sleep(ctx, time.Duration(fault.Delay)) {
			return
		}
		if fault.Action == Hang {
			_, _ = io.Copy(io.Discard, client) // until the client gives up
			return
		}
		answer, ok := p.answer(device, command, fault)
		if len(answer) > 0 {
			if _, err := client.Write(answer); err != nil {
				return
			}
		}
		if !ok {
			return
		}
	}
}

// answer returns the bytes to send back, and whether the connection goes on.
func (p *Proxy) answer(device wire.Conn, command []byte, f Fault) ([]byte, bool) {
	switch f.Action {
	case Drop, Hang:
		return nil, false
	case Code:
		return wire.Response(f.Code), true
	case Garbage:
		return []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), true
	case Oversize:
		b := wire.Response(0)
		binary.BigEndian.PutUint32(b[2:], 0xFFFFFFFF)
		return b, true
	case Pass, Lose, Truncate, Flip, Shorten:
	default:
		return nil, false
	}
	answer, err := device.Exchange(command, upstreamTimeout)
	if err != nil {
		return nil, false
	}
	switch f.Action {
	case Lose:
		return nil, false
	case Truncate:
		return answer[:len(answer)/2], false
	case Flip:
		answer[len(answer)-1] ^= 1
	case Shorten:
		answer = answer[:wire.HeaderSize+(len(answer)-wire.HeaderSize)/2]
		binary.BigEndian.PutUint32(answer[2:], uint32(len(answer))) // at most wire.MaxSize
	default:
	}
	return answer, true
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
