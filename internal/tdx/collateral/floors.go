package collateral

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"
)

// Floors keeps the highest number that was seen of each part of collateral, so
// that nobody can bring back an older one that is still within its time: an
// evaluation that knew less, or a list on which a platform was not yet. Names
// are those of tdx.Endorsements.Marks.
type Floors interface {
	// Floor is the highest number of a name; 0 when none was seen.
	Floor(ctx context.Context, name string) (uint64, error)
	// Raise raises floors to marks, and lowers none, also when several raise
	// at once. What it returned nil for outlasts the process, where the
	// implementation keeps anything that does.
	Raise(ctx context.Context, marks map[string]uint64) error
}

// MemoryFloors forgets with the process. Its zero value is ready.
type MemoryFloors struct {
	mu sync.Mutex
	m  map[string]uint64
}

// Floor implements Floors.
func (f *MemoryFloors) Floor(_ context.Context, name string) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.m[name], nil
}

// Raise implements Floors.
func (f *MemoryFloors) Raise(_ context.Context, marks map[string]uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.m, _ = raised(f.m, marks)
	return nil
}

func raised(old, marks map[string]uint64) (map[string]uint64, bool) {
	out := maps.Clone(old)
	if out == nil {
		out = map[string]uint64{}
	}
	changed := false
	for name, n := range marks {
		if n > out[name] {
			out[name], changed = n, true
		}
	}
	return out, changed
}

// FileFloors keeps floors in a file: {"tcbinfo-50806f000000":17, ...}. One
// process owns it.
type FileFloors struct {
	path string

	mu sync.Mutex
	m  map[string]uint64
}

// OpenFloors reads a file of floors, or begins one. A file that cannot be read
// is an error: whoever wants to forget the floors deletes it.
func OpenFloors(path string) (*FileFloors, error) {
	f := &FileFloors{path: path}
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return f, os.MkdirAll(filepath.Dir(path), 0o700)
	case err != nil:
		return nil, fmt.Errorf("floors of collateral: %w", err)
	}
	if err := json.Unmarshal(b, &f.m); err != nil {
		return nil, fmt.Errorf("floors of collateral in %s: %w; delete the file to forget them", path, err)
	}
	return f, nil
}

// Floor implements Floors.
func (f *FileFloors) Floor(_ context.Context, name string) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.m[name], nil
}

// Raise implements Floors. The file is written before the floors count.
func (f *FileFloors) Raise(_ context.Context, marks map[string]uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	m, changed := raised(f.m, marks)
	if !changed {
		return nil
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := replace(f.path, append(b, '\n')); err != nil {
		return fmt.Errorf("floors of collateral: %w", err)
	}
	f.m = m
	return nil
}
