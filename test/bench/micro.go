package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/telemark-otel/telemark/test/harness"
)

// micro is one benchmark of a package, the medians of its runs.
type micro struct {
	Package string             `json:"package"`
	Name    string             `json:"name"`
	Values  map[string]float64 `json:"values"` // by unit
}

// microPackages are those whose benchmarks say what a block costs.
var microPackages = []string{
	"./internal/digest", "./internal/receipt", "./internal/merkle", "./internal/group", "./internal/nonce",
	"./internal/replay", "./internal/tpm", "./processor/tpmsignprocessor", "./processor/tpmverifyprocessor",
}

// registryPackages are those whose benchmarks say what a registry carries.
var registryPackages = []string{
	"./internal/tdx", "./internal/tpmattest", "./internal/registry/...",
	"./registryd/internal/store", "./registryd/internal/enrol", "./registryd/internal/instance",
}

// unfit are benchmarks that take long and are of no use here.
const unfit = "Open1000Agents|OpenKey|Sweep3000Streams"

func runMicro(ctx context.Context, o *options, res *result) (err error) {
	res.Micro, err = benchmarks(ctx, o, "micro", microPackages)
	return err
}

func runRegistry(ctx context.Context, o *options, res *result) (err error) {
	res.Registry, err = benchmarks(ctx, o, "registry", registryPackages)
	return err
}

// benchmarks runs go test -bench; its output stays for benchstat.
func benchmarks(ctx context.Context, o *options, part string, packages []string) ([]micro, error) {
	args := append([]string{
		"test", "-run", "^$", "-bench", ".", "-skip", unfit, "-benchmem", "-cpu", "1",
		"-count", strconv.Itoa(o.count), "-benchtime", o.micro.String(),
	}, packages...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = harness.Root()
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	file := filepath.Join(o.out, part+".txt")
	if writeErr := os.WriteFile(file, out.Bytes(), 0o600); writeErr != nil {
		return nil, errors.Join(err, writeErr)
	}
	if err != nil {
		return nil, fmt.Errorf("go %s: %w\n%s%s", strings.Join(args, " "), err, out.Bytes(), errOut.Bytes())
	}
	progress("for benchstat: %s", file)
	return parseBenchmarks(out.Bytes()), nil
}

// parseBenchmarks reads the Go benchmark format: "pkg: …" lines, and result
// lines of a name, a count, and pairs of value and unit.
func parseBenchmarks(out []byte) []micro {
	type key struct{ pkg, name string }
	samples := map[key]map[string][]float64{}
	var order []key
	pkg := ""
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		line := lines.Text()
		if rest, ok := strings.CutPrefix(line, "pkg: "); ok {
			_, pkg, _ = strings.Cut(rest, "/telemark/")
			continue
		}
		name, rest, ok := strings.Cut(line, " ")
		fields := strings.Fields(rest)
		if !ok || !strings.HasPrefix(name, "Benchmark") || len(fields) < 3 {
			continue
		}
		k := key{pkg, strings.TrimPrefix(name, "Benchmark")}
		if samples[k] == nil {
			samples[k] = map[string][]float64{}
			order = append(order, k)
		}
		for i := 1; i+1 < len(fields); i += 2 {
			if v, err := strconv.ParseFloat(fields[i], 64); err == nil {
				samples[k][fields[i+1]] = append(samples[k][fields[i+1]], v)
			}
		}
	}
	result := make([]micro, 0, len(order))
	for _, k := range order {
		m := micro{Package: k.pkg, Name: k.name, Values: map[string]float64{}}
		for unit, values := range samples[k] {
			m.Values[unit] = quantile(values, 0.5)
		}
		result = append(result, m)
	}
	slices.SortStableFunc(result, func(a, b micro) int { return strings.Compare(a.Package, b.Package) })
	return result
}
