package statement

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/telemark-otel/telemark/internal/strictjson"
)

// Encode returns the one spelling of s, or an error that says what is out of
// bounds: JSON without white space, members in the order of the struct, those
// that are empty left out where they may be, times in UTC, strings without
// anything that would have to be escaped.
func (s *Statement) Encode() ([]byte, error) {
	c := s.canonical()
	if err := c.validate(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(c); err != nil {
		return nil, refuse(Malformed, "%.200q", err.Error())
	}
	raw := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	if len(raw) > Max {
		return nil, refuse(Malformed, "%d bytes, and %d are allowed", len(raw), Max)
	}
	return raw, nil
}

// Parse reads the bytes of a statement and nothing else: any other spelling is
// refused. What the statement says is for Judge to hold against itself.
func Parse(raw []byte) (*Statement, error) {
	if len(raw) > Max {
		return nil, refuse(Malformed, "%d bytes, and %d are allowed", len(raw), Max)
	}
	var s Statement
	if err := strictjson.Unmarshal(raw, &s); err != nil {
		return nil, refuse(Malformed, "%s", err)
	}
	again, err := s.Encode()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, raw) {
		return nil, refuse(Malformed, "it is not spelled as Encode does")
	}
	return &s, nil
}

// canonical is a copy with times in UTC and a list of events that is there.
func (s *Statement) canonical() *Statement {
	c := *s
	if s.Link != nil {
		link := *s.Link
		link.At = link.At.UTC()
		c.Link = &link
	}
	c.SSH.Opened, c.SSH.ListenerClosed, c.SSH.SessionsEnded = utc(s.SSH.Opened), utc(s.SSH.ListenerClosed), utc(s.SSH.SessionsEnded)
	if c.Log.Events == nil {
		c.Log.Events = []Event{}
	}
	return &c
}

func utc(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC()
}

// validate looks at each member by itself.
func (s *Statement) validate() error {
	keys := s.validateKeys()
	switch {
	case s.Version != 1:
		return refuse(Malformed, "version %d, and 1 is known", s.Version)
	case keys != "":
		return refuse(Malformed, "%s has a wrong length", keys)
	case !plain(s.Boot, 64):
		return refuse(Malformed, "boot is no boot id")
	case order(s.State) == unknown:
		return refuse(Malformed, "state %.32q is unknown", s.State)
	case s.Counter > maxCounter:
		return refuse(Malformed, "counter is out of bounds")
	}
	switch s.Step {
	case "", RegisterOwner, Configure, Expose:
	default:
		return refuse(Malformed, "step %.32q is unknown", s.Step)
	}
	switch s.Storage {
	case "", "owner", "vault", "legacy":
	default:
		return refuse(Malformed, "storage %.32q is unknown", s.Storage)
	}
	if w := s.Workload; w != nil && (!plain(w.Image, maxImage) || !isDigest(w.Digest) || w.Port == 0) {
		return refuse(Malformed, "workload is out of bounds")
	}
	for _, t := range s.times() {
		if y := t.Year(); y < 1 || y > 9999 {
			return refuse(Malformed, "a time is out of bounds")
		}
	}
	return s.Log.validate()
}

func (s *Statement) times() []time.Time {
	out := []time.Time{s.SSH.Opened, s.SSH.ListenerClosed, s.SSH.SessionsEnded}
	if s.Link != nil {
		out = append(out, s.Link.At)
	}
	return out
}

// validateKeys names the first member whose length is wrong.
func (s *Statement) validateKeys() string {
	optional := func(b []byte, size int) bool { return len(b) == 0 || len(b) == size }
	switch {
	case len(s.Instance) != ed25519.PublicKeySize:
		return "instance_pubkey"
	case len(s.Origin) != ed25519.PublicKeySize:
		return "origin_pubkey"
	case s.Link != nil && (len(s.Link.Signature) != ed25519.SignatureSize || s.Link.Counter > maxCounter):
		return "link"
	case !optional(s.Operator, ed25519.PublicKeySize):
		return "operator"
	case !optional(s.Owner, ed25519.PublicKeySize):
		return "owner"
	case !optional(s.TLSKey, sha256.Size):
		return "tls_key"
	case !optional(s.SSHHostKey, ed25519.PublicKeySize):
		return "ssh_host_key"
	default:
		return ""
	}
}

func (l *Log) validate() error {
	switch {
	case l.Register != RTMR3 && l.Register != None:
		return refuse(Malformed, "register %.32q is unknown", string(l.Register))
	case l.Register == RTMR3 && len(l.Base) != 48 || l.Register == None && len(l.Base) != 0:
		return refuse(Malformed, "register and base do not fit")
	case len(l.Events) > MaxEvents:
		return refuse(Malformed, "%d events, and %d are allowed", len(l.Events), MaxEvents)
	}
	for i, e := range l.Events {
		if p := e.problem(); p != "" {
			return refuse(Malformed, "event %d: %s", i, p)
		}
	}
	return nil
}

// Validate reports an event that no log may have.
func (e Event) Validate() error {
	if p := e.problem(); p != "" {
		return refuse(Malformed, "%s", p)
	}
	return nil
}

func (e Event) problem() string {
	if !plain(e.Data, maxData) {
		return fmt.Sprintf("its data are not 1 to %d visible ASCII characters without quotes", maxData)
	}
	switch e.Name {
	case Image, SSHClosed:
		at := strings.LastIndexByte(e.Data, '@')
		if at < 1 || at > maxImage || !isDigest(e.Data[at+1:]) {
			return fmt.Sprintf("%.64q is not image@digest", e.Data)
		}
	case SSHOpen:
		key, err := hex.DecodeString(e.Data)
		if err != nil || len(key) != ed25519.PublicKeySize || strings.ToLower(e.Data) != e.Data {
			return fmt.Sprintf("%.64q is no host key", e.Data)
		}
	default:
		return fmt.Sprintf("%.32q is no event", string(e.Name))
	}
	return ""
}

const digestLen = len("sha256:") + 2*sha256.Size

// ImageData is what the events say of a workload, image@digest. An image that
// the owner pinned to this digest is written as it is.
func ImageData(image, digest string) string {
	if strings.HasSuffix(image, "@"+digest) {
		return image
	}
	return image + "@" + digest
}

// plain reports whether s is 1 to most visible ASCII characters, none of which
// JSON would have to escape.
func plain(s string, most int) bool {
	return s != "" && len(s) <= most &&
		!strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '"' || c == '\\' })
}

func isDigest(s string) bool {
	digits, ok := strings.CutPrefix(s, "sha256:")
	_, err := hex.DecodeString(digits)
	return ok && err == nil && len(s) == digestLen && strings.ToLower(digits) == digits
}
