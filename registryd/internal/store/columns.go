package store

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bounds of what is kept, in bytes. Callers have narrower ones of their own.
const (
	maxText       = 4 << 10
	maxID         = 128
	maxLabels     = 64
	maxBlob       = 1 << 20
	maxValue      = 8 << 20
	maxName       = 512 // of a machine; this and the next ones have to fit into one entry of an index
	maxLabelKey   = 256
	maxLabelValue = 1024
	maxScope      = 1500
)

// millis returns what stands in a column for a time: 0 for none.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return exactMillis(ms)
}

func exactMillis(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// present returns b, or empty bytes for a column that is never NULL.
func present(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// bounded returns a number that both databases can compare with.
func bounded(n uint64) int64 { return int64(min(n, math.MaxInt64-1)) }

// page returns the size of a page of a list.
func page(limit int) int { return min(max(limit, 1), maxPage) }

// toJSON encodes maps, lists and structs of texts and numbers, which cannot
// fail; "" stands for an empty one.
func toJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic("store: " + err.Error())
	}
	switch s := string(b); s {
	case "null", "{}", "[]":
		return ""
	default:
		return s
	}
}

func fromJSON(s string, into any) error {
	if s == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(s), into); err != nil {
		return fmt.Errorf("a column of JSON: %w", err)
	}
	return nil
}

// checkTexts refuses what one of the databases would refuse, or what is too
// long.
func checkTexts(texts ...string) error {
	for _, s := range texts {
		if len(s) > maxText || !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
			return fmt.Errorf("%w: %.64q is longer than %d bytes, or not UTF-8, or has a zero byte", ErrInvalid, s, maxText)
		}
	}
	return nil
}

// checkIDs refuses names of rows that are not spelled in one way only: kids,
// hashes and keys are lower-case hexadecimal.
func checkIDs(ids ...string) error {
	for _, id := range ids {
		if id == "" || len(id) > maxID || strings.Trim(id, "0123456789abcdefghijklmnopqrstuvwxyz-_.:") != "" {
			return fmt.Errorf("%w: %.64q is no identifier of up to %d lower-case letters and digits", ErrInvalid, id, maxID)
		}
	}
	return nil
}

func checkBlobs(blobs ...[]byte) error {
	for _, b := range blobs {
		if len(b) > maxBlob {
			return fmt.Errorf("%w: %d bytes in one column, at most %d are kept", ErrInvalid, len(b), maxBlob)
		}
	}
	return nil
}

func checkLabels(labels map[string]string) error {
	if len(labels) > maxLabels {
		return fmt.Errorf("%w: %d labels, at most %d are kept", ErrInvalid, len(labels), maxLabels)
	}
	for k, v := range labels {
		if err := checkTexts(k, v); err != nil {
			return fmt.Errorf("a label: %w", err)
		}
		if len(k) > maxLabelKey || len(v) > maxLabelValue {
			return fmt.Errorf("%w: the label %.64q has more than %d bytes, or its value more than %d", ErrInvalid, k, maxLabelKey, maxLabelValue)
		}
	}
	return nil
}

// fold returns the same text for all names that differ in case only, as
// strings.EqualFold has it.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			least = min(least, next)
		}
		if 'A' <= least && least <= 'Z' {
			return least + ('a' - 'A')
		}
		return least
	}, name)
}
