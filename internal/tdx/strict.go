package tdx

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
	"unicode/utf8"
)

// Collateral is read strictly: an object has exactly the members that are
// expected of it, each once and spelled as expected. The usual decoder takes
// TcbInfo for tcbInfo and the last of two, so that what is read need not be
// what was signed.

// member is what an object may have, and how its value is read.
type member struct {
	name     string
	optional bool
	read     func(raw []byte) error
}

const maxMembers = 32

// object reads an object.
func object(raw []byte, members ...member) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	if err := delimiter(d, '{'); err != nil {
		return err
	}
	seen := make(map[string]bool, len(members))
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return err
		}
		name, ok := token.(string)
		if !ok || len(seen) >= maxMembers {
			return errors.New("not an object's member")
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return err
		}
		if seen[name] {
			return fmt.Errorf("member %.40q twice", name)
		}
		seen[name] = true
		if err := readMember(members, name, value); err != nil {
			return err
		}
	}
	for _, m := range members {
		if !m.optional && !seen[m.name] {
			return fmt.Errorf("no member %q", m.name)
		}
	}
	return end(d, '}')
}

func readMember(members []member, name string, value []byte) error {
	for _, m := range members {
		if m.name == name {
			if err := m.read(value); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		}
	}
	return fmt.Errorf("member %.40q is not expected", name)
}

// array reads an array of at most n values.
func array(n int, read func(raw []byte) error) func([]byte) error {
	return func(raw []byte) error {
		d := json.NewDecoder(bytes.NewReader(raw))
		if err := delimiter(d, '['); err != nil {
			return err
		}
		for i := 0; d.More(); i++ {
			if i == n {
				return fmt.Errorf("more than %d values", n)
			}
			var value json.RawMessage
			if err := d.Decode(&value); err != nil {
				return err
			}
			if err := read(value); err != nil {
				return fmt.Errorf("value %d: %w", i, err)
			}
		}
		return end(d, ']')
	}
}

func delimiter(d *json.Decoder, want json.Delim) error {
	token, err := d.Token()
	if err != nil {
		return err
	}
	if token != want {
		return fmt.Errorf("%.20q in place of %s", fmt.Sprint(token), want)
	}
	return nil
}

// end takes the closing delimiter and demands that nothing comes after it.
func end(d *json.Decoder, want json.Delim) error {
	if err := delimiter(d, want); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something comes after the end")
	}
	return nil
}

// text reads a string of at most n bytes.
func text(to *string, n int) func([]byte) error {
	return func(raw []byte) error {
		if len(raw) == 0 || raw[0] != '"' || !utf8.Valid(raw) {
			return errors.New("not a string")
		}
		if err := json.Unmarshal(raw, to); err != nil {
			return err
		}
		if len(*to) > n {
			return fmt.Errorf("longer than %d bytes", n)
		}
		return nil
	}
}

// equal reads a string that can be one thing only.
func equal(want string) func([]byte) error {
	return func(raw []byte) error {
		var s string
		if err := text(&s, 64)(raw); err != nil {
			return err
		}
		if s != want {
			return fmt.Errorf("%.40q in place of %q", s, want)
		}
		return nil
	}
}

// octets reads n bytes in hexadecimal digits, of either case.
func octets(to *[]byte, n int) func([]byte) error {
	return func(raw []byte) error {
		var s string
		if err := text(&s, 2*n)(raw); err != nil {
			return err
		}
		b, err := hex.DecodeString(s)
		if err != nil {
			return err
		}
		if len(b) != n {
			return fmt.Errorf("%d bytes in place of %d", len(b), n)
		}
		*to = b
		return nil
	}
}

// number reads a whole number of at most the type's size, written without
// sign, fraction or exponent.
func number[T uint8 | uint16 | uint64](to *T) func([]byte) error {
	return func(raw []byte) error {
		n, err := strconv.ParseUint(string(raw), 10, 64)
		if err != nil || uint64(T(n)) != n {
			return fmt.Errorf("%.24q is not a number that fits", raw)
		}
		*to = T(n)
		return nil
	}
}

// only reads a number that can be one thing only.
func only(want uint64) func([]byte) error {
	return func(raw []byte) error {
		var n uint64
		if err := number(&n)(raw); err != nil {
			return err
		}
		if n != want {
			return fmt.Errorf("%d in place of %d", n, want)
		}
		return nil
	}
}

// moment reads a time of RFC 3339.
func moment(to *time.Time) func([]byte) error {
	return func(raw []byte) error {
		var s string
		if err := text(&s, 40)(raw); err != nil {
			return err
		}
		t, err := time.Parse(time.RFC3339, s)
		if err != nil {
			return errors.New("not a time of RFC 3339")
		}
		*to = t.UTC()
		return nil
	}
}
