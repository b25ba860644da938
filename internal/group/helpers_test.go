package group

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/receipt"
)

var errTPM = errors.New("TPM does not answer")

// slowSigner takes its time, fails as told and remembers what it signed. Its
// signature repeats the digest, so that tests can tell what was signed.
type slowSigner struct {
	took time.Duration

	mu       sync.Mutex
	fail     func(attempt int) error
	attempts int
	running  int
	digests  [][32]byte
}

func (s *slowSigner) Sign(ctx context.Context, digest []byte) ([]byte, error) {
	s.mu.Lock()
	s.attempts++
	s.running++
	attempt, running, fail := s.attempts, s.running, s.fail
	s.mu.Unlock()
	if running > 1 {
		panic("two signatures in flight")
	}
	var err error
	select {
	case <-time.After(s.took):
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
	if err == nil && fail != nil {
		err = fail(attempt)
	}
	if err != nil {
		return nil, err
	}
	s.digests = append(s.digests, [32]byte(digest))
	return fakeSignature([32]byte(digest)), nil
}

func fakeSignature(digest [32]byte) []byte {
	return append(digest[:], digest[:]...)
}

// disk is a Chain that remembers, and fails as told.
type disk struct {
	took time.Duration

	mu     sync.Mutex
	fail   func(n int) error
	saves  int
	stored []byte // MarshalBinary of the last state
}

func (d *disk) Save(_ context.Context, s State) error {
	time.Sleep(d.took)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.saves++
	if d.fail != nil {
		if err := d.fail(d.saves); err != nil {
			return err
		}
	}
	var err error
	d.stored, err = s.MarshalBinary()
	return err
}

// state is what is stored, zero when nothing is.
func (d *disk) state(t testing.TB) State {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	var s State
	if d.stored == nil {
		return s
	}
	require.NoError(t, s.UnmarshalBinary(d.stored))
	return s
}

// recorder is an Observer.
type recorder struct {
	mu     sync.Mutex
	groups []Stats
	failed []Stage
}

func (r *recorder) GroupSigned(s Stats) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.groups = append(r.groups, s)
}

func (r *recorder) AttemptFailed(stage Stage, _ int, _ error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = append(r.failed, stage)
}

// signed waits until nothing moves any more and returns what was signed.
func (r *recorder) signed() []Stats {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.groups)
}

func (r *recorder) sizes() []int {
	var out []int
	for _, g := range r.signed() {
		out = append(out, g.Leaves)
	}
	return out
}

func (r *recorder) stages() []Stage {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.failed)
}

var testKID = append([]byte{0, 0x0b}, make([]byte, 32)...)

// testClaims tell the time of the attempt in iat.
func testClaims(context.Context) (Claims, error) {
	return Claims{
		Audience: "test", Nonce: make([]byte, 32),
		UEID: receipt.UEID("test", testKID), IssuedAt: time.Now(),
	}, nil
}

func testConfig(s Signer) Config {
	return Config{
		Algorithm: receipt.ES256, KID: testKID, Epoch: 5,
		Signer: s, Claims: testClaims,
		Backoff: func(int) time.Duration { return time.Second },
	}
}

func newCommitter(t testing.TB, cfg Config) *Committer {
	t.Helper()
	c, err := New(cfg)
	require.NoError(t, err)
	return c
}

func closeNow(t testing.TB, c *Committer) {
	t.Helper()
	require.NoError(t, c.Close(context.Background()))
}

func submit(t testing.TB, c *Committer, leaves ...Leaf) *Ticket {
	t.Helper()
	ticket, err := c.Submit(leaves)
	require.NoError(t, err)
	return ticket
}

// someLeaves returns n leaves of a stream with digests of their own.
func someLeaves(stream string, n int) []Leaf {
	out := make([]Leaf, n)
	for i := range out {
		out[i] = leaf(stream, i)
	}
	return out
}

func leaf(stream string, i int) Leaf {
	b := binary.BigEndian.AppendUint64([]byte(stream), uint64(i))
	return Leaf{Signal: block.Metrics, Stream: stream, Items: uint64(i + 1), Digest: sha256.Sum256(b)}
}

// verified decodes a receipt, holds it against its leaf and returns it with the
// hash of its statement.
func verified(t testing.TB, l Leaf, s Signed) (*receipt.Receipt, block.Digest) {
	t.Helper()
	r, err := receipt.Decode(s.Receipt)
	require.NoError(t, err)
	require.Equal(t, s.BlockNo, r.BlockNo)
	require.Equal(t, s.Epoch, r.Statement.Epoch)
	require.Equal(t, s.Seq, r.Statement.Seq)
	require.Equal(t, l.Stream, r.Stream)
	require.Equal(t, l.Digest, r.Digest)
	require.Equal(t, l.Items, r.Items)
	require.Equal(t, l.Keys, r.Keys)
	root, err := r.Root(l.hash(s.BlockNo))
	require.NoError(t, err)
	sigStructure := receipt.SigStructure(r.Protected, root)
	require.Equal(t, fakeSignature(sha256.Sum256(sigStructure)), r.Signature)
	return r, receipt.StatementHash(sigStructure)
}

// results waits for a ticket that is to be signed whole and verifies it.
func results(t testing.TB, ticket *Ticket) []Signed {
	t.Helper()
	signed, err := ticket.Result()
	require.NoError(t, err)
	require.Len(t, signed, len(ticket.leaves))
	for i := range signed {
		verified(t, ticket.leaves[i], signed[i])
	}
	return signed
}

func isDone(ticket *Ticket) bool {
	select {
	case <-ticket.Done():
		return true
	default:
		return false
	}
}

// waiting is the number of leaves that wait for a group.
func (s Snapshot) waiting() int { return s.Waiting - s.Flying }
