package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Snapshot is how the instance stands at one moment.
type Snapshot struct {
	State    string
	Counter  uint64
	Problems []string // their reasons

	RolledBack   bool
	Running      bool // the container
	Mounted      bool // the volume
	SSHOpen      bool
	SSHSessions  int
	RegistryTold bool
	LeaseExpires time.Time
	QuotedAt     time.Time
}

type watch struct{ look func() Snapshot }

var (
	state      = prometheus.NewDesc(prefix+"state", "1 for the state that the instance is in.", []string{"state"}, nil)
	counter    = prometheus.NewDesc(prefix+"state_counter", "Counter of the state; it never goes back.", nil, nil)
	problems   = prometheus.NewDesc(prefix+"problem", "1 for each reason that keeps the instance from running as it should.", []string{"reason"}, nil)
	rolledBack = prometheus.NewDesc(prefix+"rolled_back", "1 when the disk was set back.", nil, nil)
	running    = prometheus.NewDesc(prefix+"container_running", "1 when the container runs.", nil, nil)
	mounted    = prometheus.NewDesc(prefix+"volume_mounted", "1 when the encrypted volume is mounted.", nil, nil)
	sshOpen    = prometheus.NewDesc(prefix+"ssh_open", "1 while SSH is open.", nil, nil)
	sessions   = prometheus.NewDesc(prefix+"ssh_sessions", "SSH sessions now.", nil, nil)
	told       = prometheus.NewDesc(prefix+"registry_told", "1 when the registry has heard of everything.", nil, nil)
	lease      = prometheus.NewDesc(prefix+"registry_lease_expires_timestamp_seconds", "When the registry's lease ends.", nil, nil)
	quoted     = prometheus.NewDesc(prefix+"quoted_timestamp_seconds", "When the last quote was made.", nil, nil)
)

// Describe implements prometheus.Collector.
func (w *watch) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{state, counter, problems, rolledBack, running, mounted, sshOpen, sessions, told, lease, quoted} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (w *watch) Collect(ch chan<- prometheus.Metric) {
	s := w.look()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	flag := func(d *prometheus.Desc, is bool) {
		v := 0.0
		if is {
			v = 1
		}
		gauge(d, v)
	}
	at := func(d *prometheus.Desc, t time.Time) {
		if !t.IsZero() {
			gauge(d, float64(t.UnixMilli())/1000)
		}
	}
	gauge(state, 1, s.State)
	gauge(counter, float64(s.Counter))
	seen := map[string]bool{}
	for _, r := range s.Problems {
		if !seen[r] {
			seen[r] = true
			gauge(problems, 1, r)
		}
	}
	flag(rolledBack, s.RolledBack)
	flag(running, s.Running)
	flag(mounted, s.Mounted)
	flag(sshOpen, s.SSHOpen)
	gauge(sessions, float64(s.SSHSessions))
	flag(told, s.RegistryTold)
	at(lease, s.LeaseExpires)
	at(quoted, s.QuotedAt)
}
