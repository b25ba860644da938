package tpmsignprocessor

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/processor/processortest"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/processor/tpmsignprocessor/internal/metadata"
)

// branches is what the collector puts before several exporters that all change
// data: each gets a copy but the last, which gets the original.
type branches []consumer.Logs

func (branches) Capabilities() consumer.Capabilities { return consumer.Capabilities{MutatesData: true} }

func (b branches) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	var errs error
	last := len(b) - 1
	for _, next := range b[:last] {
		own := plog.NewLogs()
		ld.CopyTo(own)
		errs = errors.Join(errs, next.ConsumeLogs(ctx, own))
	}
	return errors.Join(errs, b[last].ConsumeLogs(ctx, ld))
}

// changer accepts data and changes it, as a queue does that makes one request of
// many: at once, or when it gets to it.
type changer struct {
	*verifier
	atOnce bool
	later  sync.WaitGroup
}

func (c *changer) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	err := c.verifier.ConsumeLogs(ctx, ld)
	c.later.Go(func() { ld.ResourceLogs().MoveAndAppendTo(plog.NewLogs().ResourceLogs()) })
	if c.atOnce {
		c.later.Wait()
	}
	return err
}

// What is changed later is a data race, so the race detector has to say it.
func TestRequestThatOneBranchOwnsIsKeptForTheOtherThatRefusedIt(t *testing.T) {
	for name, atOnce := range map[string]bool{"changed at once": true, "changed later": false} {
		t.Run(name, func(t *testing.T) { refusedByOneOfTwo(t, atOnce) })
	}
}

func refusedByOneOfTwo(t *testing.T, atOnce bool) {
	refuses, owns := newVerifier(block.Logs), &changer{verifier: newVerifier(block.Logs), atOnce: atOnce}
	refuses.fail = func(n int) error {
		if n == 1 {
			return errDown
		}
		return nil
	}
	s := newLogsSUT(t, branches{refuses, owns}).start(hostWith(newFakeTPM(t, 1)))
	require.NoError(t, s.send(logsOf("a")))
	require.Eventually(t, func() bool { return len(refuses.accepted()) == 1 }, time.Minute, time.Millisecond)
	s.stop()
	owns.later.Wait()
	for _, next := range []*verifier{refuses, owns.verifier} {
		next.requireValid(t)
		require.Equal(t, []string{"a"}, next.accepted())
		require.Empty(t, next.gaps())
	}
}

// TestRequestsThatAnExporterMergedAndRefusedAreKept takes the queue of
// exporters that merges requests and answers when they are delivered.
func TestRequestsThatAnExporterMergedAndRefusedAreKept(t *testing.T) {
	next := newVerifier(block.Logs)
	next.fail = func(n int) error {
		if n == 1 {
			return errDown
		}
		return nil
	}
	cfg := exporterhelper.NewDefaultQueueConfig()
	cfg.WaitForResult = true
	cfg.Batch = configoptional.Some(exporterhelper.BatchConfig{
		Sizer: exporterhelper.RequestSizerTypeItems, MinSize: 2, FlushTimeout: 50 * time.Millisecond,
	})
	queue, err := exporterhelper.NewLogs(t.Context(), exportertest.NewNopSettings(metadata.Type), struct{}{}, next.ConsumeLogs,
		exporterhelper.WithQueue(configoptional.Some(cfg)))
	require.NoError(t, err)
	require.True(t, queue.Capabilities().MutatesData)
	require.NoError(t, queue.Start(t.Context(), componenttest.NewNopHost()))
	s := newLogsSUT(t, queue).start(hostWith(newFakeTPM(t, 1)))

	var callers sync.WaitGroup
	for _, name := range []string{"a", "b"} {
		callers.Go(func() { assert.NoError(t, s.send(logsOf(name))) })
	}
	callers.Wait()
	require.Eventually(t, func() bool { return len(next.accepted()) == 2 }, time.Minute, time.Millisecond)
	s.stop()
	require.NoError(t, queue.Shutdown(t.Context()))
	next.requireValid(t)
	require.ElementsMatch(t, []string{"a", "b"}, next.accepted())
	require.Empty(t, next.gaps())
}

// newLogsSUT is a processor for logs in front of a component of the collector's.
func newLogsSUT(t *testing.T, next consumer.Logs) *sut {
	t.Helper()
	set := processortest.NewNopSettings(metadata.Type)
	set.ID = component.MustNewIDWithName("tpmsign", "edge")
	c, err := createLogs(t.Context(), set, testConfig(), next)
	require.NoError(t, err)
	return &sut{signer: c.(*signer), tb: t}
}
