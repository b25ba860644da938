package tpmextension

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/telemark-otel/telemark/internal/nonce"
)

// Errors of a nonce answer.
var (
	errAnswerMalformed = errors.New("nonce answer is not the JSON object that it must be")
	errAnswerTooLarge  = errors.New("nonce answer is larger than 64 KiB")
	errAnswerKID       = errors.New("nonce answer is for another key")
	errAnswerAudience  = errors.New("nonce answer is for another audience; compare `audience` here and at the nonce server")
	errAnswerNonce     = errors.New("nonce is not 32 to 64 bytes in lower-case hex")
	errAnswerExpired   = errors.New("nonce answer expires before it was issued")
)

// answer is what a nonce server said:
//
//	{"nonce": hex, "kid": hex, "issued_at": RFC 3339, "expires_at": RFC 3339, "audience": string, optional}
type answer struct {
	nonce    []byte
	issued   time.Time // by the server's clock
	lifetime time.Duration
	age      time.Duration // of an answer that a relay had kept
}

// answerRules hold an answer against the question.
type answerRules struct {
	kid      []byte
	audience string
}

// parse is strict: one object of unique known members, exact in case, all
// strings, nothing behind it.
func (r answerRules) parse(body []byte) (answer, error) {
	members, err := stringMembers(body, "nonce", "kid", "issued_at", "expires_at", "audience")
	if err != nil {
		return answer{}, err
	}
	if kid, err := hex.DecodeString(members["kid"]); err != nil || !bytes.Equal(kid, r.kid) {
		return answer{}, fmt.Errorf("%w: asked for %x, got %.80q", errAnswerKID, r.kid, members["kid"])
	}
	if aud, ok := members["audience"]; ok && aud != r.audience {
		return answer{}, fmt.Errorf("%w: ours is %q, got %.140q", errAnswerAudience, r.audience, aud)
	}
	n, err := hex.DecodeString(members["nonce"])
	if err != nil || len(n) < nonce.MinLen || len(n) > nonce.MaxLen {
		return answer{}, fmt.Errorf("%w: %d characters", errAnswerNonce, len(members["nonce"]))
	}
	issued, err := time.Parse(time.RFC3339Nano, members["issued_at"])
	if err != nil {
		return answer{}, fmt.Errorf("%w: issued_at: %w", errAnswerMalformed, err)
	}
	expires, err := time.Parse(time.RFC3339Nano, members["expires_at"])
	if err != nil {
		return answer{}, fmt.Errorf("%w: expires_at: %w", errAnswerMalformed, err)
	}
	// For its age only the difference counts: the server's clock need not agree with ours.
	lifetime := expires.Sub(issued)
	if lifetime <= 0 {
		return answer{}, fmt.Errorf("%w: issued %v, expires %v", errAnswerExpired, issued, expires)
	}
	return answer{nonce: n, issued: issued, lifetime: lifetime}, nil
}

// said returns what a refusal says: its error member, or its first bytes.
func said(body []byte) string {
	if members, err := stringMembers(body, "error", "reason", "rejected_by", "validation_type"); err == nil && members["error"] != "" {
		return fmt.Sprintf("%.200q", members["error"])
	}
	return fmt.Sprintf("%.200q", body)
}

// stringMembers reads a JSON object of string members. encoding/json would
// take names in any case and the last of a repeated one.
func stringMembers(body []byte, known ...string) (map[string]string, error) {
	if len(body) > maxNonceBody {
		return nil, errAnswerTooLarge
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return nil, fmt.Errorf("%w: it does not begin with {", errAnswerMalformed)
	}
	members := make(map[string]string, len(known))
	for dec.More() {
		name, err := stringToken(dec)
		if err != nil {
			return nil, err
		}
		value, err := stringToken(dec)
		if err != nil {
			return nil, fmt.Errorf("member %.40q: %w", name, err)
		}
		if _, twice := members[name]; twice {
			return nil, fmt.Errorf("%w: member %.40q is there twice", errAnswerMalformed, name)
		}
		members[name] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("%w: %w", errAnswerMalformed, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: something follows the object", errAnswerMalformed)
	}
	return members, onlyKnown(members, known)
}

func stringToken(dec *json.Decoder) (string, error) {
	tok, err := dec.Token()
	if err != nil {
		return "", fmt.Errorf("%w: %w", errAnswerMalformed, err)
	}
	s, ok := tok.(string)
	if !ok {
		return "", fmt.Errorf("%w: %v is not a string", errAnswerMalformed, tok)
	}
	return s, nil
}

func onlyKnown(members map[string]string, known []string) error {
	found := 0
	for _, name := range known {
		if _, ok := members[name]; ok {
			found++
		}
	}
	if found != len(members) {
		return fmt.Errorf("%w: it has members besides %q", errAnswerMalformed, known)
	}
	return nil
}
