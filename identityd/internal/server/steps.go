package server

import (
	"encoding/hex"
	"net/http"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/identityd/internal/control"
	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/refusal"
	"github.com/telemark-otel/telemark/identityd/internal/request"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/internal/identity/api"
)

// verifier holds requests against the state as it is now. After a reboot the
// owner is the one that the disk claims.
func (s *Server) verifier() *request.Verifier {
	v := s.o.Machine.View()
	out := &request.Verifier{Instance: []byte(v.Instance), Memory: s.o.Machine, RequireV1: s.o.Fixed.RequireV1}
	if v.Owner != nil {
		out.Owner = []byte(v.Owner.Pubkey)
	}
	return out
}

func (s *Server) registerOperator(c *call) error {
	signed, err := c.signed()
	if err != nil {
		return err
	}
	o, _, err := s.verifier().RegisterOperator(signed, c.route.v1())
	if err != nil {
		return err
	}
	if len(o.OwnerPubkey) > 0 && c.route.older && !c.private() {
		return reason.Refuse(reason.TLSRequired, "owner_pubkey is signed by nobody in this form; use /v1%s, or the TLS port", c.route.path)
	}
	out, err := s.o.Control.RegisterOperator(c.r.Context(), o)
	return c.done("register_operator", out, err)
}

func (s *Server) renewOperator(c *call) error {
	signed, err := c.signed()
	if err != nil {
		return err
	}
	r, _, err := s.verifier().Renew(signed)
	if err != nil {
		return err
	}
	out, err := s.o.Control.RenewOperator(c.r.Context(), state.Role{Pubkey: r.Pubkey, Signature: r.Signature})
	return c.done("renew_operator", out, err)
}

// sizeToken is the length of a token: 32 bytes in hexadecimal digits.
const sizeToken = 64

func (s *Server) registerOwner(c *call) error {
	token, err := c.header(api.HeaderToken)
	if err != nil {
		return err
	}
	switch {
	case token == "":
		return reason.Refuse(reason.TokenMissing, "there is no header %s", api.HeaderToken)
	case len(token) != sizeToken:
		return reason.Refuse(reason.TokenInvalid, "a token has %d characters", sizeToken)
	}
	signed, err := c.signed()
	if err != nil {
		return err
	}
	// What cannot be verified does not use the token up.
	o, _, err := s.verifier().RegisterOwner(signed, c.route.v1())
	if err != nil {
		return err
	}
	out, err := s.o.Control.RegisterOwner(c.r.Context(), token, o)
	return c.done("register_owner", out, err)
}

func (s *Server) configure(c *call) error {
	signed, err := c.signed()
	if err != nil {
		return err
	}
	w, auth, err := s.verifier().Configure(signed, c.route.v1())
	if err != nil {
		return err
	}
	if w.Registry != nil && s.o.Fixed.RequireTLS && !c.private() {
		return reason.Refuse(reason.TLSRequired, "registry_credentials would cross the host in clear; use the TLS port")
	}
	out, err := s.o.Control.Configure(c.r.Context(), w, auth)
	return c.done("configure", out, err)
}

func (s *Server) expose(c *call) error {
	signed, err := c.signed()
	if err != nil {
		return err
	}
	e, auth, err := s.verifier().Expose(signed, c.route.v1())
	if err != nil {
		return err
	}
	out, err := s.o.Control.Expose(c.r.Context(), e, auth)
	return c.done("expose", out, err)
}

func (s *Server) unlock(c *call) error {
	signed, err := c.signed()
	if err != nil {
		return err
	}
	u, _, err := s.verifier().Unlock(signed)
	if err != nil {
		return err
	}
	out, err := s.o.Control.Unlock(c.r.Context(), u)
	return c.done("unlock", out, err)
}

// done answers a step: 200, or 202 when the registry has not heard of it yet.
// The step is done and kept either way.
func (c *call) done(action string, out control.Outcome, err error) error {
	if err != nil {
		return err
	}
	if changed := c.server.o.Changed; changed != nil {
		changed()
	}
	answer := api.Done{Status: api.StatusSuccess, OwnerToken: out.Token}
	if c.route.v1() {
		answer.Counter = c.server.o.Machine.Counter()
	}
	status := http.StatusOK
	fields := []zap.Field{zap.String("action", action), zap.String("client", c.client.String()), zap.Uint64("counter", c.server.o.Machine.Counter())}
	if out.Registry != nil {
		e := refusal.Of(out.Registry)
		status = http.StatusAccepted
		answer.Registry, answer.Reason, answer.Error = api.RegistryPending, string(e.Reason), words(e)
		fields = append(fields, zap.String("registry", string(e.Reason)))
	}
	c.server.o.Metrics.Step(action, out.Registry == nil)
	c.server.o.Logger.Info("Done.", fields...)
	return c.JSON(status, answer)
}

func (s *Server) storageRequest(c *call) error {
	ask, err := request.AskStorage(c.body)
	if err != nil {
		return err
	}
	transcript, quote, err := s.o.Control.StorageRequest(c.r.Context(), [32]byte(ask.Nonce), []byte(ask.Owner))
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, api.StorageAsk{Transcript: transcript, Quote: quote})
}

func (s *Server) attestation(c *call) error {
	text := c.query.Get("nonce")
	nonce, ok := api.ParseHex(text, 2*api.MaxNonce)
	if !ok || len(nonce) < api.MinNonce {
		return reason.Refuse(reason.BadRequest, "nonce: want %d to %d bytes as lower-case hexadecimal digits, not %.32q", api.MinNonce, api.MaxNonce, text)
	}
	raw, quote, err := s.o.Control.Attest(c.r.Context(), nonce)
	if err != nil {
		return err
	}
	s.o.Logger.Debug("Attested.", zap.String("client", c.client.String()), zap.String("nonce", hex.EncodeToString(nonce)))
	return c.JSON(http.StatusOK, api.Attestation{Statement: raw, Quote: quote})
}
