package tpmextension

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componentstatus"

	"github.com/telemark-otel/telemark/internal/tpm"
)

func TestNothingFollowsAPermanentErrorButTheEnd(t *testing.T) {
	host := &testHost{}
	var h health
	require.False(t, h.set(stateReady, nil), "not started")
	h.begin(host)
	require.True(t, h.set(stateOpening, errOpening))
	require.True(t, h.set(stateFailing, errors.New("a")))
	require.False(t, h.set(stateFailing, errors.New("a")), "each change is told once")
	require.True(t, h.set(stateFailing, errors.New("b")))
	require.True(t, h.set(stateFailed, errors.New("c")))
	require.False(t, h.set(stateReady, nil))
	got, err := host.status()
	require.Equal(t, componentstatus.StatusPermanentError, got)
	require.EqualError(t, err, "c")

	h.end()
	require.False(t, h.set(stateReady, nil))
	require.Len(t, host.events, 4)
	h.begin(host)
	require.True(t, h.set(stateReady, nil), "another start is another life")
}

func TestOnlyWhatAskingAgainCannotMendIsPermanent(t *testing.T) {
	for _, err := range []error{
		tpm.ErrWrongTPM, tpm.ErrHandleTaken, tpm.ErrKeyDamaged, tpm.ErrUnfit, tpm.ErrContext, tpm.ErrNoParent, tpm.ErrWrongAuth, errStateDamaged, errEpochExceeded, tpm2.TPMRCCurve,
	} {
		require.True(t, fatal(fmt.Errorf("open: %w", err)), "%v", err)
	}
	for _, err := range []error{
		tpm.ErrGone, tpm.ErrTimeout, tpm.ErrInUse, tpm.ErrSWTPMMissing, fs.ErrPermission, fs.ErrNotExist,
		tpm2.TPMRCLockout, tpm2.TPMRCRetry, errors.New("disk full"),
	} {
		require.False(t, fatal(fmt.Errorf("open: %w", err)), "%v", err)
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	require.Contains(t, advice("/dev/tpmrm0", tpm.Permanent, fs.ErrPermission), "tss")
	require.Contains(t, advice("/dev/tpmrm0", tpm.Gone, fs.ErrNotExist), "firmware")
	require.Empty(t, advice("unix:/run/tpm.sock", tpm.Gone, fs.ErrNotExist))
	require.Contains(t, advice("tcp:tpm:2321", tpm.Lockout, tpm2.TPMRCLockout), "dictionarylockout")
}

func TestBackoffGrowsToItsBound(t *testing.T) {
	s := &signer{cfg: &Config{Retry: RetryConfig{InitialInterval: time.Second, MaxInterval: 10 * time.Second, Multiplier: 2}}}
	within := func(attempt int, d time.Duration) {
		got := s.backoff(attempt)
		require.InDelta(t, d.Seconds(), got.Seconds(), 0.2*d.Seconds()+1e-6, "attempt %d", attempt)
	}
	within(0, time.Second)
	within(2, 4*time.Second)
	within(4, 10*time.Second)
	within(100_000, 10*time.Second)
}
