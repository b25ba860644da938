// Package keyfile reads keys.file: the keys that a verifier trusts, written
// down by hand or by a tool, for deployments without a registry. The form is
// this project's own (docs/guide), JSON of RFC 8259 read strictly; public keys
// are SubjectPublicKeyInfo in PEM (RFC 5480), the optional public area is a
// TPMT_PUBLIC (TPM 2.0 Library Part 2, 12.2.4).
//
// It leaves out reading the file and noticing that it changed, since it does no
// I/O; and it leaves out any proof that a key lives in a TPM, which is the
// registry's work: here the operator's word counts.
package keyfile

import (
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/telemark-otel/telemark/internal/policy"
	"github.com/telemark-otel/telemark/internal/verdict"
)

// MaxSize bounds the file in bytes, MaxKeys the keys in it, MaxEntry a key
// that comes alone.
const (
	MaxSize  = 64 << 20
	MaxKeys  = 100_000
	MaxEntry = 1 << 20
)

// Set is the content of one file, immutable. It is a verdict.KeySource.
type Set struct {
	keys map[string]*verdict.Key
	// named holds, for each bound attribute, the values that name a key here,
	// in lower case.
	named map[string]map[string]struct{}
}

// ErrTooLarge says that a file is larger than MaxSize.
var ErrTooLarge = fmt.Errorf("a key file has at most %d bytes", MaxSize)

// Parse reads the content of the file called name, which only stands in
// errors. What a key does not say of its policy is taken from defaults.
func Parse(name string, content []byte, defaults *policy.Policy) (*Set, error) {
	s, err := parse(content, defaults)
	if err != nil {
		return nil, fmt.Errorf("key file %s: %w", name, err)
	}
	return s, nil
}

func parse(content []byte, defaults *policy.Policy) (*Set, error) {
	if len(content) > MaxSize {
		return nil, ErrTooLarge
	}
	var f File
	if err := decodeStrictly(content, &f); err != nil {
		return nil, err
	}
	if f.Keys == nil {
		return nil, errors.New(`there is no "keys"; an empty list, {"keys":[]}, trusts nobody`)
	}
	if len(f.Keys) > MaxKeys {
		return nil, fmt.Errorf("it holds %d keys, at most %d are allowed", len(f.Keys), MaxKeys)
	}
	defaults, err := withRegions(defaults, f.Regions)
	if err != nil {
		return nil, err
	}
	groups, err := newGroups(f.Policies, defaults)
	if err != nil {
		return nil, err
	}
	s := &Set{
		keys:  make(map[string]*verdict.Key, len(f.Keys)),
		named: map[string]map[string]struct{}{},
	}
	for i := range f.Keys {
		k, err := f.Keys[i].key(defaults, groups)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Keys[i].title(i), err)
		}
		if _, twice := s.keys[k.KID]; twice {
			return nil, fmt.Errorf("%s: its kid stands there twice, remove one", f.Keys[i].title(i))
		}
		s.keys[k.KID] = k
		s.index(k)
	}
	return s, nil
}

// title says which key an error is about: its place, and what the file calls it.
func (e *Entry) title(i int) string {
	switch {
	case e.Name != "" && len(e.Name) <= maxName:
		return fmt.Sprintf("keys[%d] (%s)", i, e.Name)
	case len(e.KID) > 0 && len(e.KID) <= hex.EncodedLen(kidLen):
		return fmt.Sprintf("keys[%d] (kid %s)", i, e.KID)
	default:
		return fmt.Sprintf("keys[%d]", i)
	}
}

func (s *Set) index(k *verdict.Key) {
	for attribute, value := range NamesOf(k) {
		values := s.named[attribute]
		if values == nil {
			values = map[string]struct{}{}
			s.named[attribute] = values
		}
		values[value] = struct{}{}
	}
}

// NamesOf yields each bound attribute with the value, in lower case, by which
// it names the machine of this key.
func NamesOf(k *verdict.Key) iter.Seq2[string, string] {
	return func(yield func(attribute, value string) bool) {
		for i := range k.Policy.Bind {
			b := &k.Policy.Bind[i]
			if value, ok := b.Value(k.Name, k.Labels); ok && !yield(b.Attribute, strings.ToLower(value)) {
				return
			}
		}
	}
}

// Lookup returns the key, nil when the file does not hold it. A file always
// knows, so there is never an error.
func (s *Set) Lookup(kid []byte) (*verdict.Key, error) { return s.keys[string(kid)], nil }

// Keys returns all keys, sorted by kid.
func (s *Set) Keys() []*verdict.Key {
	return slices.SortedFunc(maps.Values(s.keys), func(a, b *verdict.Key) int { return strings.Compare(a.KID, b.KID) })
}

// Len returns the number of keys.
func (s *Set) Len() int { return len(s.keys) }

// Binds reports whether any key binds the attribute.
func (s *Set) Binds(attribute string) bool { return s.named[attribute] != nil }

// Names reports whether value, under an attribute that a key binds, names the
// machine of that key. Case does not count: names of machines do not have any.
func (s *Set) Names(attribute, value string) bool {
	values := s.named[attribute]
	if values == nil {
		return false
	}
	_, ok := values[strings.ToLower(value)]
	return ok
}
