package client

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/tdx"
)

// Known is what was seen of an identity before.
type Known struct {
	Counter      uint64        // the highest; 0 for none
	Measurements *Measurements // those at first; nil for none
}

// Measurements say which image a VM was started from, and into what.
type Measurements struct {
	MRTD  api.Hex    `json:"mrtd"`
	RTMRs [3]api.Hex `json:"rtmrs"` // RTMR0 to RTMR2; the VM itself extends the last one
}

func (m *Measurements) equal(o *Measurements) bool {
	for i := range m.RTMRs {
		if !bytes.Equal(m.RTMRs[i], o.RTMRs[i]) {
			return false
		}
	}
	return bytes.Equal(m.MRTD, o.MRTD)
}

// Memory is what a tool has seen of identities, by the instance key that each
// began with.
type Memory interface {
	// Recall returns what is known; the zero Known of one that is new.
	Recall(origin ed25519.PublicKey) (Known, error)
	// Remember keeps what was seen, durably when it returns. It never lowers a
	// counter.
	Remember(origin ed25519.PublicKey, seen *Seen) error
}

// Seen is what an attestation showed.
type Seen struct {
	URL          string
	Instance     ed25519.PublicKey
	Counter      uint64
	Measurements *Measurements // nil where no quote was verified
}

// Instance is an instance that was verified: it may be signed for.
type Instance struct {
	c *Client

	Key       ed25519.PublicKey
	Statement *statement.Statement // nil with Options.Legacy
	Facts     *statement.Facts     // likewise
	// Quote is what the quote says; nil where it was not verified.
	Quote *tdx.Verified

	counter uint64 // that requests are signed for
}

// Attest finds out who the instance is: instance key, quote under a fresh nonce,
// what it says of itself, and where the connection ends.
func (c *Client) Attest(ctx context.Context) (*Instance, error) {
	key, err := c.Pubkey(ctx)
	if err != nil {
		return nil, err
	}
	if len(c.o.Instance) != 0 && !bytes.Equal(key, c.o.Instance) {
		return nil, doubt(InstanceMismatch, "the instance key is %x, not %x", []byte(key), []byte(c.o.Instance))
	}
	if c.o.Legacy {
		return &Instance{c: c, Key: key}, nil
	}
	if c.o.Quotes == nil {
		return nil, errors.New("nobody to verify quotes")
	}
	nonce := make([]byte, 32)
	rand.Read(nonce)
	var a api.Attestation
	got, err := c.call(ctx, http.MethodGet, api.PathAttestation, url.Values{"nonce": {hex.EncodeToString(nonce)}}, nil, nil, &a)
	if err != nil {
		return nil, err
	}
	i, err := c.judge(ctx, nonce, &a)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(i.Key, key) {
		return nil, doubt(InstanceMismatch, "the attestation is of the instance %x, not of %x", []byte(i.Key), []byte(key))
	}
	if c.channel == Attested {
		if len(got.key) == 0 || !bytes.Equal(got.key, i.Statement.TLSKey) {
			return nil, doubt(TLSKeyMismatch, "the connection ends at the key %x, the instance has %x", got.key, []byte(i.Statement.TLSKey))
		}
		// Connections from before may end elsewhere.
		c.http.CloseIdleConnections()
		c.http = c.dialer(got.key)
	}
	return i, c.remember(i)
}

// judge verifies an attestation: the quote first, then that it was made for this
// nonce and this statement, then the statement.
func (c *Client) judge(ctx context.Context, nonce []byte, a *api.Attestation) (*Instance, error) {
	quote, err := c.quote(ctx, a.Quote)
	if err != nil {
		return nil, err
	}
	if quote.ReportData != statement.AttestData(nonce, a.Statement) {
		return nil, doubt(QuoteMismatch, "the quote is not of this statement, or not for this nonce: it may be an old one")
	}
	s, err := statement.Parse(a.Statement)
	if err != nil {
		return nil, &Doubt{Reason: StatementInvalid, Err: err}
	}
	var rtmr3 [48]byte
	if copy(rtmr3[:], quote.Measurements.RTMRs[3]) != len(rtmr3) {
		return nil, doubt(QuoteRefused, "it has no RTMR3")
	}
	facts, err := s.Judge(rtmr3)
	if err != nil {
		return nil, &Doubt{Reason: StatementInvalid, Err: err}
	}
	i := &Instance{c: c, Key: ed25519.PublicKey(s.Instance), Statement: s, Facts: facts, Quote: quote, counter: s.Counter}
	if len(i.Key) != ed25519.PublicKeySize || len(s.Origin) != ed25519.PublicKeySize {
		return nil, doubt(StatementInvalid, "an instance key of %d bytes", len(i.Key))
	}
	return i, nil
}

func (c *Client) quote(ctx context.Context, raw []byte) (*tdx.Verified, error) {
	quote, err := c.o.Quotes.Verify(ctx, raw, c.o.Now())
	if err != nil {
		return nil, &Doubt{Reason: QuoteRefused, Err: err}
	}
	return quote, nil
}

// Verified reports whether a quote vouches for the instance.
func (i *Instance) Verified() bool {
	_, skipped := i.c.o.Quotes.(Unverified)
	return i.Quote != nil && !skipped
}

// Channel returns what the connection is worth.
func (i *Instance) Channel() Channel { return i.c.channel }

// Locked reports whether the VM was started anew and waits for its volume's key:
// which identity it is, nothing shows before it has it.
func (i *Instance) Locked() bool { return i.Statement != nil && i.Statement.State == statement.Locked }

// Measurements returns what the quote says of the VM's image; nil where it was not
// verified.
func (i *Instance) Measurements() *Measurements {
	if !i.Verified() {
		return nil
	}
	return measurementsOf(i.Quote)
}

func measurementsOf(v *tdx.Verified) *Measurements {
	m := &Measurements{MRTD: api.Hex(v.Measurements.MRTD)}
	for n := range m.RTMRs {
		m.RTMRs[n] = api.Hex(v.Measurements.RTMRs[n])
	}
	return m
}

// remember holds an instance against what is known of its identity, and keeps what
// is new. A locked one has shown no identity yet.
func (c *Client) remember(i *Instance) error {
	if c.o.Memory == nil || i.Locked() {
		return nil
	}
	origin := ed25519.PublicKey(i.Statement.Origin)
	known, err := c.o.Memory.Recall(origin)
	if err != nil {
		return err
	}
	if err := i.Continues(known); err != nil {
		return err
	}
	if !i.Verified() {
		return nil // whoever answered could have said anything
	}
	return c.o.Memory.Remember(origin, &Seen{
		URL: c.o.URL, Instance: i.Key, Counter: i.Statement.Counter, Measurements: i.Measurements(),
	})
}

// Continues holds an instance against what is known of its identity.
func (i *Instance) Continues(known Known) error {
	if s := i.Statement; s.State == statement.RolledBack {
		return doubt(StateRollback, "the instance says so itself: its disk was set back")
	}
	if s := i.Statement; !i.Locked() && s.Counter < known.Counter {
		return doubt(StateRollback, "its counter is %d, and %d was seen: its disk is from before", s.Counter, known.Counter)
	}
	m := i.Measurements()
	if known.Measurements == nil || m == nil || i.c.o.NewMeasurements || m.equal(known.Measurements) {
		return nil
	}
	return doubt(MeasurementsChanged, "%s", m.differ(known.Measurements))
}

func (m *Measurements) differ(o *Measurements) string {
	if !bytes.Equal(m.MRTD, o.MRTD) {
		return fmt.Sprintf("MRTD is %.16s…, and was %.16s…", m.MRTD, o.MRTD)
	}
	for i := range m.RTMRs {
		if !bytes.Equal(m.RTMRs[i], o.RTMRs[i]) {
			return fmt.Sprintf("RTMR%d is %.16s…, and was %.16s…", i, m.RTMRs[i], o.RTMRs[i])
		}
	}
	return ""
}
