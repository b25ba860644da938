package ondemandreceiver

import (
	"fmt"
	"time"

	"go.opentelemetry.io/collector/component"

	"github.com/telemark-otel/telemark/internal/signing"
)

// signer is an extension that signs what the pipeline carries.
type signer interface {
	component.Component
	// Status may be called at any time after the extension's start, by anybody.
	Status() signing.Status
}

// findSigner returns nil when none is named and none, or more than one, is there.
func findSigner(host component.Host, want *component.ID) (signer, error) {
	if want != nil {
		found, ok := host.GetExtensions()[*want]
		if !ok {
			return nil, fmt.Errorf("`signer` names %q, which is not among `service::extensions`", *want)
		}
		s, ok := found.(signer)
		if !ok {
			return nil, fmt.Errorf("`signer` names %q, which has no state of signing to show", *want)
		}
		return s, nil
	}
	var only signer
	for _, e := range host.GetExtensions() {
		if s, ok := e.(signer); ok {
			if only != nil {
				return nil, nil
			}
			only = s
		}
	}
	return only, nil
}

// Status is the body of GET /metrics/status.
type Status struct {
	StartedAt     time.Time `json:"started_at"`
	UptimeSeconds float64   `json:"uptime_seconds"`
	Requests      Requests  `json:"requests"`
	// Signer is how the signing extension stands, absent without one.
	Signer *signing.Status `json:"signer,omitempty"`
}

// Requests for metrics since the start.
type Requests struct {
	Accepted    uint64 `json:"accepted"`
	Refused     uint64 `json:"refused"`     // 4xx: sending them again does not help
	Unavailable uint64 `json:"unavailable"` // 503: sending them again may
	Points      uint64 `json:"data_points"` // that the pipeline accepted
	Running     int    `json:"running"`
}

func (o *ondemand) status() *Status {
	s := &Status{
		StartedAt: o.started.UTC(), UptimeSeconds: time.Since(o.started).Seconds(),
		Requests: Requests{
			Accepted: o.counts.accepted.Load(), Refused: o.counts.refused.Load(), Unavailable: o.counts.unavailable.Load(),
			Points: o.counts.points.Load(), Running: len(o.places),
		},
	}
	if o.signer != nil {
		signing := o.signer.Status()
		s.Signer = &signing
	}
	return s
}
