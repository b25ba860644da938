package ratelimitextension

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestForgedForwardedAddressDoesNotCount(t *testing.T) {
	trusted, err := parseNetworks([]string{"10.0.0.0/8", "2001:db8::/32"})
	require.NoError(t, err)
	for name, tc := range map[string]struct {
		peer    string
		headers []string
		want    string
	}{
		"no proxy in between":            {"192.0.2.1", nil, "192.0.2.1"},
		"a stranger's word":              {"192.0.2.1", []string{"198.51.100.1"}, "192.0.2.1"},
		"behind one proxy":               {"10.0.0.1", []string{"198.51.100.1"}, "198.51.100.1"},
		"what the client wrote before":   {"10.0.0.1", []string{"203.0.113.9, 198.51.100.1"}, "198.51.100.1"},
		"behind two proxies":             {"10.0.0.1", []string{"203.0.113.9, 198.51.100.1, 10.2.3.4"}, "198.51.100.1"},
		"in two headers":                 {"10.0.0.1", []string{"203.0.113.9,198.51.100.1", "10.2.3.4"}, "198.51.100.1"},
		"no address":                     {"10.0.0.1", []string{"203.0.113.9, unknown"}, "10.0.0.1"},
		"no address before a proxy":      {"10.0.0.1", []string{"203.0.113.9, , 10.9.9.9"}, "10.9.9.9"},
		"a hidden name of a loopback":    {"10.0.0.1", []string{"localhost"}, "10.0.0.1"},
		"an endless entry":               {"10.0.0.1", []string{strings.Repeat("1", 1000)}, "10.0.0.1"},
		"only proxies":                   {"10.0.0.1", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		"with port":                      {"10.0.0.1", []string{"198.51.100.1:4711"}, "198.51.100.1"},
		"IPv6":                           {"2001:db8::1", []string{"2a00::7"}, "2a00::7"},
		"IPv6 with port":                 {"2001:db8::1", []string{"[2a00::7]:80"}, "2a00::7"},
		"IPv6 in brackets":               {"2001:db8::1", []string{"[2a00::7]"}, "2a00::7"},
		"IPv4 in IPv6":                   {"10.0.0.1", []string{"::ffff:198.51.100.1"}, "198.51.100.1"},
		"trusted in the form of IPv6":    {"10.0.0.1", []string{"198.51.100.1, ::ffff:10.1.1.1"}, "198.51.100.1"},
		"with a zone":                    {"10.0.0.1", []string{"fe80::1%eth0"}, "fe80::1"},
		"empty header of a trusted peer": {"10.0.0.1", []string{""}, "10.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, netip.MustParseAddr(tc.want), proxies(trusted).client(netip.MustParseAddr(tc.peer), tc.headers))
		})
	}
}

func TestOneSubnetIsOneClient(t *testing.T) {
	show := func(s string, prefix int) string {
		k := addressKey(plain(netip.MustParseAddr(s)), prefix)
		return k.show(&keyBy{})
	}
	require.Equal(t, "2001:db8:0:1::", show("2001:db8:0:1:1234::5", 64))
	require.Equal(t, show("2001:db8:0:1::1", 64), show("2001:db8:0:1:ffff::1", 64))
	require.NotEqual(t, show("2001:db8:0:1::1", 64), show("2001:db8:0:2::1", 64))
	require.Equal(t, show("2001:db8:0:1::1", 56), show("2001:db8:0:2::1", 56))
	require.Equal(t, "192.0.2.1", show("192.0.2.1", 64))
	require.Equal(t, "192.0.2.1", show("::ffff:192.0.2.1", 64))
	unix := addressKey(remoteAddr("@"), 64)
	require.Equal(t, "local", unix.show(&keyBy{}))
}

// Keys hold on to nothing of a request, and tell no header.
func TestKeysAreBoundedAndHeadersAreNotShown(t *testing.T) {
	by, err := parseKeyBy("header:authorization")
	require.NoError(t, err)
	k := textKey(byHeader, "Bearer secret")
	sum := sha256.Sum256([]byte("Bearer secret"))
	require.Equal(t, fmt.Sprintf("Authorization=sha256:%x", sum), k.show(&by))

	by, err = parseKeyBy("query:kid")
	require.NoError(t, err)
	k = textKey(byQuery, "a\n\"b")
	require.Equal(t, `kid="a\n\"b"`, k.show(&by))
	long := textKey(byQuery, strings.Repeat("x", 73))
	require.Equal(t, uint8(hashed), long.len)
	require.NotEqual(t, long, textKey(byQuery, strings.Repeat("x", 74)))
	require.NotEqual(t, textKey(byQuery, "a"), textKey(byIdentity, "a"))
}

func TestOnlyVerifiedCertificatesNameSomebody(t *testing.T) {
	uri, err := url.Parse("spiffe://example.org/edge-a")
	require.NoError(t, err)
	cert := &x509.Certificate{URIs: []*url.URL{uri}, DNSNames: []string{"edge-a.example.org"}, Subject: pkix.Name{CommonName: "edge-a"}}
	state := func(c *x509.Certificate) *tls.ConnectionState {
		return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}, VerifiedChains: [][]*x509.Certificate{{c}}}
	}
	for want, c := range map[string]*x509.Certificate{
		"uri:spiffe://example.org/edge-a": cert,
		"dns:edge-a.example.org":          {DNSNames: cert.DNSNames, Subject: cert.Subject},
		"subject:CN=edge-a":               {Subject: cert.Subject},
	} {
		got, ok := identity(state(c))
		require.True(t, ok)
		require.Equal(t, want, got)
	}
	for _, s := range []*tls.ConnectionState{nil, {}, {PeerCertificates: []*x509.Certificate{cert}}, state(&x509.Certificate{})} {
		_, ok := identity(s)
		require.False(t, ok)
	}
}

func TestKeyOfARequest(t *testing.T) {
	l, err := newLimiter(createDefaultConfig().(*Config))
	require.NoError(t, err)
	address := addressKey(netip.MustParseAddr("192.0.2.1"), 64)
	for _, tc := range []struct {
		by, target string
		want       key
	}{
		{"client_address", "/nonce?kid=aa", address},
		{"query:kid", "/nonce?kid=aa", textKey(byQuery, "aa")},
		{"query:kid", "/nonce?x=1&kid=aa&kid=bb", textKey(byQuery, "aa")},
		{"query:kid", "/nonce?k%69d=a%61&kid=bb", textKey(byQuery, "aa")},
		{"query:kid", "/nonce?kids=aa", address},
		{"query:kid", "/nonce?kid=", address},
		{"query:kid", "/nonce", address},
		{"header:x-tenant", "/", textKey(byHeader, "blue")},
		{"header:x-other", "/", address},
		{"mtls_identity", "/", address},
	} {
		by, err := parseKeyBy(tc.by)
		require.NoError(t, err)
		r := httptest.NewRequest("GET", tc.target, nil)
		r.RemoteAddr = "192.0.2.1:4711"
		r.Header.Set("X-Tenant", "blue")
		r.Header.Set("X-Forwarded-For", "198.51.100.1")
		require.Equal(t, tc.want, l.httpKey(r, &by), "%s of %s", tc.by, tc.target)
	}
	r := httptest.NewRequest("GET", "/", nil)
	cert := &x509.Certificate{DNSNames: []string{"edge-a"}}
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}, VerifiedChains: [][]*x509.Certificate{{cert}}}
	require.Equal(t, textKey(byIdentity, "dns:edge-a"), l.httpKey(r, &keyBy{kind: byIdentity}))
}

// The fast way of reading a parameter agrees with the slow one.
func FuzzQueryValue(f *testing.F) {
	for _, s := range []string{"kid=aa", "x=1&kid=a%20b", "kid", "kid=&kid=b", "&&kid=a=b", "kid=a;b&kid=c", "kidx=1&kid=2", "k%69d=z", "=&kid=%zz&kid=1", "%&kid=1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		got, ok := queryValue(raw, "kid")
		values, _ := url.ParseQuery(raw)
		want := values.Get("kid")
		if got != want || ok != (want != "") {
			t.Fatalf("queryValue(%q) = %q, %v; url says %q", raw, got, ok, want)
		}
	})
}
