package server

import (
	"bytes"
	"encoding/json"
	"mime"
	"net/http"
	"strings"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

const typeCOSE = "application/cose"

// key answers people with JSON, and verifiers, who send a nonce or ask for
// COSE, with a signed answer.
func (s *Server) key(c *call) error {
	kid, err := kidOf(c.r)
	if err != nil {
		return err
	}
	nonce, err := nonceOf(c.r)
	if err != nil {
		return err
	}
	if nonce == nil && !accepts(c.r, typeCOSE) {
		k, err := s.o.Fleet.Key(c.r.Context(), kid)
		if err != nil {
			return err
		}
		if !c.viewer() {
			k.Entry = withoutLocation(k.Entry)
		}
		return c.JSON(http.StatusOK, k)
	}
	if !c.viewer() {
		if err := s.withheld(c, kid); err != nil {
			return err
		}
	}
	signed, err := s.o.Fleet.SignedKey(c.r.Context(), kid, nonce)
	if err != nil {
		return err
	}
	return c.Bytes(http.StatusOK, typeCOSE, signed)
}

// withheld refuses a signed answer that tells where a machine has to stand to
// somebody who is no viewer. Leaving the geofence out would let a verifier
// accept what policy refuses.
func (s *Server) withheld(c *call, kid string) error {
	k, err := s.o.Fleet.Key(c.r.Context(), kid)
	switch {
	case api.ReasonOf(err) == api.NotFound:
		return nil // "unknown" is signed too
	case err != nil:
		return err
	case bytes.Equal(withoutLocation(k.Entry), k.Entry):
		return nil
	case c.identity.Anonymous():
		return api.Refuse(api.Unauthenticated, "the policy of this key has a location, which only viewers see")
	default:
		return api.Refuse(api.Forbidden, "the policy of this key has a location, which only viewers see")
	}
}

// withoutLocation takes the location policy out of an entry; what has none stays
// byte for byte.
func withoutLocation(entry json.RawMessage) json.RawMessage {
	var members map[string]json.RawMessage
	if json.Unmarshal(entry, &members) != nil {
		return nil
	}
	if _, ok := members["location"]; !ok {
		return entry
	}
	delete(members, "location")
	out, err := json.Marshal(members)
	if err != nil {
		return nil
	}
	return out
}

// accepts reports whether a media type is asked for by name.
func accepts(r *http.Request, want string) bool {
	for _, header := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(header, ",") {
			media, params, err := mime.ParseMediaType(strings.TrimSpace(part))
			if err == nil && media == want && params["q"] != "0" {
				return true
			}
		}
	}
	return false
}

func (s *Server) revokeKey(c *call) error {
	kid, err := kidOf(c.r)
	if err != nil {
		return err
	}
	return revoke(c, "revoke key", kid, s.o.Fleet.RevokeKey)
}

// snapshot is the signed list of what changed.
func (s *Server) snapshot(c *call) error {
	since, err := numberOf(c.r, "since")
	if err != nil {
		return err
	}
	nonce, err := nonceOf(c.r)
	if err != nil {
		return err
	}
	limit, err := numberOf(c.r, "limit")
	if err != nil {
		return err
	}
	if limit > maxSnapshot {
		return api.Refuse(api.BadRequest, "limit: %d: want 1 to %d", limit, maxSnapshot)
	}
	signed, err := s.o.Fleet.SignedSnapshot(c.r.Context(), since, nonce, int(limit))
	if err != nil {
		return err
	}
	return c.Bytes(http.StatusOK, typeCOSE, signed)
}

// maxSnapshot bounds the keys of one snapshot.
const maxSnapshot = 5000
