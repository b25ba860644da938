package enrol_test

import (
	"testing"
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

// BenchmarkComplete is a whole verification and its transaction, a renewal, on
// SQLite with full sync.
func BenchmarkComplete(b *testing.B) {
	w, m := withToken(b)
	r := w.request(m)
	for b.Loop() {
		if err := w.service.CompleteAgain(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}
