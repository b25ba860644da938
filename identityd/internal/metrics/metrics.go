// Package metrics is what identityd tells Prometheus (text format 0.0.4). Labels
// have few values: routes as they stand in the table, reasons from the
// enumeration, never a key, name or address.
package metrics

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
)

// Metrics of one identityd. It serves any number of goroutines.
type Metrics struct {
	registry *prometheus.Registry

	requests  *prometheus.CounterVec
	durations *prometheus.HistogramVec
	steps     *prometheus.CounterVec
	quotes    *prometheus.CounterVec
	quoting   prometheus.Histogram

	InFlight prometheus.Gauge // calls that do something
}

const prefix = "telemark_identity_"

// New returns metrics with a registry of their own.
func New() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "requests_total", Help: "Requests, by route, status code and reason of refusal.",
		}, []string{"route", "code", "reason"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: prefix + "request_duration_seconds", Help: "Time from a request's headers to its answer.",
			Buckets: []float64{.001, .005, .025, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900},
		}, []string{"route"}),
		steps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "steps_total", Help: "Steps that were taken, by action and by what the registry knows of them: told or pending.",
		}, []string{"action", "registry"}),
		quotes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "quotes_total", Help: "Quotes that were asked of the platform, by outcome: ok, or the reason why there was none.",
		}, []string{"outcome"}),
		quoting: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: prefix + "quote_duration_seconds", Help: "Time that the platform took for a quote.",
			Buckets: []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}),
		InFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + "calls_in_flight", Help: "Calls under way, without those for health and metrics."}),
	}
	m.registry.MustRegister(m.requests, m.durations, m.steps, m.quotes, m.quoting, m.InFlight,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler serves them.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{DisableCompression: true})
}

// Request counts a request.
func (m *Metrics) Request(route string, status int, reason string, took time.Duration) {
	m.requests.WithLabelValues(route, strconv.Itoa(status), reason).Inc()
	m.durations.WithLabelValues(route).Observe(took.Seconds())
}

// Step counts a step that was taken.
func (m *Metrics) Step(action string, told bool) {
	registry := "pending"
	if told {
		registry = "told"
	}
	m.steps.WithLabelValues(action, registry).Inc()
}

// Quote counts a quote that was asked of the platform; took is 0 where the
// caller was turned away.
func (m *Metrics) Quote(took time.Duration, err error) {
	outcome := "ok"
	if err != nil {
		outcome = string(reason.Of(err))
	}
	m.quotes.WithLabelValues(outcome).Inc()
	if took > 0 {
		m.quoting.Observe(took.Seconds())
	}
}

// Watch shows, whenever somebody asks, how the instance stands. It is called
// once.
func (m *Metrics) Watch(look func() Snapshot) { m.registry.MustRegister(&watch{look}) }
