package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/telemark-otel/telemark/cmd/telemark/internal/audit"
)

// How values are written in tables.

// maxListed bounds the elements of a list in a table cell.
const maxListed = 8

// short abbreviates hexadecimal names: the first digits tell keys and digests
// apart, JSON output has them whole.
func short(hexadecimal string) string {
	const shown = 16
	if len(hexadecimal) <= shown {
		return orDash(hexadecimal)
	}
	return hexadecimal[:shown] + "…"
}

// count is "1 item", "2 items".
func count[N int | uint64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// printable takes out what could command a terminal: parsers quote what they
// stumble over.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

func orDash(s string) string { return cmp.Or(s, "-") }

func place(f *audit.Finding) string {
	return fmt.Sprintf("%s, %s, block %d", f.File, f.Where, f.Index)
}

func differs(part string) string {
	if part == "" {
		return ""
	}
	return " (differs: " + part + ")"
}

func where(l *audit.Location) string {
	if l == nil {
		return "-"
	}
	s := fmt.Sprintf("%.5f,%.5f", l.Latitude, l.Longitude)
	if l.Accuracy != nil {
		s += fmt.Sprintf(" ±%.0fm", *l.Accuracy)
	}
	return s + " (" + l.Source + ")"
}

// spans writes ranges as "3-5, 9".
func spans(rs []audit.Range) string {
	parts := make([]string, 0, len(rs))
	for _, r := range rs {
		if r.First == r.Last {
			parts = append(parts, strconv.FormatUint(r.First, 10))
			continue
		}
		parts = append(parts, fmt.Sprintf("%d-%d", r.First, r.Last))
	}
	return list(parts)
}

func numbers(ns []uint64) string {
	parts := make([]string, 0, len(ns))
	for _, n := range ns {
		parts = append(parts, strconv.FormatUint(n, 10))
	}
	return list(parts)
}

func list(parts []string) string {
	if len(parts) > maxListed {
		parts = append(parts[:maxListed:maxListed], fmt.Sprintf("and %d more", len(parts)-maxListed))
	}
	return orDash(strings.Join(parts, ", "))
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
