package ratelimitextension

import (
	"net"
	"net/netip"
	"slices"
	"strings"
)

const forwardedFor = "X-Forwarded-For"

// proxies says whose word about other addresses counts.
type proxies []netip.Prefix

func (p proxies) trust(addr netip.Addr) bool {
	for _, network := range p {
		if network.Contains(addr) {
			return true
		}
	}
	return false
}

// client returns whom a request comes from: the rightmost address of peer and
// X-Forwarded-For that is not a trusted proxy. What stands left of it anybody
// can have written. An entry that is no address ends the search at the proxy
// that passed it on.
func (p proxies) client(peer netip.Addr, headers []string) netip.Addr {
	if len(headers) == 0 || !p.trust(peer) {
		return peer
	}
	for _, list := range slices.Backward(headers) {
		for {
			comma := strings.LastIndexByte(list, ',')
			addr := parseAddr(strings.TrimSpace(list[comma+1:]))
			if !addr.IsValid() {
				return peer
			}
			if peer = addr; !p.trust(addr) {
				return addr
			}
			if comma < 0 {
				break
			}
			list = list[:comma]
		}
	}
	return peer
}

// parseAddr reads an address as proxies write it: bare, in brackets, with a
// port. The zero Addr is none.
func parseAddr(s string) netip.Addr {
	const longest = 64
	if s == "" || len(s) > longest {
		return netip.Addr{}
	}
	if s[0] == '[' || strings.Count(s, ":") == 1 {
		if at, err := netip.ParseAddrPort(s); err == nil {
			return plain(at.Addr())
		}
		s = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
	}
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}
	}
	return plain(addr)
}

// plain makes the forms of one address equal.
func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// remoteAddr reads http.Request.RemoteAddr.
func remoteAddr(s string) netip.Addr {
	at, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.Addr{}
	}
	return plain(at.Addr())
}

// netAddr reads the address of a connection.
func netAddr(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case nil:
		return netip.Addr{}
	case *net.TCPAddr:
		return plain(a.AddrPort().Addr())
	default:
		return remoteAddr(a.String())
	}
}
