package server

import (
	"net/http"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

func (s *Server) createToken(c *call) error {
	var r api.TokenRequest
	if err := c.decode(&r); err != nil {
		return err
	}
	created, err := s.o.Fleet.CreateToken(c.r.Context(), c.actor(), &r)
	if err != nil {
		return err
	}
	c.allowedLog("create join token", created.ID)
	return c.JSON(http.StatusCreated, created)
}

func (s *Server) tokens(c *call) error {
	list, err := s.o.Fleet.Tokens(c.r.Context())
	if err != nil {
		return err
	}
	return writePage(c, list, "")
}

func (s *Server) deleteToken(c *call) error {
	id, err := idOf(c.r, "id", 64)
	if err != nil {
		return err
	}
	if err := s.o.Fleet.DeleteToken(c.r.Context(), c.actor(), id); err != nil {
		return err
	}
	c.allowedLog("delete join token", id)
	return c.none()
}
