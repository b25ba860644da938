// Package strictjson reads JSON (RFC 8259) as I-JSON (RFC 7493) with a schema:
// member names match exactly, case included, none is unknown and none stands
// twice; strings are valid UTF-8; nothing follows the value. A lenient reader
// takes for one request what was signed as another.
//
// What it leaves out is presence: a member that is not there leaves its field
// as it was.
package strictjson

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// MaxDepth bounds nesting.
const MaxDepth = 32

// ErrDepth says that a value is nested deeper than MaxDepth.
var ErrDepth = fmt.Errorf("JSON is nested deeper than %d", MaxDepth)

var options = json.JoinOptions(
	json.RejectUnknownMembers(true),
	json.MatchCaseInsensitiveNames(false),
	jsontext.AllowDuplicateNames(false),
	jsontext.AllowInvalidUTF8(false),
)

// Unmarshal reads one value of content into v, a pointer. Its errors say where,
// and quote at most a member's name.
func Unmarshal(content []byte, into any) error {
	if err := depth(content); err != nil {
		return err
	}
	if err := json.Unmarshal(content, into, options); err != nil {
		return fmt.Errorf("read JSON: %w", bounded(err))
	}
	return nil
}

// depth looks at the nesting before anything recurses.
func depth(content []byte) error {
	d := jsontext.NewDecoder(bytes.NewReader(content), options)
	for {
		_, err := d.ReadToken()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read JSON: %w", bounded(err))
		}
		if d.StackDepth() > MaxDepth {
			return fmt.Errorf("read JSON at byte %d: %w", d.InputOffset(), ErrDepth)
		}
	}
}

// bounded keeps what somebody sent from filling a log.
func bounded(err error) error {
	const most = 300
	if s := err.Error(); len(s) > most {
		return fmt.Errorf("%.*q", most, s)
	}
	return err
}
