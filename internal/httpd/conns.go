package httpd

import (
	"net"
	"net/netip"
	"sync"

	"golang.org/x/net/netutil"
)

// shareOfOne is the part of all connections that one address may have: a
// quarter. Without it one machine that opens all of them, and says something
// now and then, keeps everybody else out.
const shareOfOne = 4

// Limit bounds the connections of a listener, of all clients and of each.
// Loopback, and what exempt names (proxies, who come for others), may have all;
// exempt may be nil.
func Limit(ln net.Listener, most int, exempt func(netip.Addr) bool) net.Listener {
	return &perAddress{
		Listener: netutil.LimitListener(ln, most), most: max(1, most/shareOfOne), exempt: exempt, open: map[string]int{},
	}
}

// perAddress closes connections of addresses that have too many. It is a
// net.Listener.
type perAddress struct {
	net.Listener
	most   int
	exempt func(netip.Addr) bool

	mu   sync.Mutex
	open map[string]int // by Bucket; guarded by mu
}

// Accept implements net.Listener.
func (l *perAddress) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		a := Address(conn.RemoteAddr().String())
		if !a.IsValid() || a.IsLoopback() || l.exempt != nil && l.exempt(a) {
			return conn, nil
		}
		who := Bucket(a)
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
