package audit

import (
	"encoding/hex"
	"time"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/verdict"
)

// Finding is what is known of one block: the claims of its receipt, and what
// became of them. Without a receipt that can be read, Claims is nil.
type Finding struct {
	File  string `json:"file,omitempty"`
	Where string `json:"where,omitempty"` // line, message or document
	Index int    `json:"index"`           // of the block in its request

	Signal string `json:"signal"`
	Items  int    `json:"items"`

	Verdict string `json:"verdict"` // "verified", "unproven_tpm", "unverified" or a reason
	Detail  string `json:"detail,omitempty"`
	Differs string `json:"differs,omitempty"` // the part that differs, where that is known

	// Archived is the verdict that a verifier had written into the data.
	Archived string `json:"archived_verdict,omitempty"`

	Claims *Claims `json:"receipt,omitempty"`

	passed    bool         // every check was passed
	statement block.Digest // zero unless passed
	prev      block.Digest
	total     int
	indices   [][]uint32
}

// Claims are what the receipt says. They are the sender's word until the
// verdict is "verified".
type Claims struct {
	KID       string     `json:"kid"`
	Name      string     `json:"name,omitempty"` // of the key, with keys
	Stream    string     `json:"stream"`
	Block     uint64     `json:"block"`
	Epoch     uint64     `json:"epoch"`
	Seq       uint64     `json:"seq"`
	Leaf      uint64     `json:"leaf"`
	Size      uint64     `json:"size"`
	Algorithm int64      `json:"alg"` // COSE
	Audience  string     `json:"aud"`
	IssuedAt  time.Time  `json:"iat"`
	NonceTime *time.Time `json:"nonce_time,omitempty"` // T; its MAC is not checked here
	Nonce     string     `json:"nonce,omitempty"`
	UEID      string     `json:"ueid"`
	Location  *Location  `json:"location,omitempty"`
	Digest    string     `json:"digest"`
	Prev      string     `json:"prev"`
	Tolerate  []string   `json:"tolerate"`
	Keys      []string   `json:"signed_keys,omitempty"` // of the resource, with enrich
	Added     []string   `json:"added_keys,omitempty"`  // on the way, with enrich
	Items     uint64     `json:"items_as_signed"`
}

// Location is the location claim.
type Location struct {
	Latitude  float64    `json:"latitude"`
	Longitude float64    `json:"longitude"`
	Altitude  *float64   `json:"altitude_m,omitempty"`
	Accuracy  *float64   `json:"accuracy_m,omitempty"`
	Taken     *time.Time `json:"taken,omitempty"`
	Age       *int64     `json:"age_s,omitempty"`
	Source    string     `json:"source"`
}

// OK reports whether nothing speaks against the block.
func (f *Finding) OK() bool { return f.passed || f.Verdict == Unverified }

func (f *Finding) fill(v *verdict.Verdict) {
	f.Differs = v.Arrived.Differs
	if v.Receipt == nil {
		return
	}
	r, s := v.Receipt, v.Receipt.Statement
	f.statement, f.prev = v.Statement, s.Prev
	f.total, f.indices = v.Arrived.Total, v.Arrived.Candidates
	f.Claims = &Claims{
		KID: hex.EncodeToString(s.KID), Stream: r.Stream, Block: r.BlockNo, Epoch: s.Epoch, Seq: s.Seq,
		Leaf: r.LeafIndex, Size: r.TreeSize, Algorithm: int64(s.Algorithm), Audience: s.Audience,
		IssuedAt: time.Unix(s.IssuedAt, 0).UTC(), Nonce: hex.EncodeToString(s.Nonce), UEID: hex.EncodeToString(s.UEID),
		Digest: hex.EncodeToString(r.Digest[:]), Prev: hex.EncodeToString(s.Prev[:]),
		Items: r.Items, Keys: r.Keys, Added: v.Arrived.Added, Tolerate: []string{},
	}
	c := f.Claims
	if t, ok := nonceTime(s.Nonce); ok {
		c.NonceTime = &t
	}
	if v.Key != nil {
		c.Name = v.Key.Name
	}
	if v.Tolerances.Has(block.Split) {
		c.Tolerate = append(c.Tolerate, "split")
	}
	if v.Tolerances.Has(block.Enrich) {
		c.Tolerate = append(c.Tolerate, "enrich")
	}
	if l := s.Location; l != nil {
		c.Location = &Location{Latitude: l.Latitude, Longitude: l.Longitude, Altitude: l.Altitude, Accuracy: l.Accuracy, Age: l.Age, Source: l.Source}
		if l.Timestamp != nil {
			t := time.Unix(*l.Timestamp, 0).UTC()
			c.Location.Taken = &t
		}
	}
}
