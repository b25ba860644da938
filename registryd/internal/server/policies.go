package server

import (
	"net/http"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// maxScope bounds "label:KEY=VALUE".
const maxScope = len("label:=") + 2*api.MaxLabel

func (s *Server) policies(c *call) error {
	list, err := s.o.Fleet.Policies(c.r.Context())
	if err != nil {
		return err
	}
	return writePage(c, list, "")
}

// putPolicy writes the policy of the path's scope, which the body may repeat.
func (s *Server) putPolicy(c *call) error {
	scope, err := idOf(c.r, "scope", maxScope)
	if err != nil {
		return err
	}
	var p api.Policy
	if err := c.decode(&p); err != nil {
		return err
	}
	if p.Scope != "" && p.Scope != scope {
		return api.Refuse(api.BadRequest, "the body is for scope %.128q, the path for %.128q", p.Scope, scope)
	}
	p.Scope = scope
	written, err := s.o.Fleet.PutPolicy(c.r.Context(), c.actor(), &p)
	if err != nil {
		return err
	}
	c.allowedLog("write policy", scope)
	return c.JSON(http.StatusOK, written)
}

func (s *Server) deletePolicy(c *call) error {
	scope, err := idOf(c.r, "scope", maxScope)
	if err != nil {
		return err
	}
	if err := s.o.Fleet.DeletePolicy(c.r.Context(), c.actor(), scope); err != nil {
		return err
	}
	c.allowedLog("delete policy", scope)
	return c.none()
}
