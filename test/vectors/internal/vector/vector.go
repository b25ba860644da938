// Package vector is the form of the frozen test vectors; test/vectors/README.md
// describes it for other implementations.
package vector

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/telemark-otel/telemark/internal/keyfile"
)

// Vector is one case: a verifier, and what arrives at it.
type Vector struct {
	Name   string `json:"name"` // of the file, too
	About  string `json:"about"`
	Signal string `json:"signal"`

	Audience string          `json:"audience"`
	Nonce    NonceSecret     `json:"nonce"`
	MaxDelay Duration        `json:"max_delay"`
	Skew     Duration        `json:"skew"`
	Policy   Policy          `json:"policy"`
	Keys     []keyfile.Entry `json:"keys"`
	// Policies and Regions stand in the key file beside the keys.
	Policies []keyfile.Policy           `json:"policies,omitempty"`
	Regions  map[string]json.RawMessage `json:"regions,omitempty"`
	// UnusualKeys: a record that a key file may refuse, given to the verifier
	// past it.
	UnusualKeys bool `json:"unusual_keys,omitempty"`

	Steps []Step `json:"steps"`
}

// NonceSecret is what the verifier's nonces are made with.
type NonceSecret struct {
	Secret     Hex `json:"secret"`
	StoreEpoch Hex `json:"store_epoch"`
}

// Policy is that of keys that do not say otherwise.
type Policy struct {
	Freshness    string            `json:"freshness"`
	LiveWithin   Duration          `json:"live_within"`
	Bind         map[string]string `json:"bind,omitempty"`
	BindRequired []string          `json:"bind_required,omitempty"`
}

// Step is one moment of the verifier.
type Step struct {
	Now Time `json:"now"`
	// Sweep: holes that are old enough are closed, before the request is taken.
	Sweep   bool   `json:"sweep,omitempty"`
	Request []byte `json:"request,omitempty"`
	// Unreadable: the request is no OTLP, and refused as a whole.
	Unreadable bool    `json:"unreadable,omitempty"`
	Expect     []Block `json:"expect,omitempty"`
	// Decoded, when it is there, is what a verifier says that does not see the
	// bytes of the request, but what the Collector's decoder makes of them.
	Decoded *Decoded `json:"decoded,omitempty"`
}

// Decoded stands instead of Unreadable and Expect.
type Decoded struct {
	Unreadable bool    `json:"unreadable,omitempty"`
	Expect     []Block `json:"expect,omitempty"`
}

// Block is what is to be said of one block. Only verified blocks have more than
// a verdict.
type Block struct {
	Verdict string `json:"verdict"` // verified or a reason

	Digest    Hex `json:"digest,omitempty"`    // block digest
	Leaf      Hex `json:"leaf,omitempty"`      // leaf hash
	Root      Hex `json:"root,omitempty"`      // of the tree
	Statement Hex `json:"statement,omitempty"` // statement hash

	Items *Items `json:"items,omitempty"`
	// Added are the resource keys that enrich let through.
	Added  []string `json:"added,omitempty"`
	Claims *Claims  `json:"claims,omitempty"`
}

// Items counts the items of a block.
type Items struct {
	Signed   int `json:"signed"`
	Arrived  int `json:"arrived"`
	Accepted int `json:"accepted"`
	// Places are the accepted items' indices in the manifest, ascending, unless
	// the block was signed without one, or arrived whole and as the first.
	Places []int `json:"places,omitempty"`
}

// Claims are what the receipt says.
type Claims struct {
	KID       Hex       `json:"kid"`
	Name      string    `json:"name"` // of the key
	UEID      Hex       `json:"ueid"`
	Epoch     uint64    `json:"epoch"`
	Seq       uint64    `json:"seq"`
	Size      uint64    `json:"size"`
	Prev      Hex       `json:"prev"`
	Stream    string    `json:"stream"`
	Block     uint64    `json:"block"`
	IssuedAt  int64     `json:"iat"`                  // Unix seconds
	NonceTime *Time     `json:"nonce_time,omitempty"` // T
	Freshness string    `json:"freshness"`
	Location  *Location `json:"location,omitempty"`
}

// Location is the location claim.
type Location struct {
	Latitude  float64  `json:"latitude"`
	Longitude float64  `json:"longitude"`
	Altitude  *float64 `json:"altitude,omitempty"`
	Accuracy  *float64 `json:"accuracy,omitempty"`
	Timestamp *int64   `json:"timestamp,omitempty"`
	Age       *int64   `json:"age,omitempty"`
	Source    string   `json:"source"`
}

// Hex is bytes in lower-case hexadecimal.
type Hex []byte

// MarshalText implements encoding.TextMarshaler.
func (h Hex) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hex) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// Duration is written like 24h or 30s.
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	x, err := time.ParseDuration(string(text))
	*d = Duration(x)
	return err
}

// Time is RFC 3339 in UTC with milliseconds.
type Time struct{ time.Time }

const timeForm = "2006-01-02T15:04:05.000Z"

// MarshalText implements encoding.TextMarshaler.
func (t Time) MarshalText() ([]byte, error) { return []byte(t.UTC().Format(timeForm)), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *Time) UnmarshalText(text []byte) (err error) {
	t.Time, err = time.Parse(timeForm, string(text))
	return err
}

// MarshalJSON stands before the method of time.Time.
func (t Time) MarshalJSON() ([]byte, error) {
	text, err := t.MarshalText()
	return append(append([]byte{'"'}, text...), '"'), err
}

// UnmarshalJSON stands before the method of time.Time.
func (t *Time) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	return t.UnmarshalText([]byte(s))
}

// Encode returns the content of the vector's file.
func (v *Vector) Encode() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	err := e.Encode(v)
	return b.Bytes(), err
}

// Read reads a vector's file, strictly.
func Read(path string) (*Vector, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(content))
	d.DisallowUnknownFields()
	v := &Vector{}
	if err := d.Decode(v); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if base := filepath.Base(path); base != v.Name+".json" {
		return nil, fmt.Errorf("%s is called %q inside", path, v.Name)
	}
	return v, nil
}
