// Package harness starts the real binaries as processes, feeds them and reads
// what they wrote. The end-to-end tests, the benchmarks and the demonstration
// stand on it.
package harness

import "github.com/telemark-otel/telemark/internal/process"

// Process is one running binary.
type Process = process.Process
