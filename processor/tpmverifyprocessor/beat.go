package tpmverifyprocessor

import (
	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
)

// beat says whether a block is a sign of life instead of a user's data.
type beat int

const (
	noBeat beat = iota
	heartbeat
	farewell
)

const farewellName = "telemark.farewell"

// beatOf recognises heartbeats by their scope, which signers take out of
// users' data: whoever says so in a verified block is the signer itself.
func beatOf(b digest.Block) beat {
	switch b.Signal() {
	case block.Metrics:
		scopes := b.Metrics().ScopeMetrics()
		if scopes.Len() != 1 || scopes.At(0).Scope().Name() != digest.HeartbeatScope {
			return noBeat
		}
		metrics := scopes.At(0).Metrics()
		return named(metrics.Len() > 0 && metrics.At(0).Name() == farewellName)
	case block.Logs:
		scopes := b.Logs().ScopeLogs()
		if scopes.Len() != 1 || scopes.At(0).Scope().Name() != digest.HeartbeatScope {
			return noBeat
		}
		records := scopes.At(0).LogRecords()
		return named(records.Len() > 0 && records.At(0).EventName() == farewellName)
	case block.Traces:
		scopes := b.Traces().ScopeSpans()
		if scopes.Len() != 1 || scopes.At(0).Scope().Name() != digest.HeartbeatScope {
			return noBeat
		}
		spans := scopes.At(0).Spans()
		return named(spans.Len() > 0 && spans.At(0).Name() == farewellName)
	default:
		return noBeat
	}
}

func named(isFarewell bool) beat {
	if isFarewell {
		return farewell
	}
	return heartbeat
}
