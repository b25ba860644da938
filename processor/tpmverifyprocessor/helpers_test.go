package tpmverifyprocessor

import (
	"crypto/rand"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/receipt"
)

var signals = []block.Signal{block.Metrics, block.Logs, block.Traces}

func random(b []byte) error {
	_, err := rand.Read(b)
	return err
}

// itemAttributes are those of the first item.
func itemAttributes(b digest.Batch) pcommon.Map {
	switch b.Signal() {
	case block.Metrics:
		return b.Metrics().ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0).Gauge().DataPoints().At(0).Attributes()
	case block.Logs:
		return b.Logs().ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Attributes()
	default:
		return b.Traces().ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).Attributes()
	}
}

func scopeOf(b digest.Batch) pcommon.InstrumentationScope {
	switch b.Signal() {
	case block.Metrics:
		return b.Metrics().ResourceMetrics().At(0).ScopeMetrics().At(0).Scope()
	case block.Logs:
		return b.Logs().ResourceLogs().At(0).ScopeLogs().At(0).Scope()
	default:
		return b.Traces().ResourceSpans().At(0).ScopeSpans().At(0).Scope()
	}
}

func appendEmptyScope(b digest.Batch) {
	switch b.Signal() {
	case block.Metrics:
		b.Metrics().ResourceMetrics().At(0).ScopeMetrics().AppendEmpty()
	case block.Logs:
		b.Logs().ResourceLogs().At(0).ScopeLogs().AppendEmpty()
	default:
		b.Traces().ResourceSpans().At(0).ScopeSpans().AppendEmpty()
	}
}

// changeValue changes what an item says.
func changeValue(b digest.Batch) {
	switch b.Signal() {
	case block.Metrics:
		b.Metrics().ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0).Gauge().DataPoints().At(0).SetDoubleValue(42)
	case block.Logs:
		b.Logs().ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Body().SetStr("order 0 refused")
	default:
		b.Traces().ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).SetEndTimestamp(42)
	}
}

func proofOf(t testing.TB, b digest.Block) digest.Proof {
	t.Helper()
	p, err := b.Proof()
	require.NoError(t, err)
	return p
}

// transplant puts the proof of from on to.
func transplant(t testing.TB, from, to digest.Block) {
	t.Helper()
	p := proofOf(t, from)
	to.StripProof()
	to.Attach(p)
}

// rewrite changes the receipt of a signed block.
func rewrite(t testing.TB, b digest.Block, change func(*receipt.Receipt)) {
	t.Helper()
	p := proofOf(t, b)
	r, err := receipt.Decode(p.Receipt)
	require.NoError(t, err)
	change(r)
	p.Receipt, err = r.Encode()
	require.NoError(t, err)
	b.StripProof()
	b.Attach(p)
}
