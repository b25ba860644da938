package main

import (
	"bytes"
	"os"
	"strings"
)

const swapsFile = "/proc/swaps"

// warnings are the configuration's, and that of swap: what is said to live in
// memory, tmpfs too, would be written to the host's disk.
func (p *program) warnings() []string {
	out := p.config.Warnings()
	// Without the file the kernel knows no swap.
	if swaps, err := os.ReadFile(swapsFile); err == nil {
		if onto := swapped(swaps); onto != "" {
			out = append(out, "swap: memory, and the secrets in it, is written to "+onto+"; turn it off, or use zram")
		}
	}
	return out
}

// swapped returns the first place that memory is swapped to, of the lines after
// the heading (proc(5)), or nothing. zram is memory itself.
func swapped(swaps []byte) string {
	_, lines, _ := bytes.Cut(swaps, []byte("\n"))
	for line := range bytes.Lines(lines) {
		if fields := strings.Fields(string(line)); len(fields) > 0 && !strings.HasPrefix(fields[0], "/dev/zram") {
			return fields[0]
		}
	}
	return ""
}
