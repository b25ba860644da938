package tpmverifyprocessor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/collector/consumer/consumererror"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/replay"
	"github.com/telemark-otel/telemark/internal/verdict"
)

// Errors that ask the sender to send again. They are plain errors, which
// receivers answer with Unavailable or 503.
var (
	errInFlight  = errors.New("tpmverify: another request is delivering a block of this one, send again")
	errDeferred  = errors.New("tpmverify: a block of this request cannot be judged now and cannot be parked, send again")
	errNoWindows = errors.New("tpmverify: the replay windows cannot be written, send again")

	errUnconfirmed = errors.New("tpmverify: the data was handed on and the replay windows cannot be written, send again")
)

// fate says what becomes of a block.
type fate int

const (
	fateUnset    fate = iota
	fateClaim         // verified, to be claimed
	fateDeliver       // verified and, but in mode check, claimed
	fateBeat          // verified and claimed, but not handed on
	fateUnsigned      // without receipt, handed on as Config.Unsigned says
	fateRefused       // for good
	fateRepeated      // accepted before
	fateInFlight      // another request is delivering it
	fateDeferred      // cannot be decided now
)

// judged is what is known of one block of a request.
type judged struct {
	verdict.Verdict
	fate    fate
	beat    beat
	outcome replay.Outcome
	items   int // claimed
	total   int // arrived

	// Of a verified block that goes on: the next component owns it then, and may
	// refuse it.
	handed        bool
	service, host string
}

// round is one pass over a batch: judge, claim, deliver, settle. A request
// takes more than one when it waits for blocks that are in flight elsewhere. Its
// slices are used again by later ones.
type round struct {
	p       *verifier
	batch   digest.Batch
	now     time.Time
	blocks  []judged
	wanted  []replay.Block // to be claimed
	claimed []int          // indices into blocks, in the order of wanted
	claims  []replay.Claim

	// What the judge looks at: the block that it is at, and the nonces.
	content    digest.Block
	attributes attributes
	nonces     nonceMemo

	// flying and deferred hold the blocks that were taken out of the batch: in
	// flight elsewhere, or not to be decided now.
	flying, deferred aside
	refusals         []refusal
}

var rounds = sync.Pool{New: func() any { return new(round) }}

// maxKeptBlocks bounds the slices that are kept for later requests.
const maxKeptBlocks = 256

// begin makes r ready for a batch.
func (r *round) begin(p *verifier, in digest.Batch) {
	n := in.Len()
	r.clear()
	*r = round{
		p: p, batch: in, now: p.now(), nonces: nonceMemo{authority: p.nonceAuthority()},
		blocks: slices.Grow(r.blocks[:0], n)[:n], wanted: r.wanted[:0], claimed: r.claimed[:0], claims: r.claims[:0],
	}
}

func (r *round) clear() {
	clear(r.blocks)
	clear(r.wanted)
	clear(r.claims)
}

// end forgets the batch, so that nothing of it is kept by what waits for the next one.
func (r *round) end() {
	if cap(r.blocks) > maxKeptBlocks {
		return
	}
	r.clear()
	*r = round{blocks: r.blocks[:0], wanted: r.wanted[:0], claimed: r.claimed[:0], claims: r.claims[:0]}
	rounds.Put(r)
}

// nonceMemo asks once for the nonce that one block after the other was signed under.
type nonceMemo struct {
	authority  verdict.NonceAuthority // nil: nonces cannot be checked
	nonce, kid []byte
	issued     time.Time
	err        error
}

// Audience implements verdict.NonceAuthority.
func (m *nonceMemo) Audience() string { return m.authority.Audience() }

// Check implements verdict.NonceAuthority.
func (m *nonceMemo) Check(nonce, kid []byte) (time.Time, error) {
	if m.kid == nil || !bytes.Equal(m.nonce, nonce) || !bytes.Equal(m.kid, kid) {
		m.issued, m.err = m.authority.Check(nonce, kid)
		m.nonce, m.kid = nonce, kid
	}
	return m.issued, m.err
}

// aside is a batch that is only made when it is needed.
type aside struct {
	batch digest.Batch
	made  bool
}

func (a *aside) make(signal block.Signal) digest.Batch {
	if !a.made {
		a.batch, a.made = digest.NewBatch(signal), true
	}
	return a.batch
}

// verify handles one request. It returns nil only when every block of it was
// delivered, parked, found accepted before, or refused for good; a block that
// is bad never makes it return an error.
func (p *verifier) verify(ctx context.Context, in digest.Batch) error {
	deadline := p.now().Add(p.cfg.InFlightWait)
	var (
		deferred aside
		failed   error
	)
	keys := p.watchKeys()
	r := rounds.Get().(*round)
	defer r.end()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		r.begin(p, in)
		err := r.pass(ctx)
		if err != nil && !consumererror.IsPermanent(err) {
			return err
		}
		failed = errors.Join(failed, err)
		if r.deferred.made {
			moveAll(r.deferred.batch, deferred.make(p.signal))
		}
		if !r.flying.made && deferred.made && keys.wait(ctx) {
			in, deferred = deferred.batch, aside{}
			continue
		}
		if !r.flying.made {
			break
		}
		in = r.flying.batch
		left := deadline.Sub(p.now())
		if left <= 0 || !sleep(ctx, min(pause, left)) {
			p.meters.add(ctx, p.meters.TpmverifyInFlightRetries, 1)
			return errInFlight
		}
	}
	if deferred.made {
		if err := p.postpone(ctx, deferred.batch); err != nil {
			return err
		}
	}
	// What the next component refused for good comes last: had a block still
	// been waiting, the sender would have to send again.
	return failed
}

const (
	firstPause = 5 * time.Millisecond
	lastPause  = 100 * time.Millisecond
)

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func moveAll(from, to digest.Batch) {
	for i := range from.Len() {
		from.MoveBlock(i, to)
	}
}

// pass is one round over a batch that is all that is known of it.
func (p *verifier) pass(ctx context.Context, in digest.Batch) (*round, error) {
	r := new(round)
	r.begin(p, in)
	return r, r.pass(ctx)
}

// pass is one round. The error is the next component's, or says that nothing
// was claimed or that what was claimed is not settled.
func (r *round) pass(ctx context.Context) error {
	var nonces verdict.NonceAuthority
	if r.nonces.authority != nil {
		nonces = &r.nonces
	}
	for i := range r.blocks {
		r.judge(i, nonces)
	}
	if err := r.claim(ctx); err != nil {
		return err
	}
	m := r.p.meters
	m.TpmverifyVerifyDuration.Record(ctx, r.p.now().Sub(r.now).Seconds(), m.record...)
	return r.deliver(ctx)
}

func (r *round) judge(i int, nonces verdict.NonceAuthority) {
	b, j := r.batch.At(i), &r.blocks[i]
	r.content, r.attributes = b, attributes{b.Attributes()}
	r.p.judge.Block(&j.Verdict, &r.content, &r.attributes, nonces, r.now)
	if j.Reason == "" && len(j.Arrived.Added) > 0 && r.p.cfg.Enrich.Action == EnrichRefuse {
		j.Reason, j.Detail = reason.ResourceEnriched, "enrich: refuse is configured here"
		j.Arrived.Differs = "resource"
	}
	switch {
	case j.Reason == "":
		j.fate, j.beat = fateClaim, beatOf(b)
	case j.Reason == reason.ReceiptMissing:
		r.unsigned(b, j)
	case j.Reason.Class() == reason.ClassTransient:
		j.fate = fateDeferred
	default:
		j.fate = fateRefused
	}
}

// unsigned decides about a block without receipt. Letting some through must not
// let through what pretends to be verified, nor what pretends to come from a
// machine that signs. Who puts a verdict on himself is told from who merely does
// not sign, also where both are dropped.
func (r *round) unsigned(b digest.Block, j *judged) {
	j.fate = fateRefused
	found, detail := refusalOf(b.Inspect())
	if found == reason.ReservedAttribute {
		j.Reason, j.Detail = found, detail
		return
	}
	if r.p.cfg.Unsigned == UnsignedDrop {
		return
	}
	if live, ok := r.p.keys.(liveKeys); ok && !live.Known() {
		j.Reason, j.Detail = reason.KeyUnavailable, "it is not known yet which machines are enrolled"
		j.fate = fateDeferred
		return
	}
	for key, value := range b.Attributes().All() {
		if r.p.keys.Binds(key) && r.p.keys.Names(key, textOf(value)) {
			j.Detail = "the resource names an enrolled machine by " + key
			return
		}
	}
	if found != "" {
		j.Reason, j.Detail = found, detail
		return
	}
	j.fate = fateUnsigned
}

func refusalOf(err error) (reason.Reason, string) {
	if err == nil {
		return "", ""
	}
	if e, ok := errors.AsType[*reason.Error](err); ok {
		return e.Reason, e.Detail
	}
	return reason.InvalidValue, err.Error()
}

// claim takes the windows' word for all verified blocks at once.
func (r *round) claim(ctx context.Context) error {
	windows := r.p.windows
	for i := range r.blocks {
		j := &r.blocks[i]
		if j.fate != fateClaim {
			continue
		}
		if windows == nil {
			j.fate = fateDeliver
			continue
		}
		r.wanted = append(r.wanted, r.replayBlock(j))
		r.claimed = append(r.claimed, i)
	}
	if len(r.wanted) == 0 {
		return nil
	}
	bounded, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	outcomes, err := windows.Claim(bounded, r.now, r.wanted)
	if err == nil && len(outcomes) != len(r.wanted) {
		err = fmt.Errorf("%d outcomes for %d blocks", len(outcomes), len(r.wanted))
	}
	if err != nil {
		return errors.Join(errNoWindows, err)
	}
	for k, i := range r.claimed {
		j := &r.blocks[i]
		j.outcome = outcomes[k]
		j.settleFate(r.p.cfg)
		if j.outcome.Reason == "" {
			r.claims = append(r.claims, j.outcome.Claim)
		}
	}
	return nil
}

func (j *judged) settleFate(cfg *Config) {
	j.Reason = j.outcome.Reason
	if bad := j.outcome.Travel; bad != nil {
		j.Detail = fmt.Sprintf("%.0f km from the position of %s, %s between them", bad.Metres/1000,
			time.Unix(bad.From.At, 0).UTC().Format(time.RFC3339), time.Duration(abs(bad.To.At-bad.From.At))*time.Second)
	}
	switch {
	case j.Reason == "" && j.beat != noBeat && cfg.dropsHeartbeats():
		j.fate = fateBeat
	case j.Reason == "":
		j.fate = fateDeliver
	case j.Reason == reason.InFlight:
		j.fate = fateInFlight
	case j.Reason == reason.Duplicate:
		j.fate = fateRepeated
	case j.Reason.Class() == reason.ClassTransient:
		j.fate = fateDeferred
	default:
		j.fate = fateRefused
	}
}

func (r *round) replayBlock(j *judged) replay.Block {
	s := j.Receipt.Statement
	b := replay.Block{
		Scope:     r.p.scope,
		KID:       j.Key.KID,
		Epoch:     s.Epoch,
		Stream:    j.Receipt.Stream,
		No:        j.Receipt.BlockNo,
		Seq:       s.Seq,
		Statement: j.Statement,
		Prev:      s.Prev,
		Issued:    j.Issued,
		Farewell:  j.beat == farewell,
	}
	if j.Tolerances.Has(block.Split) {
		b.Total, b.Candidates = j.Arrived.Total, j.Arrived.Candidates
	}
	if s.Location != nil {
		b.Location = &replay.LatLon{Latitude: s.Location.Latitude, Longitude: s.Location.Longitude}
		if j.MaxSpeed > 0 {
			b.Travel = &replay.Travel{Taken: j.Taken, MaxSpeed: j.MaxSpeed}
			if s.Location.Accuracy != nil {
				b.Travel.Accuracy = *s.Location.Accuracy
			}
		}
	}
	return b
}

func abs(n int64) int64 { return max(n, -n) }
