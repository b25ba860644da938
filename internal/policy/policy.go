// Package policy says what an authentic block must fulfil beyond being
// authentic: that its key is known to be in a TPM (evidence), that its resource
// names the machine of its key and no other (bind), that it was signed recently
// enough (freshness), and that the machine asserted a position that is allowed
// (location, with areas as GeoJSON of RFC 7946, named or drawn in place). It is
// the relying party's appraisal policy in the terms of RFC 9334.
//
// It is pure: it reads no clock, no file and no telemetry. It leaves out the
// geometry itself (package geo), and what needs to know earlier positions of a
// key (package travel).
package policy

import (
	"fmt"
	"iter"
	"time"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
)

// DefaultLiveWithin is the age of a nonce up to which a block is live.
const DefaultLiveWithin = 5 * time.Minute

// Freshness is how much is known about when a block was signed. The order of
// the values is the order of strength.
type Freshness int

// The degrees of freshness.
const (
	// Unjudged means that nobody was there who could check nonces (mode check
	// on a gateway without any).
	Unjudged Freshness = iota
	// Sequence means that the statement has no nonce: only epochs and
	// numbers protect against replay.
	Sequence
	// Stale means that the nonce is authentic and older than LiveWithin.
	Stale
	// Live means that the nonce is authentic and was young at arrival.
	Live
)

// String returns the word that stands in configurations and attributes.
func (f Freshness) String() string {
	switch f {
	case Unjudged:
		return "unjudged"
	case Sequence:
		return "sequence"
	case Stale:
		return "stale"
	case Live:
		return "live"
	default:
		return fmt.Sprintf("freshness(%d)", int(f))
	}
}

// ParseFreshness reads a freshness that can be required.
func ParseFreshness(s string) (Freshness, error) {
	switch s {
	case "sequence":
		return Sequence, nil
	case "stale":
		return Stale, nil
	case "live":
		return Live, nil
	default:
		return Unjudged, fmt.Errorf("freshness %q is not known, take live, stale or sequence", s)
	}
}

// Policy is what is demanded of the blocks of one key. It is immutable once in
// use and may be shared by keys.
type Policy struct {
	// Genuine refuses what keys sign whose evidence is Unproven.
	Genuine bool

	Bind []Binding

	// Freshness is the least that is accepted. With Sequence, statements
	// without nonce are accepted too.
	Freshness Freshness
	// LiveWithin is the age of a nonce up to which it is live; not above it.
	LiveWithin time.Duration

	// Location is nil when any position, or none, will do.
	Location *Location

	// Regions are the areas that the location policies of keys may name when
	// they are read; they demand nothing themselves.
	Regions *Regions
}

// Degree returns the freshness of a nonce issued at issued, at its arrival.
func (p *Policy) Degree(issued, now time.Time) Freshness {
	if now.Sub(issued) <= p.LiveWithin {
		return Live
	}
	return Stale
}

// Attributes gives policy the resource attributes that the signer covered.
type Attributes interface {
	// Values yields the value of every attribute with this key, in the form
	// of text. A key can stand in a resource more than once, and nobody knows
	// which one a reader further on takes, so that each of them counts.
	Values(key string) iter.Seq[string]
}

// Facts is what is known of an authentic block.
type Facts struct {
	Name       string            // of the key
	Labels     map[string]string // of the key
	Evidence   Evidence          // of the key
	Attributes Attributes
	Freshness  Freshness
	Location   *block.Location
	// Signed is the latest moment that the agent and its nonce name as the
	// time of signing: the later one of iat and T.
	Signed time.Time
}

// Judge returns nil when f is allowed, else a *reason.Error of class policy.
func (p *Policy) Judge(f *Facts) error {
	if p.Genuine && !f.Evidence.Genuine() {
		return reason.New(reason.UnprovenTPM, "evidence genuine is required, a join token alone vouches for the key")
	}
	for i := range p.Bind {
		if err := p.Bind[i].judge(f); err != nil {
			return err
		}
	}
	if f.Freshness != Unjudged && f.Freshness < p.Freshness {
		return reason.New(reason.NotFresh, "freshness is %s, %s is required", f.Freshness, p.Freshness)
	}
	if p.Location == nil {
		return nil
	}
	return p.Location.judge(f.Location, f.Signed)
}
