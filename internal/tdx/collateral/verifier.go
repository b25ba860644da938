// Package collateral fetches, caches and applies what Intel says of platforms
// with TDX: it is what a registry verifies quotes with. Collateral comes from
// Intel's Provisioning Certification Service or a caching service (PCCS) that
// speaks its API, version 4, or from a directory. Errors are *api.Error.
//
// Nothing is trusted for where it came from: every document is verified to the
// root before it is used or kept, when it is read back from disk too. It
// leaves out the service's calls that need a subscription: registration of
// platforms and their certificates.
package collateral

import (
	"context"
	"crypto/x509"
	"errors"
	"path/filepath"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/tdx"
)

// Options of New.
type Options struct {
	Source             Source
	Roots              *x509.CertPool // Intel's SGX root when nil
	AllowEncryptedPPID bool
	Policies           *tdx.Policies // tdx.DefaultPolicies when nil

	// Dir keeps collateral and floors over restarts; in memory only when empty.
	Dir string
	// Floors replaces those in Dir: replicas share theirs.
	Floors Floors

	Refresh  time.Duration // how old collateral may be before newer is asked for; default 1h
	Negative time.Duration // how long a failure is remembered; default 30s
	Timeout  time.Duration // of one fetch, all documents together; default 10s
	Sets     int           // kinds of platforms kept in memory; default 256

	Logger *zap.Logger
}

// Verifier verifies quotes: reads, authenticates, finds the collateral,
// appraises, and judges by policy. It is safe for concurrent use. Close it.
type Verifier struct {
	options  tdx.Options
	cache    *cache
	policies atomic.Pointer[tdx.Policies]
}

// New returns a Verifier. It fetches nothing yet.
func New(o Options) (*Verifier, error) {
	if o.Source == nil {
		return nil, errors.New("collateral: no source")
	}
	setDefault(&o.Refresh, time.Hour)
	setDefault(&o.Negative, 30*time.Second)
	setDefault(&o.Timeout, 10*time.Second)
	setDefault(&o.Sets, 256)
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Floors == nil {
		o.Floors = &MemoryFloors{}
		if o.Dir != "" {
			floors, err := OpenFloors(filepath.Join(o.Dir, "floors.json"))
			if err != nil {
				return nil, err
			}
			o.Floors = floors
		}
	}
	v := &Verifier{options: tdx.Options{Roots: o.Roots, AllowEncryptedPPID: o.AllowEncryptedPPID}}
	v.cache = newCache(&o, v.options)
	if o.Policies == nil {
		o.Policies = tdx.DefaultPolicies(v.options)
	}
	v.policies.Store(o.Policies)
	return v, nil
}

func setDefault[T int | time.Duration](to *T, value T) {
	if *to <= 0 {
		*to = value
	}
}

// SetPolicies replaces the policies, for verifications that begin from now on.
func (v *Verifier) SetPolicies(p *tdx.Policies) { v.policies.Store(p) }

// Evidence verifies a quote at now and returns what it says, whatever policy
// may think of it.
func (v *Verifier) Evidence(ctx context.Context, quote []byte, now time.Time) (*tdx.Evidence, error) {
	a, err := tdx.Authenticate(quote, v.options, now)
	if err != nil {
		return nil, err
	}
	if a.EncryptedPPID {
		return a.Appraise(nil, now)
	}
	e, err := v.cache.get(ctx, platform{a.FMSPC, a.CA}, now)
	if err != nil {
		return nil, err
	}
	return a.Appraise(e, now)
}

// Verify verifies a quote at now and judges it by the policies.
func (v *Verifier) Verify(ctx context.Context, quote []byte, now time.Time) (*tdx.Verified, error) {
	e, err := v.Evidence(ctx, quote, now)
	if err != nil {
		return nil, err
	}
	policy, err := tdx.Judge(v.policies.Load(), e, now)
	if err != nil {
		return nil, err
	}
	return &tdx.Verified{
		ReportData: e.ReportData, PPID: e.PPID, TCBStatus: e.TCBStatus, Advisories: e.Advisories,
		Measurements: e.Measurements, Policy: policy,
	}, nil
}

// Stats returns how the cache has fared.
func (v *Verifier) Stats() Stats { return v.cache.stats() }

// Close ends what goes on in the background. It may be called twice.
func (v *Verifier) Close() { v.cache.close() }
