package httpd

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// remote is a connection from an address.
type remote struct {
	net.Conn
	addr net.Addr
	gone bool
}

func (r *remote) RemoteAddr() net.Addr { return r.addr }
func (r *remote) Close() error         { r.gone = true; return nil }

// arrivals is a listener with connections that have come.
type arrivals struct {
	net.Listener
	conns []*remote
}

var errNoMore = errors.New("no more")

func (a *arrivals) Accept() (net.Conn, error) {
	if len(a.conns) == 0 {
		return nil, errNoMore
	}
	c := a.conns[0]
	a.conns = a.conns[1:]
	return c, nil
}

func TestOneAddressDoesNotTakeAllConnections(t *testing.T) {
	come := func(addr string) *remote {
		return &remote{addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr))}
	}
	queue := &arrivals{}
	l := Limit(queue, 100, netip.MustParsePrefix("10.0.0.0/8").Contains).(*perAddress)
	l.most = 2
	taken := func(addr string) net.Conn {
		t.Helper()
		r := come(addr)
		queue.conns = []*remote{r}
		c, err := l.Accept()
		if err != nil {
			require.ErrorIs(t, err, errNoMore)
			require.True(t, r.gone)
			return nil
		}
		return c
	}
	first := taken("198.51.100.1:1000")
	require.NotNil(t, first)
	require.NotNil(t, taken("[::ffff:198.51.100.1]:1001"))
	require.Nil(t, taken("198.51.100.1:1002"))
	require.NotNil(t, taken("198.51.100.2:1000"), "others come in")
	require.NotNil(t, taken("[2001:db8::1]:1"))
	require.NotNil(t, taken("[2001:db8::2]:1"))
	require.Nil(t, taken("[2001:db8::3]:1"), "an IPv6 client has a whole /64")
	for range 10 {
		require.NotNil(t, taken("10.1.2.3:1"), "a proxy comes for others")
		require.NotNil(t, taken("127.0.0.1:1"))
	}
	require.NoError(t, first.Close())
	require.NoError(t, first.Close())
	require.NotNil(t, taken("198.51.100.1:1003"))
	require.Nil(t, taken("198.51.100.1:1004"), "closing twice counts once")
	require.Len(t, l.open, 3)
}
