package tpmverifyprocessor

import (
	"context"
	"reflect"
	"slices"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/telemark-otel/telemark/internal/registry"
)

// sharedRegistry is a client with its users. The first of them reports what
// belongs to the client as a whole.
type sharedRegistry struct {
	cfg     *RegistryConfig
	client  *registry.Client
	reports *registryMeters

	mu    sync.Mutex // guards what follows, and lets observations take turns
	users []*registryKeys
}

// registryClients knows the clients of this process.
type registryClients struct {
	mu  sync.Mutex // held while one is opened or closed
	all []*sharedRegistry
}

var registries registryClients

// take returns the client of k's section, opened when k is the first, and
// gives k its keys.
func (r *registryClients) take(ctx context.Context, k *registryKeys) (*sharedRegistry, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.all {
		if reflect.DeepEqual(s.cfg, k.cfg) {
			s.join(k)
			return s, nil
		}
	}
	s := &sharedRegistry{cfg: k.cfg, reports: newRegistryMeters(k)}
	client, err := k.open(ctx, s)
	if err != nil {
		return nil, err
	}
	s.client = client
	s.join(k)
	r.all = append(r.all, s)
	return s, nil
}

// give takes a user out, and closes the client behind the last one.
func (r *registryClients) give(s *sharedRegistry, k *registryKeys) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.mu.Lock()
	s.users = slices.DeleteFunc(s.users, func(u *registryKeys) bool { return u == k })
	left := len(s.users)
	s.mu.Unlock()
	k.keys.Close()
	if left > 0 {
		return nil
	}
	r.all = slices.DeleteFunc(r.all, func(other *sharedRegistry) bool { return other == s })
	return s.client.Close()
}

func (s *sharedRegistry) join(k *registryKeys) {
	k.keys = s.client.Keys(k.defaults)
	status := s.client.Status()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users = append(s.users, k)
	k.observe(status)
}

// LookedUp implements registry.Observer.
func (s *sharedRegistry) LookedUp(o registry.Outcome) {
	s.reports.TpmverifyRegistryLookups.Add(context.Background(), 1, s.reports.outcomes[o])
}

// Refused implements registry.Observer.
func (s *sharedRegistry) Refused(r registry.Refusal) {
	s.reports.TpmverifyRegistryRefusedAnswers.Add(context.Background(), 1, s.reports.refusals[r])
}

// Observe implements registry.Observer.
func (s *sharedRegistry) Observe(status registry.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reports.record(status)
	for _, k := range s.users {
		k.observe(status)
	}
}

// registryMeters are the metrics of a client with their attribute sets made
// once. They carry no signal: all pipelines share it.
type registryMeters struct {
	*meters
	own      metric.MeasurementOption
	outcomes map[registry.Outcome]metric.MeasurementOption
	refusals map[registry.Refusal]metric.MeasurementOption
}

func newRegistryMeters(k *registryKeys) *registryMeters {
	of := attribute.String("processor", k.id.String())
	with := func(key, value string) metric.MeasurementOption {
		return metric.WithAttributeSet(attribute.NewSet(of, attribute.String(key, value)))
	}
	m := &registryMeters{
		meters:   k.meters,
		own:      metric.WithAttributeSet(attribute.NewSet(of)),
		outcomes: map[registry.Outcome]metric.MeasurementOption{},
		refusals: map[registry.Refusal]metric.MeasurementOption{},
	}
	for _, o := range registry.Outcomes() {
		m.outcomes[o] = with("outcome", string(o))
	}
	for _, r := range registry.Refusals() {
		m.refusals[r] = with("refusal", string(r))
	}
	return m
}

func (m *registryMeters) record(s registry.Status) {
	ctx := context.Background()
	number := func(b bool) int64 {
		if b {
			return 1
		}
		return 0
	}
	m.TpmverifyRegistryUp.Record(ctx, number(s.Up), m.own)
	m.TpmverifyRegistryStreaming.Record(ctx, number(s.Streaming), m.own)
	m.TpmverifyRegistryRevision.Record(ctx, int64(min(s.Revision, 1<<62)), m.own)
	if s.Age >= 0 {
		m.TpmverifyRegistryAge.Record(ctx, s.Age.Seconds(), m.own)
	}
}
