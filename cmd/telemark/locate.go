package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxConfigSize bounds a configuration file, in bytes.
const maxConfigSize = 16 << 20

// locator finds the line of a configuration key. The collector's resolver
// knows only values, so the files are parsed once more for their places.
type locator struct {
	files []string
	docs  []*yaml.Node // nil for an empty file
}

func newLocator(files []string) (*locator, error) {
	l := &locator{files: files}
	for _, file := range files {
		b, err := readBounded(file, maxConfigSize)
		if err != nil {
			return nil, err
		}
		var doc yaml.Node
		if err := yaml.Unmarshal(b, &doc); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		var root *yaml.Node
		if len(doc.Content) > 0 {
			root = doc.Content[0]
			if root.Kind != yaml.MappingNode {
				return nil, fmt.Errorf("%s:%d: this is no collector configuration, which is a mapping of receivers, exporters, service and so on", file, root.Line)
			}
			// What the collector does not take either: keys that stand twice, aliases without end.
			err := root.Decode(new(map[string]any))
			if wrong, ok := errors.AsType[*yaml.TypeError](err); ok {
				err = errors.New(strings.Join(wrong.Errors, "; "))
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
		}
		l.docs = append(l.docs, root)
	}
	return l, nil
}

// find returns the place of the longest part of path that is written down; of
// several files the last, since it wins when they are merged.
func (l *locator) find(path []string) (file string, line int) {
	file, line = l.files[0], 1
	depth := -1
	for i, doc := range l.docs {
		if d, n := descend(doc, path); d >= depth && n > 0 {
			file, line, depth = l.files[i], n, d
		}
	}
	return file, line
}

// descend follows path as far as it goes and returns how far that was.
func descend(n *yaml.Node, path []string) (depth, line int) {
	if n == nil {
		return 0, 0
	}
	line = n.Line
	for depth < len(path) {
		next, at := child(n, path[depth])
		if next == nil {
			break
		}
		n, line = next, at
		depth++
	}
	return depth, line
}

func child(n *yaml.Node, key string) (value *yaml.Node, line int) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind == yaml.SequenceNode {
		i, err := strconv.Atoi(strings.Trim(key, "[]"))
		if err == nil && strings.HasPrefix(key, "[") && i < len(n.Content) {
			return n.Content[i], n.Content[i].Line
		}
	}
	if n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				return n.Content[i+1], n.Content[i].Line
			}
		}
	}
	return nil, 0
}

// errTooLarge says that a file is larger than any honest one.
var errTooLarge = errors.New("file is too large")

// readBounded reads a file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s: %w: more than %d MiB", path, errTooLarge, limit>>20)
	}
	return b, nil
}
