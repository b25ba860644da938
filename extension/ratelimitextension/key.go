package ratelimitextension

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/netip"
	"net/textproto"
	"strings"

	"golang.org/x/net/http/httpguts"
)

const (
	keyByAddress  = "client_address"
	keyByIdentity = "mtls_identity"
	keyByHeader   = "header:"
	keyByQuery    = "query:"
)

// kind says what a key is made of.
type kind uint8

const (
	byAddress kind = iota
	byIdentity
	byHeader
	byQuery
)

// keyBy is key_by, read.
type keyBy struct {
	kind   kind
	name   string // of the header, in canonical form, or of the query parameter
	gRPC   string // of the header, as gRPC writes it
	config string
}

const maxName = 128

func parseKeyBy(s string) (keyBy, error) {
	k := keyBy{config: s}
	switch {
	case s == keyByAddress:
	case s == keyByIdentity:
		k.kind = byIdentity
	case strings.HasPrefix(s, keyByHeader):
		name := s[len(keyByHeader):]
		k.kind, k.name, k.gRPC = byHeader, textproto.CanonicalMIMEHeaderKey(name), strings.ToLower(name)
		if len(name) > maxName || !httpguts.ValidHeaderFieldName(name) {
			return k, errKeyBy
		}
	case strings.HasPrefix(s, keyByQuery):
		k.kind, k.name = byQuery, s[len(keyByQuery):]
		if k.name == "" || len(k.name) > maxName || strings.ContainsAny(k.name, "&=%+;# ") {
			return k, errKeyBy
		}
	default:
		return k, errKeyBy
	}
	return k, nil
}

// key is what a bucket belongs to. It has no pointers, so that the table holds
// on to nothing of a request:
//
//	kind | len | len bytes of text: an address (4 or 16 bytes), an identity, a parameter
//	kind | hashed | SHA-256 of the text, where it is longer, or of any header,
//	       which may hold a password
type key struct {
	kind kind
	len  uint8
	text [maxText]byte
}

const (
	maxText = 72  // the hex name of a key takes 68
	hashed  = 255 // in the place of a length
)

func addressKey(addr netip.Addr, ipv6Prefix int) (k key) {
	if addr.Is4() {
		b := addr.As4()
		k.len = uint8(copy(k.text[:], b[:]))
		return k
	}
	if !addr.IsValid() { // of a Unix socket: all callers are one
		return k
	}
	network, err := addr.WithZone("").Prefix(ipv6Prefix)
	if err != nil {
		return k
	}
	b := network.Addr().As16()
	k.len = uint8(copy(k.text[:], b[:]))
	return k
}

func textKey(of kind, text string) (k key) {
	k.kind = of
	if len(text) > maxText || of == byHeader {
		sum := sha256.Sum256([]byte(text))
		k.len = hashed
		copy(k.text[:], sum[:])
		return k
	}
	k.len = uint8(copy(k.text[:], text))
	return k
}

// show is k for people. Texts are quoted, since callers choose them.
func (k *key) show(by *keyBy) string {
	switch {
	case k.kind == byAddress && k.len == 0:
		return "local"
	case k.kind == byAddress:
		addr, _ := netip.AddrFromSlice(k.text[:k.len])
		return addr.String()
	case k.len == hashed:
		return fmt.Sprintf("%s=sha256:%s", by.label(), hex.EncodeToString(k.text[:sha256.Size]))
	default:
		return fmt.Sprintf("%s=%q", by.label(), k.text[:k.len])
	}
}

func (by *keyBy) label() string {
	if by.kind == byIdentity {
		return "identity"
	}
	return by.name
}

// identity is whom a verified client certificate names: its first URI, else its
// first DNS name, else its subject. An unverified one names nobody.
func identity(state *tls.ConnectionState) (string, bool) {
	if state == nil || len(state.VerifiedChains) == 0 || len(state.VerifiedChains[0]) == 0 {
		return "", false
	}
	return named(state.VerifiedChains[0][0])
}

func named(cert *x509.Certificate) (string, bool) {
	switch {
	case len(cert.URIs) > 0:
		return "uri:" + cert.URIs[0].String(), true
	case len(cert.DNSNames) > 0:
		return "dns:" + cert.DNSNames[0], true
	default:
		name := cert.Subject.String()
		return "subject:" + name, name != ""
	}
}
