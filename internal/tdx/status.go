package tdx

import (
	"bytes"
	"slices"
	"time"
)

// status is a TCB status as the set of what is wrong. The set of two statuses
// together is their union, which is also how Intel lets the status of a
// platform, its module and its quoting enclave converge.
type status uint8

const (
	hardening     status = 1 << iota // software has to defend itself
	configuration                    // the firmware is set up wrongly
	outOfDate
	revoked
	upToDate status = 0
)

// names from the mildest to the worst.
var names = []struct {
	status
	name string
}{
	{upToDate, "UpToDate"},
	{hardening, "SWHardeningNeeded"},
	{configuration, "ConfigurationNeeded"},
	{configuration | hardening, "ConfigurationAndSWHardeningNeeded"},
	{outOfDate, "OutOfDate"},
	{outOfDate | configuration, "OutOfDateConfigurationNeeded"},
	{revoked, "Revoked"},
}

func statusOf(name string) (status, bool) {
	for _, n := range names {
		if n.name == name {
			return n.status, true
		}
	}
	return 0, false
}

// String returns Intel's name. What is out of date needs hardening anyway, and
// what is revoked needs nothing any more.
func (s status) String() string {
	if s&revoked != 0 {
		s = revoked
	}
	if s&outOfDate != 0 {
		s &^= hardening
	}
	for _, n := range names {
		if n.status == s {
			return n.name
		}
	}
	return "Revoked" // not reached: all sets are named
}

// standing is where a platform, module or enclave stands.
type standing struct {
	status     status
	date       time.Time // of its level
	behind     time.Time // when the first newer level came; its own date without
	advisories []string
}

// stand finds the first level that fits. It is false when none does.
func stand(levels []level, fits func(*level) bool) (standing, bool) {
	for i := range levels {
		l := &levels[i]
		if !fits(l) {
			continue
		}
		s := standing{status: l.status, date: l.date, behind: l.date, advisories: l.advisories}
		for j := range levels[:i] {
			newer := levels[j].date
			if newer.After(l.date) && (s.behind.Equal(l.date) || newer.Before(s.behind)) {
				s.behind = newer
			}
		}
		return s, true
	}
	return standing{}, false
}

func notBelow(have []byte, want []uint8) bool {
	for i := range want {
		if have[i] < want[i] {
			return false
		}
	}
	return true
}

// platformStanding compares SGX components, PCESVN and TDX components. The
// first two TDX components are those of the TDX module: they are compared
// here only when the module has no identity of its own (major version 0).
func (t *tcbInfo) platformStanding(p *platform, teeTCBSVN []byte) (standing, bool) {
	from := 0
	if teeTCBSVN[1] > 0 {
		from = 2
	}
	return stand(t.levels, func(l *level) bool {
		return notBelow(p.sgxSVN, l.sgx[:]) && p.pceSVN >= l.pceSVN && notBelow(teeTCBSVN[from:], l.tdx[from:])
	})
}

func svnStanding(levels []level, svn uint16) (standing, bool) {
	return stand(levels, func(l *level) bool { return svn >= l.isvSVN })
}

// conclude puts standings together.
func (e *Evidence) conclude(all ...standing) {
	var together status
	for _, s := range all {
		together |= s.status
		e.Advisories = append(e.Advisories, s.advisories...)
		if e.TCBDate.IsZero() || s.date.Before(e.TCBDate) {
			e.TCBDate = s.date
		}
		if s.status != upToDate && (e.BehindSince.IsZero() || s.behind.Before(e.BehindSince)) {
			e.BehindSince = s.behind
		}
	}
	slices.Sort(e.Advisories)
	e.Advisories = slices.Compact(e.Advisories)
	e.TCBStatus = together.String()
}

// masked reports whether have, under mask, is want under it.
func masked(have, mask, want []byte) bool {
	if len(have) != len(mask) || len(want) != len(mask) {
		return false
	}
	got := make([]byte, len(mask))
	expected := make([]byte, len(mask))
	for i := range mask {
		got[i], expected[i] = have[i]&mask[i], want[i]&mask[i]
	}
	return bytes.Equal(got, expected)
}
