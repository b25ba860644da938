package enrol_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/registryd/internal/enrol"
)

// withToken is a world and a machine in it that would be enrolled.
func withToken(t testing.TB) (*world, *machine) {
	w := newWorld(t)
	m := w.newMachine()
	m.token = w.newToken(1)
	return w, m
}

func refusedComplete(t *testing.T, w *world, reason api.Reason, r *api.EnrolmentComplete) {
	t.Helper()
	_, err := w.complete(r)
	refusedFor(t, reason, err)
	require.Empty(t, w.events(), "nothing may be written")
}

func TestReplayedRequestIsRefused(t *testing.T) {
	w, m := withToken(t)
	r := w.request(m)
	_, err := w.complete(r)
	require.NoError(t, err)
	_, err = w.complete(r)
	refusedFor(t, api.SessionUsed, err)
	require.Len(t, w.events(), 1)
}

// A machine that waits proves the same once only, too.
func TestReplayedRequestOfAPendingMachineIsRefused(t *testing.T) {
	w := newWorld(t)
	r := w.request(w.newMachine())
	_, err := w.complete(r)
	require.NoError(t, err)
	_, err = w.complete(r)
	refusedFor(t, api.SessionUsed, err)
}

func TestSessionIsRefused(t *testing.T) {
	w, m := withToken(t)
	r := w.request(m)
	for name, session := range map[string][]byte{
		"none": nil, "short": r.Session[:11], "cut": r.Session[:len(r.Session)-1], "long": append(slices.Clone(r.Session), 0),
		"too large": make([]byte, api.MaxSession+1), "zeros": make([]byte, len(r.Session)),
	} {
		t.Run(name, func(t *testing.T) {
			bad := *r
			bad.Session = session
			refusedComplete(t, w, api.SessionMalformed, &bad)
		})
	}
	for i := range r.Session {
		bad := *r
		bad.Session = slices.Clone(r.Session)
		bad.Session[i] ^= 1
		_, err := w.complete(&bad)
		require.Equal(t, api.SessionMalformed, api.ReasonOf(err), "byte %d", i)
	}
}

func TestSessionOfAnotherRegistryIsRefused(t *testing.T) {
	w, m := withToken(t)
	other := newWorld(t, func(o *enrol.Options) { o.SealKey = question("another seal") })
	r := w.request(m)
	_, err := other.complete(r)
	refusedFor(t, api.SessionMalformed, err)
}

// A replica with the same key opens it.
func TestSessionIsOpenedByAnotherReplica(t *testing.T) {
	w, m := withToken(t)
	replica, err := enrol.New(w.options)
	require.NoError(t, err)
	_, err = replica.Complete(t.Context(), w.request(m), peer)
	require.NoError(t, err)
}

func TestExpiredSessionIsRefused(t *testing.T) {
	w, m := withToken(t)
	r := w.request(m)
	w.clock.pass(2 * time.Minute)
	refusedComplete(t, w, api.SessionExpired, r)
}

func TestSessionForOtherKeysIsRefused(t *testing.T) {
	w, m := withToken(t)
	r := w.request(m)
	for name, change := range map[string]func(*api.EnrolmentComplete){
		"EK":  func(r *api.EnrolmentComplete) { r.EK = slices.Clone(r.EK); r.EK[len(r.EK)-1] ^= 1 },
		"AK":  func(r *api.EnrolmentComplete) { r.AK = r.Key },
		"key": func(r *api.EnrolmentComplete) { r.Key = r.AK },
		"bytes moved from EK to AK": func(r *api.EnrolmentComplete) {
			all := slices.Concat(r.EK, r.AK)
			r.EK, r.AK = all[:len(r.EK)-1], all[len(r.EK)-1:]
		},
	} {
		t.Run(name, func(t *testing.T) {
			bad := *r
			change(&bad)
			refusedComplete(t, w, api.SessionMismatch, &bad)
		})
	}
}
