package tpmextension

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension/xextension/storage"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/group"
)

var (
	errNoStorage     = errors.New("`storage` names an extension that is not there; list it under service::extensions")
	errNotStorage    = errors.New("`storage` names an extension that stores nothing")
	errStateDamaged  = errors.New("the stored epoch of this key cannot be read; signing under a guessed one would look like a copied machine: restore the storage, or make a new key")
	errClockUnset    = errors.New("the epochs of this key are not in storage, and the clock, which could stand in for them, is not set: set it")
	errEpochExceeded = errors.New("the stored epoch of this key is the last one; make a new key")
)

// maxEpoch keeps epochs within what receipts carry.
const maxEpoch = 1<<63 - 1

// firstEpochTime is before the first release: a clock that shows less is not set.
var firstEpochTime = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

// origin is where the chain of statements of this start begins.
type origin struct {
	epoch uint64
	prev  block.Digest
}

// epochSource gives every start its epoch, higher than any before.
type epochSource interface {
	// next returns the origin of this start. The epoch is durable when it
	// returns, and above key.floor. It may be called again after an error, which
	// may skip epochs.
	next(ctx context.Context, key keyFacts) (origin, error)
	// save keeps the chain from then on, durably where there is somewhere.
	save(ctx context.Context, kid []byte, state group.State) error
	close(ctx context.Context) error
}

// keyFacts is what an epoch depends on.
type keyFacts struct {
	kid     []byte
	fresh   bool   // made in this start: nothing can have been signed with it
	foreign bool   // made by others, who may have signed with it before
	floor   uint64 // the highest epoch that it is known to have begun, whoever counted it
}

// storedEpochs keeps, for each key, the last statement in a storage extension:
// "v1/" and the kid in hex → group.State in its binary form.
type storedEpochs struct {
	client storage.Client
	now    func() time.Time
}

func openStorage(ctx context.Context, host component.Host, storageID, self component.ID) (storage.Client, error) {
	ext, ok := host.GetExtensions()[storageID]
	if !ok {
		return nil, fmt.Errorf("%w: %q", errNoStorage, storageID)
	}
	provider, ok := ext.(storage.Extension)
	if !ok {
		return nil, fmt.Errorf("%w: %q", errNotStorage, storageID)
	}
	client, err := provider.GetClient(ctx, component.KindExtension, self, "")
	if err != nil {
		return nil, fmt.Errorf("open storage %q (is another collector using it?): %w", storageID, err)
	}
	return client, nil
}

func (s *storedEpochs) next(ctx context.Context, key keyFacts) (origin, error) {
	last, err := s.load(ctx, key)
	if err != nil {
		return origin{}, err
	}
	if last.Epoch < key.floor {
		// Others have counted since. What they signed last is not known here, so
		// that no statement can be named.
		last = group.State{Epoch: key.floor}
	}
	if last.Epoch >= maxEpoch {
		return origin{}, errEpochExceeded
	}
	state := group.State{Epoch: last.Epoch + 1, Prev: last.Prev}
	if err := s.save(ctx, key.kid, state); err != nil {
		return origin{}, err
	}
	return origin{epoch: state.Epoch, prev: state.Prev}, nil
}

// load returns the last state. A key that is older than its state (the storage
// was lost, or is a new one) has signed under epochs that nobody here knows;
// seconds since 1970 are above all of them, since each start took longer than one.
func (s *storedEpochs) load(ctx context.Context, key keyFacts) (group.State, error) {
	content, err := s.client.Get(ctx, stateKey(key.kid))
	if err != nil {
		return group.State{}, fmt.Errorf("read the epoch from storage: %w", err)
	}
	var state group.State
	switch {
	case content != nil:
		if err := state.UnmarshalBinary(content); err != nil {
			return group.State{}, fmt.Errorf("%w: %w", errStateDamaged, err)
		}
	case !key.fresh:
		if state.Epoch, err = aboveAll(s.now()); err != nil {
			return group.State{}, err
		}
	}
	return state, nil
}

// aboveAll returns an epoch that is above those which nobody here knows.
func aboveAll(now time.Time) (uint64, error) {
	if now.Before(firstEpochTime) {
		return 0, fmt.Errorf("%w: it shows %v", errClockUnset, now)
	}
	return uint64(now.Unix()), nil
}

func (s *storedEpochs) save(ctx context.Context, kid []byte, state group.State) error {
	content, err := state.MarshalBinary()
	if err != nil {
		return fmt.Errorf("encode the chain state: %w", err)
	}
	if err := s.client.Set(ctx, stateKey(kid), content); err != nil {
		return fmt.Errorf("write the chain state to storage: %w", err)
	}
	return nil
}

func stateKey(kid []byte) string { return "v1/" + hex.EncodeToString(kid) }

func (s *storedEpochs) close(ctx context.Context) error { return s.client.Close(ctx) }

// counter is a monotonic counter that survives restarts.
type counter func(ctx context.Context) (uint64, error)

// countedEpochs takes the epoch from a counter in the TPM, once per start: NV
// memory wears out. The chain begins anew with each epoch, since there is
// nowhere to keep its end.
type countedEpochs struct {
	increment counter
	now       func() time.Time
}

// next never falls behind what was counted elsewhere: the counter may be a new
// one, at another index, or may have stood still while a storage counted.
func (c countedEpochs) next(ctx context.Context, key keyFacts) (origin, error) {
	floor := key.floor
	if floor == 0 && key.foreign {
		var err error
		if floor, err = aboveAll(c.now()); err != nil {
			return origin{}, err
		}
	}
	epoch, err := c.increment(ctx)
	if err != nil {
		return origin{}, fmt.Errorf("increment the epoch counter in the TPM: %w", err)
	}
	if epoch == 0 || epoch > maxEpoch || floor >= maxEpoch {
		return origin{}, fmt.Errorf("%w: counter at %d, %d was used", errEpochExceeded, epoch, floor)
	}
	return origin{epoch: max(epoch, floor+1)}, nil
}

func (countedEpochs) save(context.Context, []byte, group.State) error { return nil }

func (countedEpochs) close(context.Context) error { return nil }
