package server

import (
	"net/http"
	"strings"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/registryd/internal/auth"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

func (s *Server) machines(c *call) error {
	q := c.r.URL.Query()
	f := store.MachineFilter{State: api.KeyState(q.Get("state")), Name: q.Get("name")}
	switch f.State {
	case "", api.StatePending, api.StateEnrolled, api.StateExpired, api.StateSuperseded, api.StateRevoked:
	default:
		return api.Refuse(api.BadRequest, "state: %.32q: want pending, enrolled, expired, superseded or revoked", f.State)
	}
	for _, label := range q["label"] {
		k, v, ok := strings.Cut(label, "=")
		if !ok || k == "" {
			return api.Refuse(api.BadRequest, "label: %.64q: want KEY=VALUE", label)
		}
		if f.Labels == nil {
			f.Labels = map[string]string{}
		}
		f.Labels[k] = v
	}
	if err := api.CheckLabels(f.Labels); err != nil {
		return err
	}
	if len(f.Name) > api.MaxName {
		return api.Refuse(api.BadRequest, "name: %.64q is longer than any name", f.Name)
	}
	var err error
	if f.After, err = cursorOf(c.r); err != nil {
		return err
	}
	if f.Limit, err = limitOf(c.r); err != nil {
		return err
	}
	page, err := s.o.Fleet.Machines(c.r.Context(), f)
	if err != nil {
		return err
	}
	return writePage(c, page.Items, page.Next)
}

func (s *Server) machine(c *call) error {
	id, err := idOf(c.r, "id", maxID)
	if err != nil {
		return err
	}
	m, err := s.o.Fleet.Machine(c.r.Context(), id)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, m)
}

func (s *Server) importMachines(c *call) error {
	var r api.ImportRequest
	if err := c.decode(&r); err != nil {
		return err
	}
	result, err := s.o.Fleet.Import(c.r.Context(), c.actor(), &r)
	if err != nil {
		return err
	}
	if !r.DryRun {
		c.allowedLog("import machines", "")
	}
	return c.JSON(http.StatusOK, result)
}

func (s *Server) approve(c *call) error {
	id, err := idOf(c.r, "id", maxID)
	if err != nil {
		return err
	}
	var r api.ApproveRequest
	if err := c.decode(&r); err != nil {
		return err
	}
	if r.Reinstate && !c.identity.Roles.Has(auth.Admin) {
		return api.Refuse(api.Forbidden, "who revokes machines takes them back: this needs the role %s", accessAdmin)
	}
	m, err := s.o.Fleet.Approve(c.r.Context(), c.actor(), id, &r)
	if err != nil {
		return err
	}
	c.allowedLog("approve machine", id)
	return c.JSON(http.StatusOK, m)
}

func (s *Server) reject(c *call) error {
	id, err := idOf(c.r, "id", maxID)
	if err != nil {
		return err
	}
	if err := s.o.Fleet.Reject(c.r.Context(), c.actor(), id); err != nil {
		return err
	}
	c.allowedLog("reject machine", id)
	return c.none()
}

func (s *Server) replace(c *call) error {
	id, err := idOf(c.r, "id", maxID)
	if err != nil {
		return err
	}
	var r api.ReplaceRequest
	if err := c.decode(&r); err != nil {
		return err
	}
	m, err := s.o.Fleet.Replace(c.r.Context(), c.actor(), id, &r)
	if err != nil {
		return err
	}
	c.allowedLog("replace machine", id)
	return c.JSON(http.StatusOK, m)
}

func (s *Server) revokeMachine(c *call) error {
	id, err := idOf(c.r, "id", maxID)
	if err != nil {
		return err
	}
	return revoke(c, "revoke machine", id, s.o.Fleet.RevokeMachine)
}
