package server

import (
	"encoding/hex"
	"net/http"

	"github.com/telemark-otel/telemark/internal/httpd"
	"github.com/telemark-otel/telemark/internal/registry/api"
)

func (s *Server) enrol(c *call) error {
	var r api.EnrolmentStart
	if err := c.decode(&r); err != nil {
		return err
	}
	if err := s.limitMachine(c, &r); err != nil {
		return err
	}
	var challenge *api.Challenge
	err := s.gate.run(c.r.Context(), "tpm_start", func() (err error) {
		challenge, err = s.o.Enrolment.Start(c.r.Context(), &r)
		return err
	})
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, challenge)
}

func (s *Server) enrolComplete(c *call) error {
	var r api.EnrolmentComplete
	if err := c.decode(&r); err != nil {
		return err
	}
	if err := s.limitMachine(c, &r.EnrolmentStart); err != nil {
		return err
	}
	var e *api.Enrolment
	err := s.gate.run(c.r.Context(), "tpm_complete", func() (err error) {
		e, err = s.o.Enrolment.Complete(c.r.Context(), &r, c.peer())
		return err
	})
	switch {
	case err != nil:
		return err
	case e.State == api.StatePending:
		return c.JSON(http.StatusAccepted, e)
	default:
		return c.JSON(http.StatusOK, e)
	}
}

// limitMachine limits attempts of one client for one endorsement key, as it was
// sent. Others who say the key do not use up what the machine has, or they
// could keep it from renewing its lease.
func (s *Server) limitMachine(c *call, r *api.EnrolmentStart) error {
	return s.limitSubject(c, "ek", hex.EncodeToString(r.EK)+" "+httpd.Bucket(c.client))
}
