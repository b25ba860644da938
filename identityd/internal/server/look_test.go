package server_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/control"
	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/registrar"
	"github.com/telemark-otel/telemark/identityd/internal/sshd"
	"github.com/telemark-otel/telemark/identityd/internal/workload"
	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/identity/statement"
)

type told struct{ status registrar.Status }

func (t *told) Status() registrar.Status { return t.status }

type events struct{}

func (events) View() statement.Log {
	return statement.Log{Register: statement.RTMR3, Base: make([]byte, 48), Events: []statement.Event{{Name: statement.SSHOpen, Data: "00"}}}
}

func TestStateSaysHowThingsStand(t *testing.T) {
	registry := &told{registrar.Status{URL: "http://registry", Reason: "registry_unreachable", LastError: "connection refused"}}
	r := newRig(t, func(s *settings) {
		s.Registrar, s.Events = registry, events{}
		s.Fixed.TLS = &api.TLS{Port: 3443, Key: make(api.Hex, 32)}
		s.Fixed.SSH = api.SSH{Port: 2222, HostKey: make(api.Hex, 32)}
		s.Fixed.Warnings = []string{"dev: what is for development only is allowed"}
		s.Fixed.RequireTLS = true
	})
	s := ok[api.State](t, r.do(http.MethodGet, api.PathState, nil))
	require.Equal(t, "fresh", s.State)
	require.Equal(t, api.SSHNeverOpened, s.SSH.State)
	require.True(t, s.Linked)
	require.Equal(t, api.Hex(r.machine.Instance()), s.Instance)
	require.Equal(t, []api.Problem{{Reason: "registry_unreachable", Detail: "connection refused"}}, s.Problems)
	require.False(t, s.Registry.Told)
	require.Len(t, s.EventLog.Events, 1)
	require.Equal(t, "owner", s.Storage.Source)
	require.True(t, s.RequireTLS)

	r.owned()
	opened := time.Now()
	r.control.view = func(v *control.View) {
		v.SSH = &sshd.Facts{OpenedAt: opened, Active: 1, Logins: 2}
		v.Container = workload.Status{Phase: workload.Configured, Running: true, ImageDigest: "sha256:ab"}
		v.Volume, v.VolumeID, v.QuotedAt = "mounted", make([]byte, 16), time.Now().Add(-time.Minute)
	}
	ok[api.Done](t, r.do(http.MethodPost, "/workload/configure", r.configuration(), signed(r.owner)))
	s = ok[api.State](t, r.do(http.MethodGet, api.PathState, nil))
	require.Equal(t, "workload_configured", s.State)
	require.Equal(t, public(r.operator), s.Operator)
	require.Equal(t, public(r.owner), s.Owner)
	require.Equal(t, image, s.Workload.Image)
	require.True(t, s.Container.Running)
	require.Equal(t, api.SSHOpen, s.SSH.State)
	require.Equal(t, "mounted", s.Storage.Volume)
	require.Len(t, s.Storage.ID, 16)
	require.InDelta(t, 60, s.Quote.Age, 5)
	r.control.view = nil
	require.Equal(t, api.SSHDown, ok[api.State](t, r.do(http.MethodGet, api.PathState, nil)).SSH.State)

	ok[api.Done](t, r.do(http.MethodPost, "/workload/expose", r.exposure(), signed(r.owner)))
	s = ok[api.State](t, r.do(http.MethodGet, api.PathState, nil))
	require.Equal(t, api.SSHClosed, s.SSH.State)
	require.False(t, s.SSH.SessionsEnded.IsZero())
}

func TestHealthTellsWhatIsWrongAndStaysTwoHundred(t *testing.T) {
	r := newRig(t)
	require.JSONEq(t, `{"status":"ok","version":"test","state":"fresh"}`, string(r.do(http.MethodGet, "/health", nil).body))
	r.control.view = func(v *control.View) {
		v.Problems = []control.Problem{{Reason: "podman_missing", Detail: "nothing answers"}}
		v.State.RolledBack = true
	}
	got := r.do(http.MethodGet, "/health", nil)
	require.Equal(t, http.StatusOK, got.StatusCode)
	h := ok[api.Health](t, got)
	require.Equal(t, api.HealthDegraded, h.Status)
	require.Equal(t, "podman_missing", h.Problems[0].Reason)
	require.Equal(t, string(reason.StateRollback), h.Problems[1].Reason)
	text := string(r.do(http.MethodGet, "/metrics", nil).body)
	for _, line := range []string{
		`telemark_identity_state{state="fresh"} 1`, `telemark_identity_problem{reason="podman_missing"} 1`,
		`telemark_identity_rolled_back 1`, `telemark_identity_requests_total{code="200",reason="",route="/health"} 2`,
	} {
		require.Contains(t, text, line)
	}
}

func TestRegistryThatIsDownIsToldAndHoldsNothingUp(t *testing.T) {
	r := newRig(t)
	r.control.pending = reason.Refuse(reason.RegistryUnreachable, "connection refused")
	got := r.do(http.MethodPost, "/operator/register", r.role(r.operator))
	require.Equal(t, http.StatusAccepted, got.StatusCode)
	d := ok[api.Done](t, got)
	require.Equal(t, api.Done{
		Status: "success", OwnerToken: d.OwnerToken, Registry: "pending", Reason: "registry_unreachable", Error: "connection refused",
	}, *d)
	require.Len(t, d.OwnerToken, 64)
	require.Contains(t, string(r.do(http.MethodGet, "/metrics", nil).body), `telemark_identity_steps_total{action="register_operator",registry="pending"} 1`)
}

func TestAnswersOfTheOlderFormHoldNoMemberMore(t *testing.T) {
	r := newRig(t)
	require.JSONEq(t, `{"error":"there is no header x-token","reason":"token_missing"}`,
		string(r.do(http.MethodPost, "/owner/register", r.role(r.owner)).body))
	e := refused(t, reason.TokenMissing, r.do(http.MethodPost, api.PathRegisterOwner, r.role(r.owner)))
	require.Equal(t, reason.TokenMissing.Help(), e.Help)
}

func TestDescriptionIsServed(t *testing.T) {
	require.Contains(t, string(newRig(t).do(http.MethodGet, "/v1/openapi.yaml", nil).body), "openapi: 3.0.3")
}
