package tdx

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// Policies is what a deployment accepts: one or more policies, in order. It
// does not change and may be used by many at once.
type Policies struct {
	list []policy
}

// Names returns the policies' names, in order.
func (p *Policies) Names() []string {
	out := make([]string, len(p.list))
	for i := range p.list {
		out[i] = p.list[i].name
	}
	return out
}

// policy is one policy. Absent lists accept anything.
type policy struct {
	name       string
	statuses   map[string]acceptance
	advisories []string
	anyAdvice  bool
	pins       [len(registers)][][]byte
	attributes masks
	xfam       masks
}

type acceptance struct {
	limited bool
	grace   time.Duration // after BehindSince
}

// masks is a value that bits must have.
type masks struct{ mask, value [8]byte }

func (m *masks) accepts(b []byte) bool { return masked(b, m.mask[:], m.value[:]) }

// register is a field of 48 bytes that can be pinned.
type register struct {
	key    string
	reason api.Reason
	of     func(*Evidence) []byte
}

// pinRTMR3 is the place of rtmr3 below; mrtd and rtmr0 to rtmr2 come before it.
const pinRTMR3 = 4

var registers = [...]register{
	{"mrtd", api.MeasurementMismatch, func(e *Evidence) []byte { return e.Measurements.MRTD }},
	{"rtmr0", api.MeasurementMismatch, func(e *Evidence) []byte { return e.Measurements.RTMRs[0] }},
	{"rtmr1", api.MeasurementMismatch, func(e *Evidence) []byte { return e.Measurements.RTMRs[1] }},
	{"rtmr2", api.MeasurementMismatch, func(e *Evidence) []byte { return e.Measurements.RTMRs[2] }},
	{"rtmr3", api.MeasurementMismatch, func(e *Evidence) []byte { return e.Measurements.RTMRs[3] }},
	{"mrconfigid", api.MeasurementMismatch, func(e *Evidence) []byte { return e.Measurements.MRConfigID }},
	{"mrowner", api.MeasurementMismatch, func(e *Evidence) []byte { return e.Measurements.MROwner }},
	{"mrownerconfig", api.MeasurementMismatch, func(e *Evidence) []byte { return e.MROwnerConfig }},
	{"mrseam", api.SEAMMismatch, func(e *Evidence) []byte { return e.Measurements.MRSEAM }},
}

// DefaultPolicies is what is accepted where no policy was written: a platform
// that is up to date, and any VM on it that is neither open to debuggers nor
// can be migrated. It says nothing of what runs in the VM.
func DefaultPolicies(o Options) *Policies {
	p := policy{
		name: "default", statuses: map[string]acceptance{upToDate.String(): {}},
		anyAdvice: true, attributes: defaultAttributes,
	}
	if o.AllowEncryptedPPID {
		p.statuses[Unauthenticated] = acceptance{}
	}
	return &Policies{list: []policy{p}}
}

// defaultAttributes allows the bits of TDATTRIBUTES that take nothing from the
// VM's owner: LASS 27, SEPT_VE_DISABLE 28, PKS 30, KL 31, PERFMON 63. All
// others must be zero, MIGRATABLE (29) among them: a quote of version 4 does
// not say to whom the VM may be migrated.
var defaultAttributes = masks{mask: [8]byte{0xff, 0xff, 0xff, 0x27, 0xff, 0xff, 0xff, 0x7f}}

// Judge holds evidence against policies at now and returns the name of the
// first that accepts it. The refusal is that of the policy that comes closest:
// the one with the fewest objections, the first of them on a tie.
func Judge(policies *Policies, e *Evidence, now time.Time) (string, error) {
	if policies == nil {
		policies = &Policies{}
	}
	var closest []*api.Error
	var name string
	for i := range policies.list {
		p := &policies.list[i]
		objections := p.judge(e, now)
		if len(objections) == 0 {
			return p.name, nil
		}
		if closest == nil || len(objections) < len(closest) {
			closest, name = objections, p.name
		}
	}
	if closest == nil {
		return "", api.Refuse(api.TCBStatusNotAccepted, "there is no policy")
	}
	more := ""
	if n := len(closest) - 1; n > 0 {
		more = fmt.Sprintf(" (and %d more)", n)
	}
	return "", api.Refuse(closest[0].Reason, "policy %q: %s%s", name, closest[0].Detail, more)
}

// judge returns every objection, in a fixed order.
func (p *policy) judge(e *Evidence, now time.Time) []*api.Error {
	var out []*api.Error
	object := func(r api.Reason, format string, args ...any) { out = append(out, api.Refuse(r, format, args...)) }

	a, ok := p.statuses[e.TCBStatus]
	switch until := e.BehindSince.Add(a.grace); {
	case !ok:
		object(api.TCBStatusNotAccepted, "status %s", e.TCBStatus)
	case a.limited && !now.Before(until):
		object(api.TCBStatusNotAccepted, "status %s since %s, accepted until %s", e.TCBStatus, e.BehindSince.Format(time.DateOnly), until.Format(time.DateOnly))
	}
	for _, id := range e.Advisories {
		if !p.anyAdvice && !slices.Contains(p.advisories, id) {
			object(api.AdvisoryNotAccepted, "%.64q", id)
			break
		}
	}
	if !p.attributes.accepts(e.Measurements.TDAttributes) {
		object(api.TDAttributes, "attributes %x, mask %x, value %x", []byte(e.Measurements.TDAttributes), p.attributes.mask, p.attributes.value)
	}
	if !p.xfam.accepts(e.Measurements.XFAM) {
		object(api.TDAttributes, "XFAM %x, mask %x, value %x", []byte(e.Measurements.XFAM), p.xfam.mask, p.xfam.value)
	}
	for i, r := range registers {
		got := r.of(e)
		if p.pins[i] != nil && !slices.ContainsFunc(p.pins[i], func(pin []byte) bool { return bytes.Equal(pin, got) }) {
			object(r.reason, "%s is %x", r.key, got)
		}
	}
	return out
}
