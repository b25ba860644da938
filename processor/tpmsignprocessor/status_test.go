package tpmsignprocessor

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componentstatus"

	"github.com/telemark-otel/telemark/internal/block"
)

// statusHost is a host that is told how components are.
type statusHost struct {
	fakeHost

	mu     sync.Mutex
	events []*componentstatus.Event
}

func (h *statusHost) Report(e *componentstatus.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
}

// statuses returns what was reported since the last call.
func (h *statusHost) statuses() (out []componentstatus.Status) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		out = append(out, e.Status())
	}
	h.events = nil
	return out
}

func TestStorageThatCannotBeWrittenIsTheStatusUntilItCan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad, good := componentstatus.StatusRecoverableError, componentstatus.StatusOK
		files := &brokenStorage{Extension: openFiles(t, t.TempDir())}
		tpm := newFakeTPM(t, 1)
		host := &statusHost{fakeHost: fakeHost{tpmID: tpm, storageID: files}}
		next := newVerifier(block.Logs)
		s := newSUT(t, testConfig(withStorage), next).start(host)
		send := func() error { return s.send(logsOf("a")) }

		files.broken.Store(true)
		require.NoError(t, send())
		require.Empty(t, host.statuses(), "what goes through needs no storage")
		tpm.unready.Store(true)
		require.ErrorIs(t, send(), errPendingStorage)
		require.ErrorIs(t, host.events[0].Err(), errPendingStorage)
		require.ErrorIs(t, send(), errPendingStorage)
		require.Equal(t, []componentstatus.Status{bad}, host.statuses(), "said once")
		files.broken.Store(false)
		require.NoError(t, send())
		require.Equal(t, []componentstatus.Status{good}, host.statuses(), "it is kept")

		files.broken.Store(true)
		require.ErrorIs(t, send(), errPendingStorage)
		tpm.unready.Store(false)
		require.NoError(t, send())
		require.Equal(t, []componentstatus.Status{bad}, host.statuses(), "the TPM comes and goes")
		time.Sleep(calm + time.Second)
		require.NoError(t, send())
		require.Equal(t, []componentstatus.Status{good}, host.statuses(), "nothing needs the storage any more")

		next.failWith(func(int) error { return errors.New("down") })
		files.broken.Store(true)
		time.AfterFunc(time.Second, func() { files.broken.Store(false) })
		require.NoError(t, send(), "it waits for the storage")
		require.Equal(t, []componentstatus.Status{bad, good}, host.statuses())
		next.failWith(func(int) error { return nil })
		time.Sleep(time.Minute)
		s.stop()
		require.Empty(t, host.statuses())
		next.requireContiguous(t)
	})
}
