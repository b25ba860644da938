package enrol_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tpmattest/attesttest"
	"github.com/telemark-otel/telemark/registryd/internal/enrol"
)

// Software that plays a TPM certifies whatever key it is asked to, also one of
// another machine. While it waits it must not keep that machine out.
func TestWaitingMachineDoesNotHoldAKeyAgainstTheTPMThatHasIt(t *testing.T) {
	w := newWorld(t, func(o *enrol.Options) { o.Queue = enrol.QueueAll })
	tpm := attesttest.New(t)
	honest := w.machineOn(tpm, "")
	squatter := *honest
	tpm.Flush(honest.ek)
	squatter.ek, squatter.certificate = w.machineEK(tpm, "squatter"), nil
	require.Equal(t, honest.kid(), w.pending(&squatter).KID)
	tpm.Flush(squatter.ek)
	honest.ek = w.machineEK(tpm, "")

	w.refused(api.KeyTaken, honest) // waits as well: who came first
	certificate := honest.certificate
	honest.certificate, honest.token = nil, w.newToken(1)
	w.refused(api.KeyTaken, honest) // may be the one who plays
	honest.certificate = certificate
	e := w.enrolled(honest)
	require.Equal(t, api.EvidenceChain, e.Evidence)
	require.Equal(t, honest.hash(t), w.keyRow(honest.kid()).EKHash)
	log := w.log(0)
	require.Contains(t, string(log[len(log)-1].Detail), `"freed_key_of":"`+squatter.hash(t)+`"`)

	tpm.Flush(honest.ek)
	squatter.ek = w.machineEK(tpm, "squatter")
	w.refused(api.KeyTaken, &squatter)
}

// Nobody who only waits, and no machine of ours, fills store and audit log with
// keys.
func TestKeysOfAMachineAreNotChangedWithoutEnd(t *testing.T) {
	w := newWorld(t)
	m := w.newMachine()
	w.pending(m)
	for i := range 5 {
		m.anotherKey(fmt.Sprint("waits", i), attesttest.KeyAttributes)
		w.refused(api.RateLimited, m)
	}
	require.Len(t, w.log(0), 1)
	w.clock.pass(time.Minute)
	w.pending(m)
	require.Len(t, w.log(0), 2)

	m.token = w.newToken(1)
	enrolled := 0
	for i := range 40 {
		m.anotherKey(fmt.Sprint("ours", i), attesttest.KeyAttributes)
		_, err := w.enrol(m)
		if err == nil {
			enrolled++
			continue
		}
		refusedFor(t, api.RateLimited, err)
	}
	require.Equal(t, 20, enrolled)
	w.clock.pass(time.Hour)
	w.enrolled(m)
}

// What strangers try is written too, but must not crowd out that a revoked
// machine comes back.
func TestFloodOfStrangersDoesNotHideARevokedMachine(t *testing.T) {
	w := newWorld(t, func(o *enrol.Options) { o.Roots, o.Intermediates = nil, nil })
	tpm := attesttest.New(t)
	m := w.machineOn(tpm, "")
	m.token = w.newToken(1)
	w.enrolled(m)
	w.revoke(m, true)

	foreign := *w.newToken(1)
	foreign.Secret = question("guessed")
	tpm.Flush(m.ek)
	for i := range 60 {
		stranger := *m
		stranger.ek, stranger.certificate, stranger.token = w.machineEK(tpm, fmt.Sprint("stranger", i)), nil, &foreign
		w.refused(api.KeyTaken, &stranger)
		tpm.Flush(stranger.ek)
	}
	strangers := len(w.log(1))
	require.Positive(t, strangers)
	w.clock.pass(time.Minute)
	m.ek = w.machineEK(tpm, "")
	w.refused(api.MachineRevoked, m)
	log := w.log(1)
	require.Equal(t, m.hash(t), log[len(log)-1].Subject)
	require.Contains(t, string(log[len(log)-1].Detail), `"refused":"machine_revoked"`)

	// A day of it is not a day of entries by the second.
	tpm.Flush(m.ek)
	before := len(w.log(1))
	for i := range 60 {
		w.clock.pass(time.Second)
		stranger := *m
		stranger.ek, stranger.certificate, stranger.token = w.machineEK(tpm, fmt.Sprint("patient", i)), nil, &foreign
		w.refused(api.KeyTaken, &stranger)
		tpm.Flush(stranger.ek)
	}
	require.LessOrEqual(t, len(w.log(1))-before, 2)
}

// The name that a replaced machine will have has to be free, or it could not be
// replaced.
func TestNameOfAReplacedMachineCannotBeAskedFor(t *testing.T) {
	w, m := withToken(t)
	m.name = "edge-a.replaced.0123456789ab"
	w.refused(api.NameInvalid, m)
	m.name = "edge-a.REPLACED.0123456789ab"
	w.refused(api.NameInvalid, m)
}

func TestNameThatReadsLikeAnEKHashCannotBeAskedFor(t *testing.T) {
	w, m := withToken(t)
	m.name = fmt.Sprintf("%X", question("another machine"))
	_, err := w.service.Start(t.Context(), m.start())
	refusedFor(t, api.NameInvalid, err)
}

// A bearer token has a name that people choose. It must not read like the join
// token that let a machine in.
func TestAuditLogTellsJoinTokensFromBearerTokens(t *testing.T) {
	w, m := withToken(t)
	w.enrolled(m)
	require.Equal(t, "join:"+m.token.ID, w.log(0)[0].Actor)
}
