package storage

import (
	"path"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	// MaxPersist bounds the directories that a container may keep.
	MaxPersist = 16
	// MaxPersistPath bounds each, in bytes: escaped it still fits a file name.
	MaxPersistPath = 80

	namePersist = "persist"
)

// reserved are the kernel's and the runtime's. /var/run is /run in most images.
var reserved = []string{"/proc", "/sys", "/dev", "/run", "/var/run"}

// ValidatePersist says whether these may be the directories of a container that
// its volume keeps: absolute and clean, none above or below another or a
// reserved one, in characters that mean nothing to a container engine (which
// cuts at colons and commas). The first fault is told.
func ValidatePersist(paths []string) error {
	if len(paths) > MaxPersist {
		return refuse(PersistTooMany, "%d directories, at most %d", len(paths), MaxPersist)
	}
	for i, p := range paths {
		if err := validPersist(p); err != nil {
			return err
		}
		for _, other := range paths[:i] {
			if overlap(p, other) {
				return refuse(PersistOverlap, "%.100q and %.100q", other, p)
			}
		}
	}
	return nil
}

func validPersist(p string) error {
	switch {
	case p == "":
		return refuse(PersistEmpty, "a directory without a name")
	case len(p) > MaxPersistPath:
		return refuse(PersistTooLong, "%.100q has %d bytes, at most %d", p, len(p), MaxPersistPath)
	case !utf8.ValidString(p) || strings.ContainsFunc(p, odd):
		return refuse(PersistCharacters, "%.100q: letters and digits of ASCII, and . _ - @ + / are understood", p)
	case p[0] != '/':
		return refuse(PersistRelative, "%.100q is not absolute", p)
	case slices.Contains(strings.Split(p, "/"), ".."):
		return refuse(PersistTraversal, "%.100q climbs", p)
	case path.Clean(p) != p:
		return refuse(PersistUnclean, "%.100q is written as %.100q", p, path.Clean(p))
	case p == "/":
		return refuse(PersistRoot, "the container's root is not kept")
	}
	for _, r := range reserved {
		if overlap(p, r) {
			return refuse(PersistReserved, "%.100q overlaps %s", p, r)
		}
	}
	return nil
}

func odd(c rune) bool {
	return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("._-@+/", c)
}

// overlap reports whether one of two clean paths is the other or leads to it.
func overlap(a, b string) bool {
	return a == b || strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/")
}

// persistName is the one directory in the volume that belongs to a container's
// path. No two have the same, and none is inside another: what a container kept
// under one path never has a part in finding another.
func persistName(p string) string { return strings.ReplaceAll(p, "/", "%") }
