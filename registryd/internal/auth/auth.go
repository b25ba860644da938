package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
	"time"
)

// ErrCredentials says that credentials were sent which nobody has. It does not
// say more, since it is told to whoever tries.
var ErrCredentials = errors.New("these credentials are not known, or have expired")

// ErrProvider says that the identity provider cannot be asked.
var ErrProvider = errors.New("the identity provider cannot be reached")

// Identity is who sends a request.
type Identity struct {
	// Name stands in the audit log: token:NAME, mtls:NAME or oidc:SUBJECT;
	// "" for callers without credentials.
	Name  string
	Roles Role
	// Expires is when the credentials end, zero for never: what goes on
	// longer, such as a stream of events, ends then.
	Expires time.Time
}

// Anonymous reports whether the caller showed no credentials.
func (i Identity) Anonymous() bool { return i.Name == "" }

type token struct {
	name    string
	hash    [sha256.Size]byte
	roles   Role
	expires time.Time
}

// Auth knows identities. It is immutable but for the keys of an identity
// provider, and serves any number of goroutines.
type Auth struct {
	anonymous Role
	tokens    []token
	mtls      map[string]Role // kind ":" name
	oidc      *provider
}

// New returns an Auth for a file that Load or Parse returned; nil knows nobody.
func New(f *File) *Auth {
	a := &Auth{mtls: map[string]Role{}}
	if f == nil {
		return a
	}
	// The file was checked when it was read.
	a.anonymous, _ = parseRoles("", f.Anonymous, true)
	for _, t := range f.Tokens {
		entry := token{name: t.Name, expires: t.Expires}
		entry.roles, _ = parseRoles("", t.Roles, false)
		hash, _ := hex.DecodeString(t.SHA256)
		copy(entry.hash[:], hash)
		a.tokens = append(a.tokens, entry)
	}
	for _, m := range f.MTLS {
		kind, name, _ := m.which()
		a.mtls[kind+":"+name], _ = parseRoles("", m.Roles, false)
	}
	if f.OIDC != nil {
		a.oidc = newProvider(f.OIDC)
	}
	return a
}

// Anybody reports whether somebody could have the role.
func (a *Auth) Anybody(role Role) bool {
	for _, t := range a.tokens {
		if t.roles.Has(role) {
			return true
		}
	}
	for _, r := range a.mtls {
		if r.Has(role) {
			return true
		}
	}
	if a.oidc != nil {
		for _, r := range a.oidc.roles {
			if r.Has(role) {
				return true
			}
		}
	}
	return a.anonymous.Has(role)
}

// Identify says who sends r. A bearer token is looked at before a client
// certificate; one that nobody has is an error, on open routes too, so that a
// wrong configuration shows.
func (a *Auth) Identify(r *http.Request, now time.Time) (Identity, error) {
	text, present, ok := bearer(r.Header.Values("Authorization"))
	switch {
	case !ok:
		return Identity{}, ErrCredentials
	case present && a.oidc != nil && strings.Count(text, ".") == 2:
		return a.oidc.identify(r.Context(), text, now)
	case present:
		return a.byToken(text, now)
	}
	if id, ok := a.byCertificate(r.TLS, now); ok {
		return id, nil
	}
	return Identity{Roles: a.anonymous}, nil
}

// byToken compares with every token, and in the same time whether one matches.
func (a *Auth) byToken(text string, now time.Time) (Identity, error) {
	sum := sha256.Sum256([]byte(text))
	found := -1
	for i := range a.tokens {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(sum[:], a.tokens[i].hash[:]), i, found)
	}
	if found < 0 {
		return Identity{}, ErrCredentials
	}
	t := &a.tokens[found]
	if !t.expires.IsZero() && !now.Before(t.expires) {
		return Identity{}, ErrCredentials
	}
	return Identity{Name: "token:" + t.name, Roles: t.roles, Expires: t.expires}, nil
}

// byCertificate looks at a certificate that TLS verified. Of several names that
// the file knows the roles add up.
func (a *Auth) byCertificate(state *tls.ConnectionState, now time.Time) (Identity, bool) {
	if state == nil || len(state.VerifiedChains) == 0 || len(state.VerifiedChains[0]) == 0 {
		return Identity{}, false
	}
	leaf := state.VerifiedChains[0][0]
	// A connection may live longer than the certificate it began with.
	if now.Before(leaf.NotBefore) || !now.Before(leaf.NotAfter) {
		return Identity{}, false
	}
	id := Identity{Expires: leaf.NotAfter}
	add := func(kind, name string) {
		if roles, ok := a.mtls[kind+":"+name]; ok && name != "" {
			id.Roles |= roles
			if id.Name == "" {
				id.Name = "mtls:" + name
			}
		}
	}
	add("subject", leaf.Subject.CommonName)
	for _, uri := range leaf.URIs {
		add("uri", uri.String())
	}
	for _, name := range leaf.DNSNames {
		add("dns", name)
	}
	return id, id.Name != ""
}
