// Package group is the group commit of docs/spec/receipt.md §7: blocks from all
// pipelines wait while one signature is in flight, and the next one covers all
// that wait.
//
//	Submit ──▶ waiting (FIFO, bounded) ──close──▶ numbered, tree built
//	              │ Cancel                             │
//	              ▼                        ┌──▶ claims, statement, Save ∥ Sign ──┐
//	          never numbered               └──────────── backoff ◀── failed ─────┤
//	                                                                             ▼
//	                                                                  receipts, ticket done
//
// A group is closed when the signer is free, so groups grow with the load and
// a lone block waits for nobody. Each signature costs its computer time and a
// durable write, so a fast signer may be kept at a pace. A closed group is never abandoned: its blocks
// have numbers, and a number that never comes is a gap at the verifier.
//
// Left out: opening the TPM, fetching nonces and storing the chain, which are
// behind [Signer], [Config.Claims] and [Chain].
package group

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/receipt"
)

// Defaults and bounds of [Config].
const (
	DefaultMaxGroup   = 4096
	DefaultMaxWaiting = 1 << 16
)

// Errors of Submit and of a ticket's Result.
var (
	// ErrFull: as many leaves wait as may wait. Later it may work.
	ErrFull = errors.New("too many blocks wait to be signed")
	// ErrClosed: the committer does not sign any more.
	ErrClosed = errors.New("signing is shut down")
	// ErrCancelled is the result of a cancelled ticket.
	ErrCancelled = errors.New("blocks were taken back before they were signed")
	// ErrLeaf: a leaf cannot be put into a receipt, now or later.
	ErrLeaf = errors.New("block cannot be signed")
)

// Leaf is one block that waits to be signed. The committer numbers it.
type Leaf struct {
	Signal     block.Signal
	Tolerances block.Tolerance
	Stream     string
	Items      uint64   // of the block, 1 to receipt.MaxItems
	Keys       []string // with Enrich, and not nil then; see receipt.CheckKeys
	Digest     block.Digest
}

func (l *Leaf) check() error {
	switch l.Signal {
	case block.Metrics, block.Logs, block.Traces:
	default:
		return fmt.Errorf("%w: %v", ErrLeaf, l.Signal)
	}
	if !l.Tolerances.Valid() || l.Tolerances.Has(block.Enrich) != (l.Keys != nil) {
		return fmt.Errorf("%w: key list and %v do not go together", ErrLeaf, l.Tolerances)
	}
	if err := block.CheckStream(l.Stream); err != nil {
		return fmt.Errorf("%w: %w", ErrLeaf, err)
	}
	if l.Items == 0 || l.Items > receipt.MaxItems {
		return fmt.Errorf("%w: %d items", ErrLeaf, l.Items)
	}
	if err := receipt.CheckKeys(l.Keys); err != nil {
		return fmt.Errorf("%w: %w", ErrLeaf, err)
	}
	return nil
}

// hash is the leaf hash under the number that the block got.
func (l *Leaf) hash(no uint64) block.Digest {
	leaf := receipt.Leaf{
		Signal: l.Signal, Tolerances: l.Tolerances, Stream: l.Stream, BlockNo: no,
		Items: l.Items, Digest: l.Digest,
	}
	if l.Keys != nil {
		keys := receipt.KeyListDigest(l.Keys)
		leaf.Keys = &keys
	}
	return leaf.Hash()
}

// Signed is what a block gets. Receipt is nil for a block that was not signed.
type Signed struct {
	Receipt []byte // encoded; tickets do not share memory
	Epoch   uint64
	Seq     uint64
	BlockNo uint64
}

// Signer makes one attempt to sign Origin.Algorithm's digest of a Sig_structure. It is called by one goroutine at a time and should return
// soon once ctx is done. The committer repeats what failed, with other claims.
type Signer interface {
	Sign(ctx context.Context, digest []byte) (sig []byte, err error)
}

// Chain keeps the state that outlives the process. Save is durable when it
// returns nil; it runs while the signer works and before any receipt of the
// statement is given out. It is called by one goroutine at a time.
type Chain interface {
	Save(ctx context.Context, s State) error
}

// State names the last statement that may have been given out. At the next
// start, Prev is what the first statement of the new epoch carries, and that
// epoch is above Epoch.
type State struct {
	Epoch uint64
	Seq   uint64
	Prev  block.Digest // receipt.StatementHash of that statement
}

const (
	stateVersion = 1
	stateSize    = 1 + 8 + 8 + 32
)

// MarshalBinary returns the stored form of s:
//
//	01 | epoch 8 | seq 8 | prev 32
func (s State) MarshalBinary() ([]byte, error) {
	b := append(make([]byte, 0, stateSize), stateVersion)
	b = binary.BigEndian.AppendUint64(b, s.Epoch)
	b = binary.BigEndian.AppendUint64(b, s.Seq)
	return append(b, s.Prev[:]...), nil
}

// UnmarshalBinary reads what MarshalBinary wrote.
func (s *State) UnmarshalBinary(b []byte) error {
	if len(b) != stateSize || b[0] != stateVersion {
		return fmt.Errorf("chain state of %d bytes is not one of version %d", len(b), stateVersion)
	}
	s.Epoch = binary.BigEndian.Uint64(b[1:])
	s.Seq = binary.BigEndian.Uint64(b[9:])
	s.Prev = block.Digest(b[17:])
	return nil
}

// Origin is where an epoch of a key begins.
type Origin struct {
	Algorithm receipt.Algorithm
	KID       []byte // TPM Name of the key
	// Epoch is above that of every committer of the key before, and durable, or
	// derived from what is.
	Epoch uint64
	// Prev is the State.Prev that was saved last, zero when there is none.
	Prev block.Digest
}

// Claims stand in a statement. They are gathered for each attempt to sign, so
// that an outage does not end with a nonce of its beginning.
type Claims struct {
	Audience string
	Nonce    []byte
	UEID     []byte
	Location *receipt.Location
	IssuedAt time.Time
}

// Stage is the part of an attempt that failed.
type Stage string

// The stages.
const (
	StageBegin  Stage = "begin"
	StageClaims Stage = "claims" // gathering them, or they do not make a statement
	StageSign   Stage = "sign"
	StageSave   Stage = "save"
)

// Stats tell of one signed group.
type Stats struct {
	Seq      uint64
	Leaves   int
	Attempts int           // 1 when the first one succeeded
	Signing  time.Duration // the successful call of Sign
	Total    time.Duration // from the closing of the group to its receipts
}

// Observer is told what happens, by one goroutine at a time, and must not block.
type Observer interface {
	GroupSigned(s Stats)
	AttemptFailed(stage Stage, attempt int, err error)
}

type noObserver struct{}

func (noObserver) GroupSigned(Stats)               {}
func (noObserver) AttemptFailed(Stage, int, error) {}

// Config of a [Committer].
type Config struct {
	// The origin, when it is known from the start; see Origin.
	Algorithm receipt.Algorithm
	KID       []byte
	Epoch     uint64
	Prev      block.Digest
	// Begin finds it out otherwise and may block: leaves wait meanwhile and can be
	// taken back. It is called once before the first group, again after an error,
	// and its ctx ends at once when the committer is closed.
	Begin func(ctx context.Context) (Origin, error)

	MaxGroup   int // leaves per signature, up to receipt.MaxTreeSize; 0 = DefaultMaxGroup
	MaxWaiting int // leaves that wait for a group; 0 = DefaultMaxWaiting
	// Pace is how long after a group was closed the next one is, at the soonest,
	// when blocks wait already as the signer becomes free; 0 = at once. A signer
	// that takes longer is not slowed down, and neither is a block that comes while
	// none waits.
	Pace time.Duration

	Signer Signer
	// Chain may be nil: then nothing tells the next epoch what this one ended with.
	Chain Chain
	// Claims gathers the claims of one attempt and may block, by one goroutine at
	// a time. Those of a first attempt are gathered before its group is closed:
	// while there are none, waiting leaves can be taken back.
	Claims func(ctx context.Context) (Claims, error)
	// Backoff says how long to wait after attempt 1, 2, … has failed.
	Backoff  func(attempt int) time.Duration
	Observer Observer // nil = nobody
}

func (c *Config) setDefaults() error {
	if c.Signer == nil || c.Claims == nil || c.Backoff == nil {
		return errors.New("group: signer, claims and backoff are required")
	}
	if c.Begin == nil {
		if err := (Origin{Algorithm: c.Algorithm, KID: c.KID, Epoch: c.Epoch}).check(); err != nil {
			return fmt.Errorf("group: %w", err)
		}
	}
	if c.MaxGroup == 0 {
		c.MaxGroup = DefaultMaxGroup
	}
	if c.MaxGroup < 0 || c.MaxGroup > receipt.MaxTreeSize {
		return fmt.Errorf("group: %d leaves per signature, want 1 to %d", c.MaxGroup, receipt.MaxTreeSize)
	}
	if c.MaxWaiting == 0 {
		c.MaxWaiting = DefaultMaxWaiting
	}
	if c.Pace < 0 {
		return fmt.Errorf("group: pace of %v, want 0 or more", c.Pace)
	}
	if c.MaxWaiting < 0 {
		return fmt.Errorf("group: %d waiting leaves, want 1 or more", c.MaxWaiting)
	}
	if c.Observer == nil {
		c.Observer = noObserver{}
	}
	return nil
}

func (o Origin) check() error {
	if o.Algorithm.SignatureSize() == 0 {
		return fmt.Errorf("%s is not known", o.Algorithm)
	}
	if len(o.KID) == 0 {
		return errors.New("no kid")
	}
	if o.Epoch == 0 || o.Epoch > receipt.MaxCounter {
		return fmt.Errorf("epoch %d, want 1 to 2^63-1", o.Epoch)
	}
	return nil
}
