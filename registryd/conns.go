package main

import (
	"net"
	"net/netip"
	"sync"

	"github.com/telemark-otel/telemark/registryd/internal/server"
)

// shareOfOne is the part of all connections that one address may have: a
// quarter. Without it one machine that opens all of them, and says something
// now and then, keeps everybody else out.
const shareOfOne = 4

// perAddress closes connections of addresses that have too many. It is a
// net.Listener.
type perAddress struct {
	net.Listener
	most   int
	exempt func(netip.Addr) bool // proxies, who come for others

	mu   sync.Mutex
	open map[string]int // by server.Bucket; guarded by mu
}

func newPerAddress(ln net.Listener, most int, proxies []netip.Prefix) *perAddress {
	exempt := func(a netip.Addr) bool {
		for _, p := range proxies {
			if p.Contains(a) {
				return true
			}
		}
		return !a.IsValid() || a.IsLoopback()
	}
	return &perAddress{Listener: ln, most: most, exempt: exempt, open: map[string]int{}}
}

// Accept implements net.Listener.
func (l *perAddress) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		ap, _ := netip.ParseAddrPort(conn.RemoteAddr().String())
		a := ap.Addr().Unmap().WithZone("")
		if l.exempt(a) {
			return conn, nil
		}
		who := server.Bucket(a)
		if l.enter(who) {
			return &counted{Conn: conn, leave: sync.OnceFunc(func() { l.leave(who) })}, nil
		}
		_ = conn.Close()
	}
}

func (l *perAddress) enter(who string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[who] >= l.most {
		return false
	}
	l.open[who]++
	return true
}

func (l *perAddress) leave(who string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[who]--; l.open[who] <= 0 {
		delete(l.open, who)
	}
}

// counted is a connection that is counted until it is closed.
type counted struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *counted) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
