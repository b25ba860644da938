package server

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/httpd"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/registryd/internal/auth"
)

// maxHops bounds X-Forwarded-For.
const maxHops = 32

// admit finds out who asks, by address and by credentials, before anything of
// the request but its headers is read.
func (s *Server) admit(c *call) error {
	peer := httpd.Address(c.r.RemoteAddr)
	c.client = s.clientOf(peer, c.r.Header)
	if ok, retry := s.perAddress.Allow(httpd.Bucket(c.client), 1, s.o.Now()); !ok {
		return tooMany(retry, "too many requests from %s", c.client)
	}
	if err := http.NewCrossOriginProtection().Check(c.r); err != nil {
		return api.Refuse(api.Forbidden, "requests from pages of other origins are not taken")
	}
	return nil
}

// authorise holds who asks against the table.
func (s *Server) authorise(c *call) error {
	// First, since what the rest reads may be replaced meanwhile.
	c.outdated = s.hub.ending()
	id, err := s.auth.Load().Identify(s.vouched(c.r), s.o.Now())
	switch {
	case errors.Is(err, auth.ErrCredentials):
		return &api.Error{Reason: api.Unauthenticated, Detail: auth.ErrCredentials.Error(), Err: err}
	case err != nil:
		return &delayed{&api.Error{Reason: api.Busy, Detail: auth.ErrProvider.Error(), Err: err}, 5 * time.Second}
	}
	c.identity = id
	role, needed := c.route.access.role(s.o.RequireAuth)
	if !needed {
		return nil
	}
	if role != auth.Viewer && !s.private(c) {
		return api.Refuse(api.Forbidden, "this call is not taken over plain HTTP from another machine; use TLS")
	}
	switch {
	case id.Roles.Has(role):
		return nil
	case id.Anonymous():
		return api.Refuse(api.Unauthenticated, "this call needs the role %s", c.route.access.roleName())
	default:
		return api.Refuse(api.Forbidden, "%.160q has %s, and the call needs %s", id.Name, id.Roles, c.route.access.roleName())
	}
}

// vouched returns r without a client certificate that counts no longer.
func (s *Server) vouched(r *http.Request) *http.Request {
	if s.o.Vouched == nil || r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || s.o.Vouched(r.TLS) {
		return r
	}
	without := *r.TLS
	without.PeerCertificates, without.VerifiedChains = nil, nil
	r = r.WithContext(r.Context()) // a copy
	r.TLS = &without
	return r
}

// roleName is the role's name, of look-ups too.
func (a access) roleName() string {
	if a == accessLookup {
		return string(accessViewer)
	}
	return string(a)
}

// role is what a caller has to have.
func (a access) role(requireAuth bool) (auth.Role, bool) {
	switch a {
	case accessOpen:
		return 0, false
	case accessLookup:
		return auth.Viewer, requireAuth
	case accessViewer, accessApprover, accessAuditor, accessAdmin:
		r, err := auth.ParseRole(string(a))
		return r, err == nil
	default:
		// What nobody thought of is for admins.
		return auth.Admin, true
	}
}

// viewer reports whether the caller sees what only viewers see.
func (c *call) viewer() bool { return c.identity.Roles.Has(auth.Viewer) }

// private reports whether nobody between the caller and us reads along: TLS, or
// both are this machine. What a trusted proxy on this machine says of the
// connection to it counts.
func (s *Server) private(c *call) bool {
	if c.r.TLS != nil {
		return true
	}
	peer := httpd.Address(c.r.RemoteAddr)
	if !peer.IsLoopback() {
		return false
	}
	if !s.trusted(peer) && httpd.Forwarded(c.r.Header) {
		return false
	}
	if c.client.IsLoopback() {
		return true
	}
	scheme := c.r.Header.Values("X-Forwarded-Proto")
	return len(scheme) == 1 && strings.EqualFold(scheme[0], "https")
}

func (s *Server) trusted(a netip.Addr) bool {
	for _, p := range s.o.Proxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// clientOf is the right-most address that is no trusted proxy: what stands left
// of it was written by somebody whom nobody knows.
func (s *Server) clientOf(peer netip.Addr, h http.Header) netip.Addr {
	if !s.trusted(peer) {
		return peer
	}
	hops := strings.Split(strings.Join(h.Values("X-Forwarded-For"), ","), ",")
	client := peer
	for i := len(hops) - 1; i >= max(0, len(hops)-maxHops); i-- {
		a, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			// With a port, as some proxies write it.
			ap, err := netip.ParseAddrPort(strings.TrimSpace(hops[i]))
			if err != nil {
				return client
			}
			a = ap.Addr()
		}
		client = a.Unmap().WithZone("")
		if !s.trusted(client) {
			return client
		}
	}
	return client
}

// limitSubject limits requests about one key, machine or instance. Whoever is
// known has a budget of his own, so that nobody else can use it up.
func (s *Server) limitSubject(c *call, kind, name string) error {
	sum := sha256.Sum256([]byte(strings.ToLower(name)))
	key := kind + ":" + hex.EncodeToString(sum[:16]) + ":" + c.identity.Name
	if ok, retry := s.perKey.Allow(key, 1, s.o.Now()); !ok {
		return tooMany(retry, "too many requests about this %s", subjectWord[kind])
	}
	return nil
}

var subjectWord = map[string]string{"kid": "key", "pubkey": "instance", "origin": "identity", "ek": "machine"}

func tooMany(retry time.Duration, format string, args ...any) error {
	return &delayed{api.Refuse(api.RateLimited, "%s", fmt.Sprintf(format, args...)), retry}
}

// allowedLog notes what changes the fleet.
func (c *call) allowedLog(what, subject string) {
	c.server.o.Logger.Info("Done.", zap.String("action", what), zap.String("subject", subject),
		zap.String("identity", c.identity.Name), zap.String("client", c.peer()))
}
