package tdx

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Bounds of a policy file.
const (
	MaxPolicyFile = 1 << 20 // bytes
	maxPolicies   = 64
	maxPins       = 256
	maxGraceDays  = 3650
)

// The file, as docs/guide/tdx.md describes it.
type policyFile struct {
	Policies []policyEntry `yaml:"policies"`
}

type policyEntry struct {
	Name string `yaml:"name"`
	TCB  struct {
		Accept []struct {
			Status    string `yaml:"status"`
			GraceDays *int   `yaml:"grace_days"` // absent: without end
		} `yaml:"accept"`
		Advisories []string `yaml:"advisories"` // absent: none; "*": any
	} `yaml:"tcb"`

	MRTD          []string `yaml:"mrtd"`
	RTMR0         []string `yaml:"rtmr0"`
	RTMR1         []string `yaml:"rtmr1"`
	RTMR2         []string `yaml:"rtmr2"`
	RTMR3         []string `yaml:"rtmr3"`
	MRConfigID    []string `yaml:"mrconfigid"`
	MROwner       []string `yaml:"mrowner"`
	MROwnerConfig []string `yaml:"mrownerconfig"`
	MRSEAM        []string `yaml:"mrseam"`

	TDAttributes *maskEntry `yaml:"td_attributes"`
	XFAM         *maskEntry `yaml:"xfam"`
}

type maskEntry struct {
	Mask  string `yaml:"mask"`
	Value string `yaml:"value"`
}

var policyName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$`)

// ParsePolicies reads a policy file. It is strict: unknown keys, keys twice,
// keys without a value, anchors and a second document are refused, since what
// a policy does not say it does not ask for.
func ParsePolicies(file []byte) (*Policies, error) {
	if len(file) > MaxPolicyFile {
		return nil, fmt.Errorf("the policy file has %d bytes, more than %d", len(file), MaxPolicyFile)
	}
	var tree yaml.Node
	if err := yaml.Unmarshal(file, &tree); err != nil {
		return nil, fmt.Errorf("policy file: %w", err)
	}
	if err := plainYAML(&tree); err != nil {
		return nil, err
	}
	var f policyFile
	d := yaml.NewDecoder(bytes.NewReader(file))
	d.KnownFields(true)
	if err := d.Decode(&f); err != nil {
		return nil, fmt.Errorf("policy file: %w", err)
	}
	if err := d.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return nil, errors.New("policy file: there is a second document; put all policies into one list")
	}
	if len(f.Policies) == 0 || len(f.Policies) > maxPolicies {
		return nil, fmt.Errorf("policies: %d entries; write 1 to %d", len(f.Policies), maxPolicies)
	}
	out := &Policies{}
	seen := map[string]bool{}
	for i := range f.Policies {
		p, err := f.Policies[i].policy()
		if err != nil {
			return nil, fmt.Errorf("policies[%d] (%.64q): %w", i, f.Policies[i].Name, err)
		}
		if seen[p.name] {
			return nil, fmt.Errorf("policies[%d]: name %q stands twice; verdicts carry the name, so each needs its own", i, p.name)
		}
		seen[p.name] = true
		out.list = append(out.list, *p)
	}
	return out, nil
}

func plainYAML(n *yaml.Node) error {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		return fmt.Errorf("policy file, line %d: anchors and aliases are not read; write the value out", n.Line)
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return fmt.Errorf("policy file, line %d: a key has no value; give it one or remove the key", n.Line)
	}
	for _, child := range n.Content {
		if err := plainYAML(child); err != nil {
			return err
		}
	}
	return nil
}

func (e *policyEntry) policy() (*policy, error) {
	if !policyName.MatchString(e.Name) {
		return nil, errors.New("name: 1 to 64 letters, digits, dots, dashes and underscores")
	}
	p := &policy{name: e.Name, attributes: defaultAttributes}
	if err := e.readTCB(p); err != nil {
		return nil, err
	}
	lists := [len(registers)][]string{e.MRTD, e.RTMR0, e.RTMR1, e.RTMR2, e.RTMR3, e.MRConfigID, e.MROwner, e.MROwnerConfig, e.MRSEAM}
	for i, list := range lists {
		if err := readPins(registers[i].key, list, &p.pins[i]); err != nil {
			return nil, err
		}
	}
	if p.pins[pinRTMR3] != nil {
		for i := range pinRTMR3 {
			if p.pins[i] == nil {
				return nil, fmt.Errorf("rtmr3 is pinned and %s is not: the VM itself extends rtmr3, so that any VM can reach the value; pin mrtd and rtmr0 to rtmr2 with it", registers[i].key)
			}
		}
	}
	if err := e.TDAttributes.read("td_attributes", &p.attributes); err != nil {
		return nil, err
	}
	if low := p.attributes; low.mask[0] != 0xff || low.value[0] != 0 {
		return nil, errors.New("td_attributes: the first byte of mask is ff and that of value 00: a VM that its host can debug is never accepted")
	}
	return p, e.XFAM.read("xfam", &p.xfam)
}

func (e *policyEntry) readTCB(p *policy) error {
	if len(e.TCB.Accept) == 0 {
		return errors.New("tcb::accept: no status; write at least UpToDate")
	}
	p.statuses = map[string]acceptance{}
	for _, a := range e.TCB.Accept {
		s, known := statusOf(a.Status)
		if !known && a.Status != Unauthenticated {
			return fmt.Errorf("tcb::accept: status %.40q is none of Intel's names, like OutOfDate", a.Status)
		}
		if known && s == revoked {
			return errors.New("tcb::accept: status Revoked cannot be accepted")
		}
		if _, twice := p.statuses[a.Status]; twice {
			return fmt.Errorf("tcb::accept: status %s stands twice", a.Status)
		}
		var to acceptance
		if a.GraceDays != nil {
			if *a.GraceDays < 1 || *a.GraceDays > maxGraceDays || !known || s == upToDate {
				return fmt.Errorf("tcb::accept: grace_days %d of %s: 1 to %d days of a status that is behind; leave it out to accept the status without end", *a.GraceDays, a.Status, maxGraceDays)
			}
			to = acceptance{limited: true, grace: time.Duration(*a.GraceDays) * 24 * time.Hour}
		}
		p.statuses[a.Status] = to
	}
	for _, id := range e.TCB.Advisories {
		switch {
		case id == "*":
			p.anyAdvice = true
		case !strings.HasPrefix(id, "INTEL-") || len(id) > 64:
			return fmt.Errorf("tcb::advisories: %.64q is no advisory like INTEL-SA-00837, nor \"*\" for any", id)
		}
	}
	p.advisories = e.TCB.Advisories
	return nil
}

func readPins(key string, list []string, to *[][]byte) error {
	if list == nil {
		return nil
	}
	if len(list) == 0 || len(list) > maxPins {
		return fmt.Errorf("%s: %d values; write 1 to %d, or leave the key out to accept any", key, len(list), maxPins)
	}
	for _, s := range list {
		b, err := hex.DecodeString(s)
		if err != nil || len(b) != 48 {
			return fmt.Errorf("%s: %.100q is not 96 hexadecimal digits", key, s)
		}
		*to = append(*to, b)
	}
	return nil
}

func (m *maskEntry) read(key string, to *masks) error {
	if m == nil {
		return nil
	}
	for _, part := range []struct {
		name, s string
		to      *[8]byte
	}{{"mask", m.Mask, &to.mask}, {"value", m.Value, &to.value}} {
		b, err := hex.DecodeString(part.s)
		if err != nil || len(b) != 8 {
			return fmt.Errorf("%s::%s: %.32q is not 16 hexadecimal digits, in the order of the quote's bytes", key, part.name, part.s)
		}
		*part.to = [8]byte(b)
	}
	for i := range to.value {
		if to.value[i]&^to.mask[i] != 0 {
			return fmt.Errorf("%s: value %x has bits that mask %x does not look at", key, to.value, to.mask)
		}
	}
	return nil
}
