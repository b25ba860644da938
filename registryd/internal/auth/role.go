// Package auth says who sends a request and what he may do: bearer tokens that
// are kept as SHA-256 (RFC 6750), client certificates (RFC 8446, by subject or
// subject alternative name), and OpenID Connect ID tokens (OpenID Connect Core
// 1.0, through coreos/go-oidc). It decides nothing about routes;
// registryd/internal/server holds that table.
//
// It leaves out sessions, cookies and token issuing: `registryd token` makes
// random tokens, and whoever needs more brings an identity provider.
package auth

import (
	"fmt"
	"slices"
	"strings"
)

// Role is what a caller may be. Roles are a set of bits, so that one identity
// can have several.
type Role uint8

// The roles. Approver, auditor and admin are viewers too, and an admin is all.
const (
	Viewer   Role = 1 << iota // sees lists, PPIDs, evidence, locations, events
	Approver                  // takes waiting machines into the fleet, or rejects them
	Auditor                   // reads the audit log
	Admin                     // changes what is trusted
)

var names = map[Role]string{Viewer: "viewer", Approver: "approver", Auditor: "auditor", Admin: "admin"}

// Names are the roles in the order of what they may.
var Names = []string{"viewer", "approver", "auditor", "admin"}

// ParseRole reads the name of one role.
func ParseRole(s string) (Role, error) {
	for r, name := range names {
		if name == s {
			return r, nil
		}
	}
	return 0, fmt.Errorf("role %.32q: want %s", s, strings.Join(Names, ", "))
}

// implied adds what a role holds besides itself.
func (r Role) implied() Role {
	if r&Admin != 0 {
		r |= Approver | Auditor
	}
	if r != 0 {
		r |= Viewer
	}
	return r
}

// Has reports whether r holds the role want.
func (r Role) Has(want Role) bool { return r.implied()&want == want }

// String lists the roles as they were given.
func (r Role) String() string {
	var out []string
	for _, name := range Names {
		role, _ := ParseRole(name)
		if r&role != 0 {
			out = append(out, name)
		}
	}
	if out == nil {
		return "none"
	}
	return strings.Join(slices.Compact(out), ",")
}
