// Command gen writes the frozen test vectors of docs/spec, with keys that it
// makes of names, so that each run makes the same bytes. It never changes a
// vector that is there: a changed format is a new version with new vectors.
//
//	go run ./test/vectors/internal/gen -dir test/vectors
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	dir := flag.String("dir", "test/vectors", "the folder of the vectors")
	flag.Parse()
	if err := run(*dir); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

// all makes every vector.
func all() *book {
	b := &book{}
	accepted(b)
	tolerated(b)
	receipts(b)
	statements(b)
	inclusion(b)
	nonces(b)
	keys(b)
	content(b)
	hidden(b)
	manifests(b)
	transplants(b)
	policies(b)
	windows(b)
	places(b)
	agile(b)
	return b
}

func run(dir string) error {
	written, differ := 0, 0
	b := all()
	for _, v := range b.vectors {
		content, err := v.Encode()
		if err != nil {
			return err
		}
		path := filepath.Join(dir, v.Name+".json")
		old, err := os.ReadFile(path)
		switch {
		case err == nil && !bytes.Equal(old, content):
			differ++
			fmt.Printf("%s stays as it is; it would be written differently today\n", path)
		case err == nil:
		case errors.Is(err, fs.ErrNotExist):
			if err := os.WriteFile(path, content, 0o644); err != nil {
				return err
			}
			written++
		default:
			return err
		}
	}
	fmt.Printf("%d vectors: %d written, %d there already, %d of them differ\n", len(b.vectors), written, len(b.vectors)-written, differ)
	return sums(dir)
}

// sums writes SHA256SUMS, in the form of sha256sum. Lines that are there stay.
func sums(dir string) error {
	path := filepath.Join(dir, "SHA256SUMS")
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(old)), "\n")
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return err
	}
	for _, f := range files {
		name := "  " + filepath.Base(f)
		if slices.ContainsFunc(lines, func(l string) bool { return strings.HasSuffix(l, name) }) {
			continue
		}
		content, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(content)
		lines = append(lines, hex.EncodeToString(sum[:])+name)
	}
	lines = slices.DeleteFunc(lines, func(l string) bool { return l == "" })
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[64:], b[64:]) })
	return os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644)
}
