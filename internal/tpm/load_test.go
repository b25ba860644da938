package tpm

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/tpm/tpmtest"
)

func TestSessionsAndObjectsDoNotPileUp(t *testing.T) {
	t.Parallel()
	d, k := fixture(t)
	for i := range 1000 {
		var digest [32]byte
		binary.BigEndian.PutUint64(digest[:], uint64(i))
		sig, err := k.Sign(t.Context(), digest[:])
		require.NoError(t, err)
		requireSignature(t, k.PublicKey(), digest, sig)
	}
	objects, sessions := held(t, d)
	require.Equal(t, 1, objects)
	require.Equal(t, 1, sessions)

	// A session that is used up is replaced, not added to.
	_, err := ask(t.Context(), d, "ageing", func(*link) (nothing, error) {
		k.session.uses = sessionMaxUses
		return nothing{}, nil
	})
	require.NoError(t, err)
	requireSigns(t, k, k.PublicKey())
	require.Less(t, k.session.uses, sessionMaxUses)
	objects, sessions = held(t, d)
	require.Equal(t, 1, objects)
	require.Equal(t, 1, sessions)
}

func TestFiftyGoroutinesShareOneTPM(t *testing.T) {
	t.Parallel()
	d, k := fixture(t)
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			for j := range 10 {
				digest := sha256.Sum256([]byte{byte(i), byte(j)})
				sig, err := k.Sign(t.Context(), digest[:])
				if err != nil {
					t.Error(err)
					return
				}
				requireSignature(t, k.PublicKey(), digest, sig)
				if j == 5 {
					if _, err := d.Clock(t.Context()); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
	_, sessions := held(t, d)
	require.Equal(t, 1, sessions)
}

func TestStaleObjectsOfADeadUserAreFlushed(t *testing.T) {
	t.Parallel()
	soft := tpmtest.New(t)
	for range 5 { // there is room for three
		d, err := Open(t.Context(), soft, Options{})
		require.NoError(t, err)
		_, err = ask(t.Context(), d, "littering", func(l *link) (nothing, error) {
			o, err := l.primary(tpm2.TPMRHOwner, tpm2.ECCSRKTemplate)
			if err != nil {
				return nothing{}, err
			}
			_, err = l.startSession(o, nil, encryptBoth)
			return nothing{}, err
		})
		require.NoError(t, err)
		require.NoError(t, d.Close())
	}
	var seen events
	d := openDevice(t, soft, Options{Report: seen.report})
	objects, sessions := held(t, d)
	require.Zero(t, objects)
	require.Zero(t, sessions)
	require.Equal(t, 1, seen.count())
	require.Contains(t, seen.all[0].Message, "flushed 2 objects and sessions")
}

func TestFullTPMIsEmptiedForTheNextCall(t *testing.T) {
	t.Parallel()
	d, k := fixture(t) // the signing key takes one of three places
	_, err := ask(t.Context(), d, "littering", func(l *link) (nothing, error) {
		for range 2 {
			if _, err := l.primary(tpm2.TPMRHOwner, tpm2.ECCSRKTemplate); err != nil {
				return nothing{}, err
			}
		}
		return nothing{}, nil
	})
	require.NoError(t, err)
	_, err = d.AK(t.Context())
	require.ErrorIs(t, err, tpm2.TPMRCObjectMemory)
	require.Equal(t, Transient, Classify(err))
	_, err = d.AK(t.Context())
	require.NoError(t, err)
	requireSigns(t, k, k.PublicKey())
	objects, _ := held(t, d)
	require.Equal(t, 1, objects)
}
