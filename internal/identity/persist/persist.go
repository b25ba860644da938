// Package persist is the one rule for persist_dirs, the directories of a container
// that its encrypted volume keeps: the owner's tool asks it before it signs, the
// service before it begins, and storage and container engine before they mount.
//
// It looks at the paths as words. That none leaves its place through a link is for
// those to see to who open them.
package persist

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

const (
	// MaxDirs bounds the directories that a container may keep.
	MaxDirs = 16
	// MaxPath bounds each, in bytes: escaped it still fits a file name of the
	// encrypted volume.
	MaxPath = 80
)

// Reason says what is wrong with a list of directories.
type Reason string

// The reasons.
const (
	TooMany    Reason = "persist_too_many"
	Empty      Reason = "persist_empty"
	TooLong    Reason = "persist_too_long"
	Characters Reason = "persist_characters"
	Relative   Reason = "persist_relative"
	Traversal  Reason = "persist_traversal"
	Unclean    Reason = "persist_unclean"
	Root       Reason = "persist_root"
	Reserved   Reason = "persist_reserved"
	Overlap    Reason = "persist_overlap"
)

// Error is a refusal. Detail quotes the path, bounded.
type Error struct {
	Reason Reason
	Detail string
}

func (e *Error) Error() string { return string(e.Reason) + ": " + e.Detail }

// ReasonOf returns the reason of an error of this package, or "".
func ReasonOf(err error) Reason {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	return ""
}

func refuse(r Reason, format string, a ...any) error {
	return &Error{Reason: r, Detail: fmt.Sprintf(format, a...)}
}

// reserved are the kernel's and the runtime's, and what lies in memory and does
// not outlive the container. /var/run is /run in most images.
var reserved = []string{"/proc", "/sys", "/dev", "/run", "/var/run", "/tmp"}

// Validate says whether these may be kept: absolute and clean, none above or below
// another or a reserved one, in characters that mean nothing to a container engine
// (which cuts at colons and commas). The first fault is told.
func Validate(dirs []string) error {
	if len(dirs) > MaxDirs {
		return refuse(TooMany, "%d directories, at most %d", len(dirs), MaxDirs)
	}
	for i, p := range dirs {
		if err := one(p); err != nil {
			return err
		}
		for _, other := range dirs[:i] {
			if overlap(p, other) {
				return refuse(Overlap, "%.100q and %.100q", other, p)
			}
		}
	}
	return nil
}

func one(p string) error {
	switch {
	case p == "":
		return refuse(Empty, "a directory without a name")
	case len(p) > MaxPath:
		return refuse(TooLong, "%.100q has %d bytes, at most %d", p, len(p), MaxPath)
	case strings.ContainsFunc(p, odd):
		return refuse(Characters, "%.100q: letters and digits of ASCII, and . _ - @ + / are understood", p)
	case p[0] != '/':
		return refuse(Relative, "%.100q is not absolute", p)
	case slices.Contains(strings.Split(p, "/"), ".."):
		return refuse(Traversal, "%.100q climbs", p)
	case path.Clean(p) != p:
		return refuse(Unclean, "%.100q is written as %.100q", p, path.Clean(p))
	case p == "/":
		return refuse(Root, "the container's root is not kept")
	}
	for _, r := range reserved {
		if overlap(p, r) {
			return refuse(Reserved, "%.100q overlaps %s", p, r)
		}
	}
	return nil
}

// odd takes what is not UTF-8 too: there a rune is U+FFFD.
func odd(c rune) bool {
	return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("._-@+/", c)
}

// overlap reports whether one of two clean paths is the other or leads to it.
func overlap(a, b string) bool {
	return a == b || strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/")
}
