// Package regions reads the named areas that an operator keeps in files: GeoJSON
// (RFC 7946), one area to a file, as statistical offices and open map projects
// publish them. Package geo says what they mean, package policy who may name them.
//
// It leaves out noticing that a file changed: areas are read at the start.
package regions

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/telemark-otel/telemark/internal/geo"
	"github.com/telemark-otel/telemark/internal/policy"
)

// MaxTotal bounds all files together, in bytes.
const MaxTotal = 256 << 20

// Errors of [Load].
var (
	ErrTooLarge = fmt.Errorf("a region's file has at most %d MiB, all together %d MiB", geo.MaxGeoJSON>>20, MaxTotal>>20)
	ErrNoFile   = errors.New("it is not a regular file")
	ErrNone     = errors.New("regions_dir holds no file that ends in .geojson or .json")
)

// Load reads the files by name, and every file of dir that ends in .geojson or
// .json under its name without that ending. Both may be empty. A file that
// cannot be read is an error, since whoever is to be kept inside an area must not
// be let go because it is missing.
func Load(dir string, files map[string]string) (*policy.Regions, error) {
	found, err := list(dir, files)
	if err != nil {
		return nil, err
	}
	var out *policy.Regions
	left := int64(MaxTotal)
	for _, f := range found {
		text, err := Read(f.path)
		if err != nil {
			return nil, fmt.Errorf("region %.80q: %w", f.name, err)
		}
		if left -= int64(len(text)); left < 0 {
			return nil, ErrTooLarge
		}
		if out, err = out.With(f.name, text); err != nil {
			return nil, fmt.Errorf("%s: %w", f.path, err)
		}
	}
	return out, nil
}

type file struct{ name, path string }

func list(dir string, files map[string]string) ([]file, error) {
	var out []file
	for _, name := range slices.Sorted(maps.Keys(files)) {
		out = append(out, file{name, files[name]})
	}
	if dir == "" {
		return out, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("regions_dir: %w", err)
	}
	before := len(out)
	for _, e := range entries {
		for _, ending := range []string{".geojson", ".json"} {
			if name, ok := strings.CutSuffix(e.Name(), ending); ok && name != "" && name[0] != '.' {
				out = append(out, file{name, filepath.Join(dir, e.Name())})
			}
		}
		if len(out) > policy.MaxRegions {
			return nil, policy.ErrRegionMany
		}
	}
	if len(out) == before {
		return nil, fmt.Errorf("%w: %s", ErrNone, dir)
	}
	return out, nil
}

// Read reads one file, bounded. Pipes and devices are refused, since they need
// not end.
func Read(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: ErrNoFile}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, geo.MaxGeoJSON+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(text) > geo.MaxGeoJSON {
		return nil, fmt.Errorf("%s: %w", path, ErrTooLarge)
	}
	return text, nil
}
