package keyfile

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/telemark-otel/telemark/internal/policy"
)

// Bounds of the policies in one file.
const (
	maxPolicies = 1024
	maxScope    = 512
)

// Policy is what is demanded of the keys in a scope:
//
//	default          all keys
//	label:KEY=VALUE  those with this label
//	name:NAME        those of this machine, whatever the case
//
// Each member comes from the narrowest that has it: the key itself, its name, its
// labels (of several the one whose scope comes first in the alphabet), the
// default of the file, the verifier's own defaults.
type Policy struct {
	Scope string `json:"scope"`

	RequireEvidence string            `json:"require_evidence,omitempty"`
	Bind            map[string]string `json:"bind,omitempty"`
	BindRequired    []string          `json:"bind_required,omitempty"`
	Freshness       string            `json:"freshness,omitempty"`
	Location        *Location         `json:"location,omitempty"`
}

// Location is a location policy.
type Location struct {
	Required    *bool           `json:"required,omitempty"` // true when absent
	Sources     []string        `json:"sources,omitempty"`
	MaxAge      string          `json:"max_age,omitempty"`      // a duration like 10m
	MaxAccuracy float64         `json:"max_accuracy,omitempty"` // metres
	Within      json.RawMessage `json:"within,omitempty"`       // GeoJSON
	Regions     []string        `json:"regions,omitempty"`      // NAME or NAME@SHA256
	Mode        string          `json:"mode,omitempty"`         // centre, strict
	MaxSpeed    float64         `json:"max_speed,omitempty"`    // kilometres per hour
}

// demands are members of a policy; nil or "" demands nothing. location may stand
// there read, when it was read for many.
type demands struct {
	requireEvidence string
	bind            map[string]string
	bindRequired    []string
	freshness       string
	location        *Location
	read            *policy.Location
}

func (e *Entry) own() demands {
	return demands{e.RequireEvidence, e.Bind, e.BindRequired, e.Freshness, e.Location, nil}
}

func (p *Policy) own() demands {
	return demands{p.RequireEvidence, p.Bind, p.BindRequired, p.Freshness, p.Location, nil}
}

func (d *demands) none() bool {
	return d.bind == nil && d.bindRequired == nil && d.freshness == "" && d.location == nil && d.requireEvidence == ""
}

// fill takes from wider what d does not say. What is bound and what has to be
// is one member.
func (d *demands) fill(wider *demands) {
	if d.bind == nil && d.bindRequired == nil {
		d.bind, d.bindRequired = wider.bind, wider.bindRequired
	}
	if d.freshness == "" {
		d.freshness = wider.freshness
	}
	if d.requireEvidence == "" {
		d.requireEvidence = wider.requireEvidence
	}
	if d.location == nil {
		d.location, d.read = wider.location, wider.read
	}
}

// over returns the defaults with what d says in their place.
func (d *demands) over(defaults *policy.Policy) (*policy.Policy, error) {
	if d.none() {
		return defaults, nil
	}
	p := *defaults
	var err error
	if d.requireEvidence != "" {
		if p.Genuine, err = policy.ParseRequireEvidence(d.requireEvidence); err != nil {
			return nil, fmt.Errorf(`"require_evidence": %w`, err)
		}
	}
	if d.bind != nil || d.bindRequired != nil {
		if p.Bind, err = policy.ParseBind(d.bind, d.bindRequired); err != nil {
			return nil, fmt.Errorf(`"bind": %w`, err)
		}
	}
	if d.freshness != "" {
		if p.Freshness, err = policy.ParseFreshness(d.freshness); err != nil {
			return nil, err
		}
	}
	switch {
	case d.read != nil:
		p.Location = d.read
	case d.location != nil:
		if p.Location, err = d.location.policy(defaults.Regions); err != nil {
			return nil, fmt.Errorf(`"location": %w`, err)
		}
	}
	return &p, nil
}

func (l *Location) policy(regions *policy.Regions) (*policy.Location, error) {
	p := &policy.Location{
		Required:    l.Required == nil || *l.Required,
		Sources:     l.Sources,
		MaxAccuracy: l.MaxAccuracy,
	}
	p.SetMaxSpeed(l.MaxSpeed)
	var err error
	if l.MaxAge != "" {
		if p.MaxAge, err = time.ParseDuration(l.MaxAge); err != nil {
			return nil, fmt.Errorf(`"max_age": %w`, err)
		}
	}
	if p.Mode, err = policy.ParseMode(l.Mode); err != nil {
		return nil, err
	}
	if len(l.Within) > 0 {
		if p.Within, err = policy.ParseArea(l.Within); err != nil {
			return nil, fmt.Errorf(`"within": %w`, err)
		}
	}
	if p.Regions, err = regions.FindAll(l.Regions); err != nil {
		return nil, fmt.Errorf(`"regions": %w`, err)
	}
	return p, p.Validate()
}

func (e *Entry) policy(defaults *policy.Policy, groups *groups) (*policy.Policy, error) {
	d := e.own()
	for _, g := range groups.of(e) {
		d.fill(&g.demands)
	}
	return d.over(defaults)
}

// group is a scoped policy, its location read once for all of its keys.
type group struct {
	demands
	scope      string
	rank       int    // the narrowest first
	key, value string // of a label; value is the machine's name with rank 0
}

const (
	byName = iota
	byLabel
	byDefault
)

// groups are the scoped policies of a file, narrowest first. nil holds none.
type groups struct{ all []group }

func newGroups(policies []Policy, defaults *policy.Policy) (*groups, error) {
	if len(policies) > maxPolicies {
		return nil, fmt.Errorf(`"policies" holds %d policies, at most %d are allowed`, len(policies), maxPolicies)
	}
	out := &groups{}
	for i := range policies {
		p := &policies[i]
		g, err := p.group(defaults)
		if err != nil {
			return nil, fmt.Errorf("policies[%d] (%.80q): %w", i, p.Scope, err)
		}
		out.all = append(out.all, g)
	}
	slices.SortStableFunc(out.all, func(a, b group) int { return cmp.Or(cmp.Compare(a.rank, b.rank), strings.Compare(a.scope, b.scope)) })
	for i := 1; i < len(out.all); i++ {
		if out.all[i].scope == out.all[i-1].scope {
			return nil, fmt.Errorf("policies: the scope %.80q stands there twice", out.all[i].scope)
		}
	}
	return out, nil
}

func (p *Policy) group(defaults *policy.Policy) (group, error) {
	g := group{demands: p.own(), scope: p.Scope}
	if len(p.Scope) > maxScope {
		return group{}, fmt.Errorf(`"scope" has at most %d bytes`, maxScope)
	}
	name, isName := strings.CutPrefix(p.Scope, "name:")
	label, isLabel := strings.CutPrefix(p.Scope, "label:")
	switch {
	case p.Scope == "default":
		g.rank = byDefault
	case isName && name != "":
		g.rank, g.value = byName, name
	case isLabel:
		var ok bool
		if g.key, g.value, ok = strings.Cut(label, "="); !ok || g.key == "" {
			return group{}, errors.New(`"scope" is not label:KEY=VALUE`)
		}
		g.rank = byLabel
	default:
		return group{}, errors.New(`"scope" is none: take default, label:KEY=VALUE or name:NAME`)
	}
	if g.none() {
		return group{}, errors.New("it demands nothing: name what it demands, or remove it")
	}
	read, err := g.over(&policy.Policy{Regions: defaults.Regions})
	if err != nil {
		return group{}, err
	}
	g.read = read.Location
	return g, nil
}

func (g *groups) of(e *Entry) []*group {
	if g == nil {
		return nil
	}
	var out []*group
	for i := range g.all {
		if g.all[i].speaksOf(e) {
			out = append(out, &g.all[i])
		}
	}
	return out
}

func (g *group) speaksOf(e *Entry) bool {
	switch g.rank {
	case byName:
		return strings.EqualFold(g.value, e.Name)
	case byLabel:
		value, ok := e.Labels[g.key]
		return ok && value == g.value
	default:
		return true
	}
}

// withRegions returns the defaults with the regions of a file beside their own.
func withRegions(defaults *policy.Policy, texts map[string]json.RawMessage) (*policy.Policy, error) {
	if len(texts) == 0 {
		return defaults, nil
	}
	p := *defaults
	var err error
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		if p.Regions, err = p.Regions.With(name, texts[name]); err != nil {
			return nil, fmt.Errorf(`"regions": %w`, err)
		}
	}
	return &p, nil
}
