package server

import (
	"context"
	_ "embed" // for openapi.yaml
	"net/http"
	"slices"

	"github.com/telemark-otel/telemark/identityd/internal/control"
	"github.com/telemark-otel/telemark/identityd/internal/metrics"
	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/internal/identity/api"
)

//go:embed openapi.yaml
var openAPIFile []byte

func (s *Server) openAPI(c *call) error {
	return c.Bytes(http.StatusOK, "application/yaml", openAPIFile)
}

func (s *Server) metrics(c *call) error {
	s.o.Metrics.Handler().ServeHTTP(c, c.r)
	return nil
}

func (s *Server) pubkey(c *call) error {
	return c.JSON(http.StatusOK, api.Pubkey{Pubkey: api.Hex(s.o.Machine.View().Instance)})
}

// view asks how things stand, and does not wait for Podman without end.
func (s *Server) view(ctx context.Context) control.View {
	ctx, cancel := context.WithTimeout(ctx, s.o.LookTimeout)
	defer cancel()
	return s.o.Control.View(ctx)
}

func (s *Server) state(c *call) error {
	return c.JSON(http.StatusOK, s.stateOf(s.view(c.r.Context())))
}

// health answers 200 as long as the process serves: what is wrong with the
// instance stands in it, and starting the service anew would not mend it.
func (s *Server) health(c *call) error {
	v := s.view(c.r.Context())
	h := api.Health{
		Status: api.HealthOK, Version: s.o.Fixed.Version, State: string(v.State.State),
		Problems: s.problems(v), Warnings: s.o.Fixed.Warnings,
	}
	if len(h.Problems) > 0 {
		h.Status = api.HealthDegraded
	}
	return c.JSON(http.StatusOK, h)
}

// stateOf is the answer to GET /v1/state.
func (s *Server) stateOf(v control.View) api.State {
	out, st := s.o.Fixed, v.State
	out.Instance, out.Origin, out.Boot = api.Hex(st.Instance), api.Hex(st.Origin), st.Boot
	out.State, out.Counter = string(st.State), st.Counter
	out.Linked, out.Witnessed, out.RolledBack = st.Linked, st.Witnessed, st.RolledBack
	out.ExpectedOwner = api.Hex(st.ExpectedOwner)
	if st.Operator != nil {
		out.Operator = api.Hex(st.Operator.Pubkey)
		out.OperatorRenewal = st.Linked && !slices.Equal(st.Operator.Instance, st.Instance)
	}
	if st.Owner != nil {
		out.Owner = api.Hex(st.Owner.Pubkey)
	}
	if st.Step != nil {
		out.Step = &api.Step{Kind: string(st.Step.Kind), Since: st.Step.Since}
	}
	if w := st.Workload; w != nil {
		out.Workload = &api.Workload{Image: w.Image, Digest: w.Digest, PersistDirs: w.PersistDirs, Port: w.Port}
	}
	if p := v.Container; p.Phase != "" {
		out.Container = &api.Container{
			Phase: string(p.Phase), Running: p.Running, Revision: p.Revision, ImageID: p.ImageID, ImageDigest: p.ImageDigest,
			ContainerID: p.ContainerID, StartedAt: p.StartedAt, ExitCode: p.ExitCode, OutOfMemory: p.OutOfMemory, Restarts: p.Restarts,
		}
	}
	s.fillSSH(&out.SSH, v)
	out.Storage.Volume, out.Storage.ID = v.Volume, v.VolumeID
	if !v.QuotedAt.IsZero() {
		out.Quote = api.Quote{At: v.QuotedAt, Age: max(0, int64(s.o.Now().Sub(v.QuotedAt).Seconds()))}
	}
	if s.o.Registrar != nil {
		r := api.Registry(s.o.Registrar.Status())
		out.Registry = &r
	}
	if s.o.Events != nil {
		out.EventLog = s.o.Events.View()
	}
	out.Problems = s.problems(v)
	return out
}

// fillSSH says whether the way in is open. What the state says was closed is
// closed; what it says was opened may be down.
func (s *Server) fillSSH(out *api.SSH, v control.View) {
	st := v.State.SSH
	out.Opened, out.ListenerClosed, out.SessionsEnded = st.Opened, st.ListenerClosed, st.SessionsEnded
	if f := v.SSH; f != nil {
		out.Active, out.Logins, out.Refused, out.LastLogin = f.Active, f.Logins, f.Refused, f.LastAt
	}
	switch {
	case !st.SessionsEnded.IsZero():
		out.State = api.SSHClosed
	case v.SSH != nil && v.SSH.ClosedAt.IsZero():
		out.State = api.SSHOpen
	case st.Opened.IsZero():
		out.State = api.SSHNeverOpened
	default:
		out.State = api.SSHDown
	}
}

// problems is what keeps the instance from running as it should: what Control
// knows, a disk that was set back, a registry that does not hear.
func (s *Server) problems(v control.View) []api.Problem {
	var out []api.Problem
	add := func(r, detail string) {
		if !slices.ContainsFunc(out, func(p api.Problem) bool { return p.Reason == r }) {
			out = append(out, api.Problem{Reason: r, Detail: detail})
		}
	}
	for _, p := range v.Problems {
		add(p.Reason, p.Detail)
	}
	if v.State.RolledBack {
		add(string(reason.StateRollback), reason.StateRollback.Help())
	}
	if s.o.Registrar != nil {
		if st := s.o.Registrar.Status(); st.Reason != "" {
			add(st.Reason, st.LastError)
		}
	}
	return out
}

// snapshot is for metrics.
func (s *Server) snapshot() metrics.Snapshot {
	v := s.view(context.Background())
	st := s.stateOf(v)
	out := metrics.Snapshot{
		State: st.State, Counter: st.Counter, RolledBack: st.RolledBack, Running: v.Container.Running,
		Mounted: v.Volume == volumeMounted, SSHOpen: st.SSH.State == api.SSHOpen, SSHSessions: st.SSH.Active, QuotedAt: v.QuotedAt,
	}
	if st.Registry != nil {
		out.RegistryTold, out.LeaseExpires = st.Registry.Told, st.Registry.Expires
	}
	for _, p := range st.Problems {
		out.Problems = append(out.Problems, p.Reason)
	}
	return out
}

// volumeMounted is control.View's word.
const volumeMounted = "mounted"
