package tpmextension

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componentstatus"

	"github.com/telemark-otel/telemark/extension/tpmextension/internal/metadatatest"
)

func TestNonceOutageGoesOnUnderTheLastNonce(t *testing.T) {
	nonces := newNonceStub(t)
	a := startAgent(t, &testHost{}, testConfig("swtpm:"+shortDir(t), t.TempDir(), noncesFrom(nonces)))
	a.sign(t, leaves("s", 1))
	nonces.set(true, nil)
	require.Eventually(t, func() bool { return a.Status().NonceError != "" }, patience, time.Millisecond)
	last := nonces.nonce(nonces.count())
	require.Equal(t, last, a.sign(t, leaves("s", 1))[0].Statement.Nonce)
	require.Equal(t, last, a.sign(t, leaves("s", 1))[0].Statement.Nonce)
	require.True(t, a.CanSign())

	nonces.set(false, nil)
	require.Eventually(t, func() bool {
		return !bytes.Equal(last, a.sign(t, leaves("s", 1))[0].Statement.Nonce)
	}, patience, 20*time.Millisecond)
}

func TestFirstGroupWaitsForTheFirstNonce(t *testing.T) {
	nonces := newNonceStub(t)
	nonces.set(true, nil)
	host := &testHost{}
	a := startAgent(t, host, testConfig("swtpm:"+shortDir(t), t.TempDir(), noncesFrom(nonces)))
	ticket := a.submit(t, leaves("s", 2))
	require.Eventually(t, func() bool { return a.Status().State == "failing" }, patience, time.Millisecond)
	pending(t, ticket, "there is no nonce")
	require.ErrorIs(t, host.waitFor(t, componentstatus.StatusRecoverableError), errNoNonce)
	metadatatest.AssertEqualTPMUp(t, a.telemetry, points(point(0)), loose)

	nonces.set(false, nil)
	require.Len(t, signed(t, ticket), 2)
	require.NoError(t, host.waitFor(t, componentstatus.StatusOK))
	metadatatest.AssertEqualTPMUp(t, a.telemetry, points(point(1)), loose)
}

func TestNonceOfAnotherKeyIsNotSigned(t *testing.T) {
	nonces := newNonceStub(t)
	nonces.set(false, testKID)
	a := startAgent(t, &testHost{}, testConfig("swtpm:"+shortDir(t), t.TempDir(), noncesFrom(nonces)))
	ticket := a.submit(t, leaves("s", 1))
	require.Eventually(t, func() bool { return nonces.count() >= 2 }, patience, time.Millisecond)
	pending(t, ticket, "the nonce is another key's")
	require.Contains(t, a.Status().NonceError, errAnswerKID.Error())

	nonces.set(false, nil)
	signed(t, ticket)
}

func TestTPMKilledAndBackKeepsTheTicket(t *testing.T) {
	soft := newSoftware(t)
	soft.start(t)
	host := withStorage(t, t.TempDir())
	a := startAgent(t, host, testConfig(soft.device(), t.TempDir(), stored))
	before := a.sign(t, leaves("s", 3))

	soft.kill()
	l := leaves("s", 4)
	ticket := a.submit(t, l)
	require.Error(t, host.waitFor(t, componentstatus.StatusRecoverableError))
	require.False(t, a.CanSign())
	pending(t, ticket, "the TPM is gone")
	require.Equal(t, 4, a.Status().Waiting)

	soft.start(t)
	after := a.verify(t, l, signed(t, ticket))
	require.Equal(t, uint64(4), after[0].BlockNo, "no gap")
	require.Equal(t, before[0].Statement.Seq+1, after[0].Statement.Seq)
	require.Equal(t, statementHash(t, before[0]), after[0].Statement.Prev)
	require.NoError(t, host.waitFor(t, componentstatus.StatusOK))
	require.True(t, a.CanSign())
}

func TestMissingTPMNeverBlocksTheStartAndIsTakenWhenItAppears(t *testing.T) {
	soft := newSoftware(t)
	host := withStorage(t, t.TempDir())
	began := time.Now()
	a := startAgent(t, host, testConfig(soft.device(), t.TempDir(), stored))
	require.Less(t, time.Since(began), 2*time.Second)
	l := leaves("s", 5)
	ticket := a.submit(t, l)
	require.Error(t, host.waitFor(t, componentstatus.StatusRecoverableError))
	pending(t, ticket, "there is no TPM")
	require.Nil(t, a.KID())

	soft.start(t)
	require.Equal(t, uint64(1), a.verify(t, l, signed(t, ticket))[0].BlockNo)
	require.NoError(t, host.waitFor(t, componentstatus.StatusOK))
}

func TestShutdownDoesNotWaitForADeadTPM(t *testing.T) {
	soft := newSoftware(t)
	soft.start(t)
	cfg := testConfig(soft.device(), t.TempDir())
	a := startAgent(t, &testHost{}, cfg)
	a.sign(t, leaves("s", 1))
	soft.kill()
	ticket := a.submit(t, leaves("s", 1))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	_ = a.Shutdown(ctx)
	require.Less(t, time.Since(began), patience/2)
	<-ticket.Done()
	_, err := ticket.Result()
	require.Error(t, err, "what was not signed is said to be not signed")
}
