package enrol

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tpmattest"
	"github.com/telemark-otel/telemark/registryd/internal/seal"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

// Queue says which unknown machines wait for approval instead of being refused.
type Queue string

// The values of Queue.
const (
	QueueGenuine Queue = "genuine" // those with an EK certificate to a pinned root
	QueueAll     Queue = "all"
	QueueNone    Queue = "none"
)

// Defaults and bounds.
const (
	defaultLease      = 24 * time.Hour
	defaultSessionTTL = 2 * time.Minute
	maxSessionTTL     = time.Hour
	defaultMaxPending = 10_000
	maxIntermediates  = 8
	maxPCR            = 23
)

// Options of New.
type Options struct {
	Store *store.DB
	// SealKey is 32 bytes, the same on all replicas: it seals sessions and the
	// keys of join tokens.
	SealKey []byte
	// Roots and Intermediates are the vendors' certificates; with no roots
	// nothing is genuine by its chain.
	Roots, Intermediates *x509.CertPool
	Lease                time.Duration // of a key, default 24h
	SessionTTL           time.Duration // default 2m, at most 1h
	Queue                Queue         // default QueueGenuine
	MaxPending           int           // default 10,000
	// PCRs is the policy for platform registers; nil asks for none.
	PCRs   *PCRPolicy
	Now    func() time.Time
	Logger *zap.Logger
}

// PCRPolicy lists, for registers of the SHA-256 bank, the values that are
// accepted; a register with an empty list is only quoted and kept.
type PCRPolicy struct {
	PCRs     map[uint][][]byte
	EventLog bool // the boot's event log must be there and replay to the registers
}

func (p *PCRPolicy) validate() error {
	if p == nil {
		return nil
	}
	if len(p.PCRs) == 0 {
		return errors.New("enrol: a policy for registers without a register")
	}
	for n, values := range p.PCRs {
		if n > maxPCR {
			return fmt.Errorf("enrol: register %d does not exist, the last one is %d", n, maxPCR)
		}
		for _, v := range values {
			if len(v) != sha256.Size {
				return fmt.Errorf("enrol: a value for register %d has %d bytes, a SHA-256 digest has %d", n, len(v), sha256.Size)
			}
		}
	}
	return nil
}

// trust is what chains are verified to.
type trust struct {
	roots, intermediates *x509.CertPool
}

// Service enrols machines. Its errors are *api.Error. It is safe for concurrent
// use.
type Service struct {
	o        Options
	pcrs     []uint // of the policy, in their order
	trust    atomic.Pointer[trust]
	refusals *refusals
}

// New returns a Service.
func New(o Options) (*Service, error) {
	if o.Store == nil || len(o.SealKey) != seal.KeySize {
		return nil, fmt.Errorf("enrol: a store and a seal key of %d bytes are needed", seal.KeySize)
	}
	if o.Lease == 0 {
		o.Lease = defaultLease
	}
	if o.SessionTTL == 0 {
		o.SessionTTL = defaultSessionTTL
	}
	if o.MaxPending == 0 {
		o.MaxPending = defaultMaxPending
	}
	if o.Queue == "" {
		o.Queue = QueueGenuine
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	switch o.Queue {
	case QueueGenuine, QueueAll, QueueNone:
	default:
		return nil, fmt.Errorf("enrol: queue %.32q is none of %s, %s, %s", string(o.Queue), QueueGenuine, QueueAll, QueueNone)
	}
	if o.Lease < time.Second || o.SessionTTL < time.Second || o.SessionTTL > maxSessionTTL || o.MaxPending < 0 {
		return nil, fmt.Errorf("enrol: a lease of %s, sessions of %s (1s to %s) and %d pending machines do not go", o.Lease, o.SessionTTL, maxSessionTTL, o.MaxPending)
	}
	if err := o.PCRs.validate(); err != nil {
		return nil, err
	}
	s := &Service{o: o, refusals: newRefusals()}
	if o.PCRs != nil {
		s.pcrs = slices.Sorted(maps.Keys(o.PCRs.PCRs))
	}
	s.SetRoots(o.Roots, o.Intermediates)
	return s, nil
}

// SetRoots replaces the vendors' certificates for all enrolments that complete
// from now on. The pools must not be changed any more.
func (s *Service) SetRoots(roots, intermediates *x509.CertPool) {
	s.trust.Store(&trust{roots, intermediates})
}

func (s *Service) now() time.Time { return s.o.Now().UTC().Truncate(time.Millisecond) }

// Start answers the first request of an enrolment: it makes a credential that
// only the TPM with this EK and this AK opens. It writes nothing.
func (s *Service) Start(_ context.Context, r *api.EnrolmentStart) (*api.Challenge, error) {
	if err := checkStart(r); err != nil {
		return nil, err
	}
	ek, err := tpmattest.ParseEK(r.EK)
	if err != nil {
		return nil, err
	}
	ak, err := tpmattest.ParseAK(r.AK)
	if err != nil {
		return nil, err
	}
	if _, err := tpmattest.ParseKey(r.Key); err != nil {
		return nil, err
	}
	expires := s.now().Add(s.o.SessionTTL)
	session := newSession(r.Hierarchy, expires)
	credential, err := tpmattest.MakeCredential(rand.Reader, ek, ak.Name, session.secret[:])
	if err != nil {
		return nil, err
	}
	sealed, err := session.seal(s.o.SealKey)
	if err != nil {
		return nil, api.Because(api.Internal, err)
	}
	return &api.Challenge{
		Session:    sealed,
		Nonce:      session.nonce[:],
		Credential: credential,
		PCRs:       slices.Clone(s.pcrs),
		EventLog:   s.o.PCRs != nil && s.o.PCRs.EventLog,
		ExpiresAt:  expires,
	}, nil
}

// checkStart looks at what both requests have, but for the keys.
func checkStart(r *api.EnrolmentStart) error {
	if len(r.EKCertificate) > api.MaxCertificate {
		return api.Refuse(api.EKCertificateMalformed, "%d bytes, at most %d are possible", len(r.EKCertificate), api.MaxCertificate)
	}
	if len(r.Intermediates) > maxIntermediates {
		return api.Refuse(api.EKCertificateMalformed, "%d further certificates, at most %d are possible", len(r.Intermediates), maxIntermediates)
	}
	for _, der := range r.Intermediates {
		if len(der) > api.MaxCertificate {
			return api.Refuse(api.EKCertificateMalformed, "a further certificate of %d bytes, at most %d are possible", len(der), api.MaxCertificate)
		}
	}
	if r.Name == "" {
		return nil
	}
	return api.CheckName(r.Name)
}
