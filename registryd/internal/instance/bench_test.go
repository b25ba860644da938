package instance

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/pgtest"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tdx/collateral"
	"github.com/telemark-otel/telemark/registryd/internal/store"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

// BenchmarkRegister is a whole first registration, quote verification with
// cached collateral and the durable write included, one after the other.
func BenchmarkRegister(b *testing.B) {
	b.Run("store=sqlite", func(b *testing.B) { benchRegister(b, filepath.Join(b.TempDir(), "registry.db")) })
	b.Run("store=postgres", func(b *testing.B) { benchRegister(b, pgtest.DSN(b)) })
}

func benchRegister(b *testing.B, dsn string) {
	lab, bundle := tdxlab.New("bench"), b.TempDir()
	require.NoError(b, lab.WriteBundle(bundle, time.Now()))
	quotes, err := collateral.New(collateral.Options{Source: collateral.Bundle{Dir: bundle}, Roots: lab.Roots()})
	require.NoError(b, err)
	b.Cleanup(quotes.Close)
	db, err := store.Open(b.Context(), dsn, store.Options{})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, db.Close()) })
	s, err := New(Options{Store: db, Quotes: quotes, SealKey: bytes.Repeat([]byte{9}, 32)})
	require.NoError(b, err)
	ppid := lab.Platform().PPID

	var n uint64
	for b.Loop() {
		b.StopTimer()
		n++
		seed := binary.BigEndian.AppendUint64(make([]byte, 24), n)
		instance := ed25519.NewKeyFromSeed(seed)
		r := &api.Registration{InstancePubkey: public(instance), PPID: ppid[:], Operator: partyOf(instance, key(2)), Owner: partyOf(instance, key(3))}
		data := api.ReportDataV0(r)
		r.AttestationQuote = lab.Quote(data)
		b.StartTimer()
		if _, err := s.Register(b.Context(), r, 1, "192.0.2.1"); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "registrations/s")
}
