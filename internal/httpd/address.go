package httpd

import (
	"net"
	"net/http"
	"net/netip"
)

// Address is the address of host:port, the zero Addr when there is none.
func Address(hostPort string) netip.Addr {
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		return netip.Addr{}
	}
	a, _ := netip.ParseAddr(host)
	return a.Unmap().WithZone("")
}

// Bucket is what of an address one client can be expected to own: of IPv6 a
// whole /64.
func Bucket(a netip.Addr) string {
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}

// Loopback reports whether a host of a listener or Host header is this machine
// only. The empty host is every address.
func Loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

// Forwarded reports whether a request says that it came through a proxy.
func Forwarded(h http.Header) bool {
	return h.Get("X-Forwarded-For") != "" || h.Get("Forwarded") != "" || h.Get("X-Real-Ip") != ""
}
