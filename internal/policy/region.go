package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/telemark-otel/telemark/internal/geo"
)

// Area is a set of polygons; see package geo.
type Area = geo.Area

// ParseArea reads an area from GeoJSON.
func ParseArea(text []byte) (*Area, error) { return geo.Parse(text) }

// Bounds of named areas.
const (
	MaxRegions    = 1024
	maxRegionName = 64
	maxReferences = 64 // regions that one policy names
)

// Errors of named areas.
var (
	ErrRegionName  = fmt.Errorf("a region's name has 1 to %d letters, digits, '.', '-' and '_'", maxRegionName)
	ErrRegionTwice = errors.New("two regions have this name")
	ErrRegionMany  = fmt.Errorf("there are at most %d regions, and at most %d in one policy", MaxRegions, maxReferences)
	ErrNoRegion    = errors.New("there is no region of this name here: give its file under regions or regions_dir")
	ErrRegionHash  = errors.New("the region is drawn otherwise here than the policy says")
)

// Region is an area with a name.
type Region struct {
	Name string
	Hash [sha256.Size]byte // of the GeoJSON text
	Area *Area             // nil where only names are checked
}

// Reference returns the form that pins how the region is drawn.
func (r *Region) Reference() string { return r.Name + "@" + hex.EncodeToString(r.Hash[:]) }

// Regions are the areas that policies may name. nil holds none. It is not
// changed once in use.
type Regions struct {
	named map[string]*Region
	any   bool
}

// AnyRegions takes every well-formed reference, for those who check policies
// that others judge by.
func AnyRegions() *Regions { return &Regions{any: true} }

// With returns the regions and one more, read from GeoJSON.
func (r *Regions) With(name string, text []byte) (*Regions, error) {
	if !validRegionName(name) {
		return nil, fmt.Errorf("%w, not %.80q", ErrRegionName, name)
	}
	out := &Regions{named: map[string]*Region{}}
	if r != nil {
		maps.Copy(out.named, r.named)
		out.any = r.any
	}
	if out.named[name] != nil {
		return nil, fmt.Errorf("region %s: %w", name, ErrRegionTwice)
	}
	if len(out.named) >= MaxRegions {
		return nil, ErrRegionMany
	}
	area, err := ParseArea(text)
	if err != nil {
		return nil, fmt.Errorf("region %s: %w", name, err)
	}
	out.named[name] = &Region{Name: name, Hash: sha256.Sum256(text), Area: area}
	return out, nil
}

// All returns the regions by name.
func (r *Regions) All() []*Region {
	if r == nil {
		return nil
	}
	return slices.SortedFunc(maps.Values(r.named), func(a, b *Region) int { return strings.Compare(a.Name, b.Name) })
}

// Find resolves a reference: NAME, or NAME@ and the SHA-256 of the GeoJSON text
// in hexadecimal, where the policy must not be judged by another drawing.
func (r *Regions) Find(reference string) (*Region, error) {
	name, pin, pinned := strings.Cut(reference, "@")
	if !validRegionName(name) {
		return nil, fmt.Errorf("%w, not %.80q", ErrRegionName, name)
	}
	var want [sha256.Size]byte
	if pinned {
		b, err := hex.DecodeString(pin)
		if err != nil || len(b) != len(want) {
			return nil, fmt.Errorf("region %s: behind @ stands the SHA-256 of its file in hexadecimal, not %.80q", name, pin)
		}
		copy(want[:], b)
	}
	if r != nil && r.any {
		return &Region{Name: name, Hash: want}, nil
	}
	var found *Region
	if r != nil {
		found = r.named[name]
	}
	switch {
	case found == nil:
		return nil, fmt.Errorf("region %s: %w", name, ErrNoRegion)
	case pinned && found.Hash != want:
		return nil, fmt.Errorf("region %s: %w: %x here, %x there", name, ErrRegionHash, found.Hash, want)
	default:
		return found, nil
	}
}

// FindAll resolves the references of one policy.
func (r *Regions) FindAll(references []string) ([]*Region, error) {
	if len(references) > maxReferences {
		return nil, ErrRegionMany
	}
	var out []*Region
	for _, reference := range references {
		found, err := r.Find(reference)
		if err != nil {
			return nil, err
		}
		out = append(out, found)
	}
	return out, nil
}

func validRegionName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return s != "" && len(s) <= maxRegionName && s[0] != '.'
}
