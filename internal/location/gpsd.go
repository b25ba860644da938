package location

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"
)

// SourceGPSD is the claim "src" of a position from gpsd.
const SourceGPSD = "gpsd"

// Bounds towards a gpsd, which may be anybody.
const (
	gpsdConnect  = 5 * time.Second
	gpsdSilence  = 30 * time.Second // a receiver that works says something every second
	gpsdLine     = 16 << 10         // gpsd's own bound is 10,240 bytes
	gpsdPerSec   = 256              // lines
	gpsdProtocol = 3
	firstPause   = time.Second
	lastPause    = time.Minute
)

// GPSDOptions say where gpsd is. MaxAge is above 0.
type GPSDOptions struct {
	Endpoint string // host:port
	Device   string // of several receivers; "" for all, the last word counts
	MaxAge   time.Duration
	Now      func() time.Time // nil: time.Now
}

// GPSD asks a gpsd for reports (?WATCH) and keeps the last fix, 2D or 3D. It
// connects again, at growing pauses, whatever happens.
type GPSD struct {
	memory
	o GPSDOptions
}

var _ Live = (*GPSD)(nil)

// NewGPSD returns the source; it knows nothing until it runs.
func NewGPSD(o GPSDOptions) (*GPSD, error) {
	if host, port, err := net.SplitHostPort(o.Endpoint); err != nil || port == "" || host == "" {
		return nil, fmt.Errorf("%w, not %.128q", ErrEndpoint, o.Endpoint)
	}
	if o.MaxAge <= 0 || o.MaxAge > maxMaxAge {
		return nil, fmt.Errorf("%w, not %v", ErrMaxAge, o.MaxAge)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	g := &GPSD{o: o}
	g.maxAge = o.MaxAge
	g.status = Status{Problem: "not connected to gpsd yet", Used: -1, Seen: -1}
	return g, nil
}

// Run implements [Live].
func (g *GPSD) Run(ctx context.Context) {
	pause := firstPause
	for {
		fixed, err := g.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if fixed {
			pause = firstPause
		}
		g.learn(nil, func(s *Status) { s.Problem = fmt.Sprintf("gpsd at %s: %v", g.o.Endpoint, err) })
		wait := pause + rand.N(pause/2) //nolint:gosec // a jitter
		pause = min(2*pause, lastPause)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// watch is the one command that is sent.
type watch struct {
	Enable bool   `json:"enable"`
	JSON   bool   `json:"json"`
	Device string `json:"device,omitempty"`
}

// session is one connection. It ends with an error, and says whether there was a
// fix in it.
func (g *GPSD) session(ctx context.Context) (fixed bool, err error) {
	d := net.Dialer{Timeout: gpsdConnect}
	conn, err := d.DialContext(ctx, "tcp", g.o.Endpoint)
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()

	command, err := json.Marshal(watch{Enable: true, JSON: true, Device: g.o.Device})
	if err != nil {
		return false, err
	}
	if err := conn.SetWriteDeadline(time.Now().Add(gpsdConnect)); err != nil {
		return false, err
	}
	if _, err := fmt.Fprintf(conn, "?WATCH=%s;\n", command); err != nil {
		return false, err
	}
	r := bufio.NewReaderSize(conn, gpsdLine)
	greeted := false
	second, lines := time.Now(), 0
	for {
		if err := conn.SetReadDeadline(time.Now().Add(gpsdSilence)); err != nil {
			return fixed, err
		}
		line, err := r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return fixed, fmt.Errorf("it sends lines of more than %d bytes", gpsdLine)
		}
		if err != nil {
			return fixed, fmt.Errorf("read: %w", err)
		}
		if now := time.Now(); now.Sub(second) > time.Second {
			second, lines = now, 0
		}
		if lines++; lines > gpsdPerSec {
			return fixed, fmt.Errorf("it sends more than %d lines a second", gpsdPerSec)
		}
		got, err := parseReport(line)
		if err != nil {
			return fixed, err
		}
		if !greeted {
			if got.Class != "VERSION" || got.ProtoMajor != gpsdProtocol {
				return fixed, fmt.Errorf("it is no gpsd of protocol %d: %.64q, %d", gpsdProtocol, got.Class, got.ProtoMajor)
			}
			greeted = true
			continue
		}
		fixed = g.take(got) || fixed
	}
}

// take takes a report over and says whether it was a fix.
func (g *GPSD) take(r *report) bool {
	switch r.Class {
	case "TPV":
		if g.o.Device != "" && r.Device != g.o.Device {
			return false
		}
		f, err := r.fix(g.o.Now())
		if errors.Is(err, errNoTime) && g.knows() {
			return false
		}
		if err != nil {
			g.learn(nil, func(s *Status) { s.Problem, s.Quality = err.Error(), "" })
			return false
		}
		g.learn(f, func(s *Status) {
			s.Problem, s.Receiver, s.Quality = "", clip(r.Device), fmt.Sprintf("%dD", r.Mode)
		})
		return true
	case "SKY":
		if used, seen := r.satellites(); used >= 0 || seen >= 0 {
			g.learn(nil, func(s *Status) { s.Used, s.Seen = used, seen })
		}
	case "DEVICES", "WATCH", "DEVICE":
	case "ERROR":
		g.learn(nil, func(s *Status) { s.Problem = fmt.Sprintf("gpsd says: %.128q", r.Message) })
	}
	return false
}

// clip bounds what a receiver calls itself.
func clip(s string) string { return fmt.Sprintf("%.128s", s) }
