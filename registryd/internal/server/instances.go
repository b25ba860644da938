package server

import (
	"context"
	"encoding/hex"
	"net/http"
	"strings"

	"github.com/telemark-otel/telemark/internal/httpd"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

// registerFirst is POST /register, the first generation: an empty 200.
func (s *Server) registerFirst(c *call) error {
	// Its body has neither nonce nor TLS key.
	var body struct {
		InstancePubkey   api.Hex    `json:"instance_pubkey"`
		AttestationQuote api.Hex    `json:"attestation_quote"`
		PPID             api.Hex    `json:"ppid"`
		Operator         *api.Party `json:"operator"`
		Owner            *api.Party `json:"owner"`
	}
	if err := c.decode(&body); err != nil {
		return err
	}
	r := &api.Registration{
		InstancePubkey: body.InstancePubkey, AttestationQuote: body.AttestationQuote, PPID: body.PPID,
		Operator: body.Operator, Owner: body.Owner,
	}
	if _, err := s.registerInstance(c, r, 1); err != nil {
		return err
	}
	c.Header().Set("Content-Length", "0")
	c.WriteHeader(http.StatusOK)
	return nil
}

func (s *Server) register(c *call) error {
	var r api.Registration
	if err := c.decode(&r); err != nil {
		return err
	}
	i, err := s.registerInstance(c, &r, 2)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, i)
}

func (s *Server) registerInstance(c *call, r *api.Registration, generation int) (i *api.Instance, err error) {
	// Of each client, as for machines: everybody knows the key.
	if err := s.limitSubject(c, "pubkey", "register:"+hex.EncodeToString(r.InstancePubkey)+" "+httpd.Bucket(c.client)); err != nil {
		return nil, err
	}
	err = s.gate.run(c.r.Context(), "tdx", func() error {
		i, err = s.o.Instances.Register(c.r.Context(), r, generation, c.peer())
		return err
	})
	return i, err
}

func (s *Server) nonce(c *call) error {
	n, err := s.o.Instances.Nonce(c.r.Context())
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, n)
}

// instanceFirst is GET /instance/{pubkey}, which shows all of it to everybody,
// as the first generation did.
func (s *Server) instanceFirst(c *call) error {
	i, err := s.oneInstance(c)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, i)
}

func (s *Server) instance(c *call) error {
	i, err := s.oneInstance(c)
	if err != nil {
		return err
	}
	if !c.viewer() {
		i.PPID, i.AttestationQuote, i.Statement = nil, nil, nil
	}
	return c.JSON(http.StatusOK, i)
}

func (s *Server) oneInstance(c *call) (*api.Instance, error) {
	pubkey, err := pubkeyOf(c.r)
	if err != nil {
		return nil, err
	}
	return s.o.Instances.Instance(c.r.Context(), pubkey)
}

func (s *Server) instances(c *call) error {
	q := c.r.URL.Query()
	f := store.InstanceFilter{
		State: api.InstanceState(q.Get("state")), Operator: strings.ToLower(q.Get("operator")), Owner: strings.ToLower(q.Get("owner")),
	}
	switch f.State {
	case "", api.TDXVerified, api.TDXUnverified, api.TDXExpired, api.TDXRevoked, api.TDXSuperseded:
	default:
		return api.Refuse(api.BadRequest, "state: %.32q: want verified, unverified, expired, superseded or revoked", f.State)
	}
	for name, text := range map[string]string{"operator": f.Operator, "owner": f.Owner} {
		if _, err := hex.DecodeString(text); err != nil || len(text) > 64 {
			return api.Refuse(api.BadRequest, "%s: %.80q: want a public key, 64 hexadecimal digits", name, text)
		}
	}
	var err error
	if f.After, err = cursorOf(c.r); err != nil {
		return err
	}
	if f.Limit, err = limitOf(c.r); err != nil {
		return err
	}
	page, err := s.o.Instances.Instances(c.r.Context(), f)
	if err != nil {
		return err
	}
	return writePage(c, page.Items, page.Next)
}

// identity is the witness of an instance that was started anew, which sends a
// nonce and gets a signed answer, also about an identity that nobody saw; people
// get JSON. It is open where look-ups need a role, since an instance has none:
// what it says more than the answer is then for viewers.
func (s *Server) identity(c *call) error {
	origin, err := instanceKeyOf(c.r, "origin")
	if err != nil {
		return err
	}
	// Of each client: everybody knows the key, and must not be able to keep the
	// instance from its witness.
	if err := s.limitSubject(c, "origin", origin+" "+httpd.Bucket(c.client)); err != nil {
		return err
	}
	nonce, err := nonceOf(c.r)
	if err != nil {
		return err
	}
	if nonce == nil {
		if accepts(c.r, typeCOSE) {
			return api.Refuse(api.BadRequest, "nonce: without one a signed answer says nothing of now")
		}
		i, err := s.o.Instances.Identity(c.r.Context(), origin)
		if err != nil {
			return err
		}
		if s.o.RequireAuth && !c.viewer() {
			i.Facts = nil
		}
		return c.JSON(http.StatusOK, i)
	}
	signed, err := s.o.Instances.SignedIdentity(c.r.Context(), origin, nonce)
	if err != nil {
		return err
	}
	return c.Bytes(http.StatusOK, typeCOSE, signed)
}

func (s *Server) revokeInstance(c *call) error {
	pubkey, err := pubkeyOf(c.r)
	if err != nil {
		return err
	}
	return revoke(c, "revoke instance", pubkey, s.o.Instances.Revoke)
}

// revoke reads a reason and revokes something.
func revoke[T any](c *call, what, id string, do func(ctx context.Context, actor, id, why string) (*T, error)) error {
	var r api.RevokeRequest
	if err := c.decode(&r); err != nil {
		return err
	}
	if err := api.CheckRevocation(r.Reason); err != nil {
		return err
	}
	out, err := do(c.r.Context(), c.actor(), id, r.Reason)
	if err != nil {
		return err
	}
	c.allowedLog(what, id)
	return c.JSON(http.StatusOK, out)
}

// writePage writes a list; an empty one is [] and not null.
func writePage[T any](c *call, items []T, next string) error {
	if items == nil {
		items = []T{}
	}
	return c.JSON(http.StatusOK, api.Page[T]{Items: items, Next: next})
}
