package enrol_test

import (
	"path/filepath"
	"testing"

	"github.com/telemark-otel/telemark/internal/pgtest"
)

// One core: what a replica can judge.
func BenchmarkStart(b *testing.B) {
	w, m := withToken(b)
	r := m.start()
	for b.Loop() {
		if _, err := w.service.Start(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkJudge is a whole verification without the store.
func BenchmarkJudge(b *testing.B) {
	w, m := withToken(b)
	r := w.request(m)
	for b.Loop() {
		if err := w.service.Judge(r); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkComplete is a whole verification and its transaction, a renewal, with
// full sync.
func BenchmarkComplete(b *testing.B) {
	b.Run("store=sqlite", func(b *testing.B) { benchComplete(b, filepath.Join(b.TempDir(), "registry.db")) })
	b.Run("store=postgres", func(b *testing.B) { benchComplete(b, pgtest.DSN(b)) })
}

func benchComplete(b *testing.B, dsn string) {
	w := newWorldOn(b, dsn)
	m := w.newMachine()
	m.token = w.newToken(1)
	r := w.request(m)
	for b.Loop() {
		if err := w.service.CompleteAgain(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}
