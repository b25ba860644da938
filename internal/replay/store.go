package replay

import (
	"context"
	"time"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/travel"
)

// Block names one block of one stream, and carries what a claim needs to judge it.
type Block struct {
	Scope  string // who delivers: one verifying processor instance, unless shared on purpose
	KID    string // raw bytes of the key's TPM Name
	Epoch  uint64 // ≥ 1
	Stream string
	No     uint64 // ≥ 1, < 2^63

	Seq       uint64       // of the statement that signs it
	Statement block.Digest // receipt.StatementHash of that statement
	Prev      block.Digest // the statement before, as this one names it
	Issued    time.Time    // T of its nonce; zero for freshness "sequence"

	// Total, with Split, is the number of items as signed and Candidates, per
	// arrived item, the indices it may stand for (see digest.Arrived). nil
	// Candidates with a Total: the whole block arrived in order. Total 0: the
	// block is claimed as a whole.
	Total      int
	Candidates [][]uint32

	Location *LatLon // for the status page; nil when absent
	// Travel, when it is there and Location is, has the position held against
	// earlier ones of the key in this scope.
	Travel   *Travel
	Farewell bool // the stream says goodbye with this block
}

// Travel is what is demanded of the way to a position.
type Travel struct {
	Taken    int64   // Unix seconds, when the position was
	Accuracy float64 // metres, 0 when unknown
	MaxSpeed float64 // metres per second
}

// LatLon is a position in degrees, WGS 84.
type LatLon struct{ Latitude, Longitude float64 }

// Claim is the right to deliver, fenced by its token until its lease ends.
type Claim struct {
	Token uint64   // 0: nothing was claimed
	Block Block    // enough to find the window again
	Items []uint32 // the manifest indices that were claimed, with Split; nil = the whole block
}

// Outcome is the answer for one Block of a Claim call.
type Outcome struct {
	// Reason is "" when the block is to be delivered, else one of the reasons
	// of the claim group or stream_invalid.
	Reason reason.Reason
	Claim  Claim
	// Keep, with Split: per arrived item, whether it is to be delivered. nil = all.
	Keep []bool
	// Held, with Split, counts the items among those not kept that are in flight
	// under another claim and may come free again: deliver the rest, then answer
	// retryable. The others that are not kept were accepted before.
	Held int
	// Redelivery: an earlier owner claimed it and never confirmed: it may have been
	// delivered before its process died, its lease ended or its delivery failed.
	// After a crash, or when a window was full of such blocks, it may be set for
	// what nobody had, never the other way round.
	Redelivery bool
	// Late: the block fills a hole that had been reported. Count it when it is confirmed.
	Late bool
	// Travel is set with the reason impossible_travel.
	Travel *travel.Impossible
}

// Store is the contract between verifying processors and the windows. All
// methods are safe for concurrent use. Each method is one atomic step for all
// that it is given, so that windows shared between processes can stand behind it.
type Store interface {
	// Listen says that scope takes part from now on; known ones are kept as they
	// are. What was signed long before is then no gap of it. Durable when it returns.
	Listen(ctx context.Context, now time.Time, scope string) error
	// Claim judges and claims. When it returns it is durable that what was claimed
	// may have been delivered, and that duplicates were accepted. The same block
	// twice within one call is a duplicate the second time. error: reason
	// store_unavailable (or the context's), and then nothing was claimed. No call
	// keeps the slices that it is given.
	Claim(ctx context.Context, now time.Time, blocks []Block) ([]Outcome, error)
	// Confirm makes claims final; durable when it returns without error. A claim
	// whose token is unknown or was overtaken is counted in lost and no error for
	// the others. Claims with token 0, and of epochs that are retired, are ignored. With an error the claims are
	// final in this process but may be forgotten if it dies.
	Confirm(ctx context.Context, now time.Time, claims []Claim) (lost int, err error)
	// Release gives claims back after a delivery that failed. It may have brought
	// the data to some of those behind it, so that whoever claims them next is told
	// of a redelivery. Unknown tokens are ignored.
	Release(ctx context.Context, now time.Time, claims []Claim) error
	// Refused counts a refusal for the status page (kid may be unknown: bounded).
	Refused(scope, kid, stream string, r reason.Reason)
	// Status pages through keys and streams.
	Status(ctx context.Context, q StatusQuery) (StatusPage, error)
	// Sweep reports gaps that are due, closes holes, retires epochs, marks
	// silent streams. Called every second or so. The report is valid even
	// beside an error, which says that what changed is not durable yet.
	Sweep(ctx context.Context, now time.Time) (SweepReport, error)
	// Cleanup removes expired windows now, those of latest epochs too; floors
	// stay. removed counts streams.
	Cleanup(ctx context.Context, now time.Time) (removed int, err error)
}

// StatusQuery asks for a page.
type StatusQuery struct {
	KID    string // raw, empty = all
	Cursor string // StatusPage.Next of the page before, empty = first
	Limit  int    // 1 to 1,000; 0 = 100
}

// StatusPage is one page, ordered by scope, kid, stream, epoch.
type StatusPage struct {
	Streams []StreamStatus
	Next    string // empty on the last page
}

// StreamStatus says how one stream of one epoch stands. Epoch 0 stands for
// what was refused under a name that has no window.
type StreamStatus struct {
	Scope, KID, Stream string
	Epoch              uint64
	Verified           uint64                   // blocks confirmed
	Refused            map[reason.Reason]uint64 // since this process started
	Duplicates         uint64                   // blocks, or fragments of blocks
	GapsOpen           uint64                   // blocks missing now, reported or not
	GapsReported       uint64                   // of those, reported
	GapsClosed         uint64                   // blocks given up
	LateFills          uint64                   // blocks that came after they were reported
	ItemsMissing       uint64                   // items missing now of blocks that arrived in part
	InFlight           uint64                   // blocks claimed, neither confirmed nor released
	LastBlock          uint64                   // highest number confirmed
	LastSeen           time.Time                // of an accepted block
	LastLocation       *LatLon
	Silent, Farewell   bool
}

// SweepReport says what a sweep found. Numbers are since the sweep before,
// but for those that say "now".
type SweepReport struct {
	GapsReported, GapsClosed uint64         // blocks
	LateFills                uint64         // blocks
	ItemsMissing             uint64         // newly reported items of blocks that arrived in part
	EpochsSkipped            uint64         // epochs that a key jumped over
	Silent                   []StreamStatus // newly silent, at most 100
	SilentNow                int            // streams silent now
	LiveEpochs               int            // now
	Streams                  int            // now
}
