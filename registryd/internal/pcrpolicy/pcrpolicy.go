// Package pcrpolicy reads which values of platform registers (SHA-256 bank, TCG
// PC Client Platform Firmware Profile) a registry accepts, in YAML:
//
//	event_log: true          # the boot's event log must be there, and fit
//	pcrs:
//	  7: [65caf8dd1e0ea7a6…] # one of these values
//	  0: []                  # quoted and kept for auditors, any value
package pcrpolicy

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/telemark-otel/telemark/registryd/internal/enrol"
)

const (
	maxFile   = 1 << 20
	maxValues = 1000 // of one register
)

// Load reads a policy; "" is none.
func Load(name string) (*enrol.PCRPolicy, error) {
	if name == "" {
		return nil, nil
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("--pcr-policy: %w", err)
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("--pcr-policy %s is larger than %d bytes", name, maxFile)
	}
	content, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("--pcr-policy: %w", err)
	}
	p, err := Parse(content)
	if err != nil {
		return nil, fmt.Errorf("--pcr-policy %s: %w", name, err)
	}
	return p, nil
}

// Parse reads the content of a policy. It is strict; errors name the line or key.
func Parse(content []byte) (*enrol.PCRPolicy, error) {
	var f struct {
		EventLog bool              `yaml:"event_log"`
		PCRs     map[uint][]string `yaml:"pcrs"`
	}
	d := yaml.NewDecoder(bytes.NewReader(content))
	d.KnownFields(true)
	if err := d.Decode(&f); err != nil {
		return nil, readYAML(err)
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("read YAML: the file goes on behind its first document")
	}
	if len(f.PCRs) == 0 {
		return nil, errors.New("pcrs: names no register")
	}
	p := &enrol.PCRPolicy{PCRs: map[uint][][]byte{}, EventLog: f.EventLog}
	for register, values := range f.PCRs {
		if register > 23 || len(values) > maxValues {
			return nil, fmt.Errorf("pcrs::%d: registers are 0 to 23, with at most %d values each", register, maxValues)
		}
		p.PCRs[register] = [][]byte{}
		for i, text := range values {
			value, err := hex.DecodeString(text)
			if err != nil || len(value) != 32 {
				return nil, fmt.Errorf("pcrs::%d[%d]: %.80q: want 64 hexadecimal digits", register, i, text)
			}
			p.PCRs[register] = append(p.PCRs[register], value)
		}
	}
	return p, nil
}

// readYAML says in one line what is wrong, and where.
func readYAML(err error) error {
	if t, ok := errors.AsType[*yaml.TypeError](err); ok {
		return fmt.Errorf("read YAML: %.300s", strings.Join(t.Errors, "; "))
	}
	return fmt.Errorf("read YAML: %w", err)
}
