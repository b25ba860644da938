package tpmextension

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension/xextension/storage"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/registry/enrolment"
	"github.com/telemark-otel/telemark/internal/strictjson"
	"github.com/telemark-otel/telemark/internal/tpm"
)

// leaseTransit is what is left of a lease for the way to the verifier, at most
// a tenth of it: what arrives after its end is refused, and what waits is not.
const leaseTransit = 5 * time.Minute

// clockSlack is how far a clock may have gone back since a lease was stored.
const clockSlack = time.Minute

// keyLease is the registry's trust in the key, for a while. The zero value is none.
type keyLease struct {
	enrolment.Result
	over bool // by the time that verifiers have, whatever ours is
}

// elapsed is the time since a moment: by the monotonic clock or, where that
// stood still because the machine slept or the process ended, by the wall clock.
func elapsed(since, now time.Time) time.Duration {
	return max(now.Sub(since), now.Round(0).Sub(since.Round(0)), 0)
}

// left is for how long groups may be signed, 0 when no more.
func (l *keyLease) left(now time.Time) time.Duration {
	if l.over {
		return 0
	}
	return max(l.ValidFor-min(l.ValidFor/10, leaseTransit)-elapsed(l.Asked, now), 0)
}

// remaining is how long the lease lasts, 0 when it is over.
func (l *keyLease) remaining(now time.Time) time.Duration {
	if l.over {
		return 0
	}
	return max(l.ValidFor-elapsed(l.Asked, now), 0)
}

func (l *keyLease) exists() bool { return l.ValidFor > 0 }

// storedLease is what the storage keeps under "registry/v1/" and the kid in
// hex, as JSON.
type storedLease struct {
	Endpoint string    `json:"endpoint"`
	EK       string    `json:"ek"`
	Asked    time.Time `json:"asked"`        // our clock
	ValidFor int64     `json:"valid_for_ms"` // since then
	RenewIn  int64     `json:"renew_in_ms"`  // since then
	api.Enrolment
}

// leaseStore keeps the lease of one key over restarts. With client nil nothing
// is kept.
type leaseStore struct {
	client   storage.Client
	key      string
	endpoint string
}

// openLeases opens the storage beside that of the epochs, which has a lock.
func openLeases(ctx context.Context, host component.Host, storageID *component.ID, self component.ID) (storage.Client, error) {
	if storageID == nil {
		return nil, nil //nolint:nilnil // nothing is kept
	}
	ext, ok := host.GetExtensions()[*storageID]
	if !ok {
		return nil, fmt.Errorf("%w: %q", errNoStorage, *storageID)
	}
	provider, ok := ext.(storage.Extension)
	if !ok {
		return nil, fmt.Errorf("%w: %q", errNotStorage, *storageID)
	}
	client, err := provider.GetClient(ctx, component.KindExtension, self, "registry")
	if err != nil {
		return nil, fmt.Errorf("open storage %q for the registry's lease (is another collector using it?): %w", *storageID, err)
	}
	return client, nil
}

func newLeaseStore(client storage.Client, kid []byte, endpoint string) leaseStore {
	shown, _ := shownURL(endpoint) // a password in it stays out of the storage
	return leaseStore{client: client, key: "registry/v1/" + hex.EncodeToString(kid), endpoint: shown}
}

// load returns the lease of before, and the zero one when there is none, when
// another registry gave it, or when the clock shows a time before it.
func (s leaseStore) load(ctx context.Context, now time.Time) (keyLease, error) {
	if s.client == nil {
		return keyLease{}, nil
	}
	content, err := s.client.Get(ctx, s.key)
	if err != nil {
		return keyLease{}, fmt.Errorf("read the registry's lease from storage: %w", err)
	}
	var l storedLease
	if content == nil || strictjson.Unmarshal(content, &l) != nil { // it is only asked for again
		return keyLease{}, nil
	}
	if l.Endpoint != s.endpoint || l.State != api.StateEnrolled || l.Asked.After(now.Add(clockSlack)) {
		return keyLease{}, nil
	}
	r := enrolment.Result{
		Enrolment: l.Enrolment, Asked: l.Asked,
		ValidFor: time.Duration(l.ValidFor) * time.Millisecond, RenewIn: time.Duration(l.RenewIn) * time.Millisecond,
	}
	if r.EK, err = tpm.ParseEKAlgorithm(l.EK); err != nil {
		return keyLease{}, nil
	}
	return keyLease{Result: r}, nil
}

func (s leaseStore) save(ctx context.Context, l *keyLease) error {
	if s.client == nil {
		return nil
	}
	content, err := json.Marshal(storedLease{
		Endpoint: s.endpoint, EK: l.EK.String(), Enrolment: l.Enrolment,
		Asked: l.Asked.Round(0), ValidFor: l.ValidFor.Milliseconds(), RenewIn: l.RenewIn.Milliseconds(),
	})
	if err != nil {
		return fmt.Errorf("encode the registry's lease: %w", err)
	}
	if err := s.client.Set(ctx, s.key, content); err != nil {
		return fmt.Errorf("write the registry's lease to storage: %w", err)
	}
	return nil
}

func (s leaseStore) forget(ctx context.Context) error {
	if s.client == nil {
		return nil
	}
	if err := s.client.Delete(ctx, s.key); err != nil {
		return fmt.Errorf("delete the registry's lease from storage: %w", err)
	}
	return nil
}
