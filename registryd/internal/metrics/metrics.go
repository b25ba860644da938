// Package metrics is what registryd tells Prometheus (text format 0.0.4). Labels
// have few values: routes as they stand in the table, reasons from the
// enumeration, never a name, key or address.
package metrics

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/telemark-otel/telemark/registryd/internal/store"
)

// Metrics of one registryd. It serves any number of goroutines.
type Metrics struct {
	registry *prometheus.Registry

	requests      *prometheus.CounterVec
	durations     *prometheus.HistogramVec
	verifications *prometheus.CounterVec
	verifying     *prometheus.HistogramVec

	Running    prometheus.Gauge // verifications
	Waiting    prometheus.Gauge // verifications
	Streams    prometheus.Gauge
	Events     prometheus.Counter
	Heartbeats prometheus.Counter
	Cut        *prometheus.CounterVec // streams, by why

	stats *statistics
}

const prefix = "telemark_registry_"

// New returns metrics with a registry of their own.
func New() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "requests_total", Help: "Requests, by route, status code and reason of refusal.",
		}, []string{"route", "code", "reason"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: prefix + "request_duration_seconds", Help: "Time from a request's headers to its answer; without streams.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"route"}),
		verifications: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "verifications_total", Help: "Verifications of evidence, by kind and outcome: ok, or the reason of refusal.",
		}, []string{"kind", "outcome"}),
		verifying: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: prefix + "verification_duration_seconds", Help: "Time of a verification, its writing included.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5, 30},
		}, []string{"kind"}),
		Running:    prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + "verifications_running", Help: "Verifications under way."}),
		Waiting:    prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + "verifications_waiting", Help: "Requests that wait for their verification to begin."}),
		Streams:    prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + "streams", Help: "Event streams that are open."}),
		Events:     prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + "stream_events_total", Help: "Events sent, over all streams."}),
		Heartbeats: prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + "stream_heartbeats_total", Help: "Heartbeats sent, over all streams."}),
		Cut: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "streams_ended_total", Help: "Streams that ended, by why: client, slow, expired, shutdown, credentials, failed.",
		}, []string{"why"}),
		stats: &statistics{},
	}
	m.registry.MustRegister(m.requests, m.durations, m.verifications, m.verifying, m.Running, m.Waiting, m.Streams,
		m.Events, m.Heartbeats, m.Cut, m.stats,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler serves them.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{DisableCompression: true})
}

// Request counts a request. timed says whether its time means anything.
func (m *Metrics) Request(route string, status int, reason string, took time.Duration, timed bool) {
	m.requests.WithLabelValues(route, strconv.Itoa(status), reason).Inc()
	if timed {
		m.durations.WithLabelValues(route).Observe(took.Seconds())
	}
}

// Verified counts a verification.
func (m *Metrics) Verified(kind, outcome string, took time.Duration) {
	m.verifications.WithLabelValues(kind, outcome).Inc()
	m.verifying.WithLabelValues(kind).Observe(took.Seconds())
}

// SetStats takes counts that were read from the store; nil says that they could
// not be read, and takes the old ones away.
func (m *Metrics) SetStats(s *store.Stats) {
	m.stats.mu.Lock()
	defer m.stats.mu.Unlock()
	m.stats.last = s
}

// statistics shows the store's counts as they were read last.
type statistics struct {
	mu   sync.Mutex
	last *store.Stats
}

var (
	up        = prometheus.NewDesc(prefix+"store_up", "1 when the store could be read.", nil, nil)
	machines  = prometheus.NewDesc(prefix+"machines", "Machines, by state of their newest key; pending is the queue for approval.", []string{"state"}, nil)
	instances = prometheus.NewDesc(prefix+"instances", "TDX instances, by state.", []string{"state"}, nil)
	tokens    = prometheus.NewDesc(prefix+"join_tokens", "Join tokens.", nil, nil)
	revision  = prometheus.NewDesc(prefix+"revision", "Revision of the store.", nil, nil)
	auditSeq  = prometheus.NewDesc(prefix+"audit_entries", "Number of the last entry of the audit log.", nil, nil)
)

// Describe implements prometheus.Collector.
func (s *statistics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{up, machines, instances, tokens, revision, auditSeq} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s *statistics) Collect(ch chan<- prometheus.Metric) {
	s.mu.Lock()
	last := s.last
	s.mu.Unlock()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	if last == nil {
		gauge(up, 0)
		return
	}
	gauge(up, 1)
	for state, n := range last.Machines {
		name := string(state)
		if name == "" {
			name = "allowed"
		}
		gauge(machines, float64(n), name)
	}
	for state, n := range last.Instances {
		gauge(instances, float64(n), string(state))
	}
	gauge(tokens, float64(last.Tokens))
	gauge(revision, float64(last.Revision))
	gauge(auditSeq, float64(last.AuditSeq))
}
