package keyfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// maxDepth bounds the nesting of the file; a geometry needs ten.
const maxDepth = 32

// decodeStrictly reads one JSON value without unknown members, without members
// that stand twice (encoding/json takes the last, a reader the first) and
// without anything behind it.
func decodeStrictly(content []byte, into any) error {
	if err := checkMembers(content); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(content))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("read JSON: %w", err)
	}
	return nil
}

// checkMembers walks the tokens. Names that differ in case only are one, as
// encoding/json takes them.
func checkMembers(content []byte) error {
	type level struct {
		members map[string]struct{} // nil in an array
		name    bool                // the next string is a name
	}
	var (
		d      = json.NewDecoder(bytes.NewReader(content))
		levels []level
	)
	for {
		token, err := d.Token()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read JSON at byte %d: %w", d.InputOffset(), err)
		}
		if len(levels) > 0 {
			top := &levels[len(levels)-1]
			if name, ok := token.(string); ok && top.members != nil && top.name {
				folded := strings.Map(fold, name)
				if _, twice := top.members[folded]; twice {
					return fmt.Errorf("read JSON at byte %d: %.64q stands there twice", d.InputOffset(), name)
				}
				top.members[folded] = struct{}{}
				top.name = false
				continue
			}
			top.name = true
		}
		switch token {
		case json.Delim('{'):
			levels = append(levels, level{members: map[string]struct{}{}, name: true})
		case json.Delim('['):
			levels = append(levels, level{})
		case json.Delim('}'), json.Delim(']'):
			levels = levels[:len(levels)-1]
		}
		if len(levels) > maxDepth {
			return fmt.Errorf("read JSON at byte %d: nested deeper than %d", d.InputOffset(), maxDepth)
		}
		if len(levels) == 0 {
			return checkEnd(content[d.InputOffset():])
		}
	}
}

// fold maps all cases of a letter to one, as encoding/json does when it compares
// names: the long s (U+017F) is an s there, which no lower case makes of it.
func fold(r rune) rune {
	least := r
	for c := unicode.SimpleFold(r); c != r; c = unicode.SimpleFold(c) {
		least = min(least, c)
	}
	return least
}

func checkEnd(rest []byte) error {
	if rest = bytes.TrimSpace(rest); len(rest) > 0 {
		return errors.New("read JSON: the file goes on behind its end")
	}
	return nil
}
