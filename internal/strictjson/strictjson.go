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
	"reflect"

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
		return fmt.Errorf("read JSON: %w", bounded(plain(err)))
	}
	return nil
}

// plain says what the library says without the names of Go's types, which mean
// nothing to who wrote the JSON.
func plain(err error) error {
	var e *json.SemanticError
	if !errors.As(err, &e) {
		return err
	}
	switch {
	case errors.Is(e.Err, json.ErrUnknownName):
		return fmt.Errorf("there is no member %.64q here", e.JSONPointer.LastToken())
	case e.Err != nil:
		return fmt.Errorf("%s: %w", place(e.JSONPointer), e.Err)
	case e.GoType != nil:
		return fmt.Errorf("%s: want %s, not %s", place(e.JSONPointer), wanted(e.GoType), found(e.JSONKind))
	default:
		return err
	}
}

func place(p jsontext.Pointer) string {
	if p == "" {
		return "the whole value"
	}
	return fmt.Sprintf("%.128q", string(p))
}

func found(k jsontext.Kind) string {
	switch k {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case '0':
		return "this number"
	default:
		return k.String()
	}
}

// wanted is the JSON that a Go type is read from.
func wanted(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return wanted(t.Elem())
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number from 0 on"
	case reflect.Array, reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return "a string in base64"
		}
		return "an array"
	default:
		return "an object"
	}
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
