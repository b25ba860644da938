package tpm

import (
	"encoding/binary"
	"path/filepath"
	"testing"
)

// BenchmarkSign measures a signature of an swtpm that is owned, from call to verified result.
func BenchmarkSign(b *testing.B) {
	d := openDevice(b, "swtpm:"+filepath.Join(b.TempDir(), "tpm"), Options{})
	k := openKey(b, d, KeyOptions{})
	var digest [32]byte
	var n uint64
	b.ReportAllocs()
	for b.Loop() {
		n++
		binary.BigEndian.PutUint64(digest[:], n)
		if _, err := k.Sign(b.Context(), digest[:]); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOpenKey measures what a restart costs.
func BenchmarkOpenKey(b *testing.B) {
	d := openDevice(b, "swtpm:"+filepath.Join(b.TempDir(), "tpm"), Options{})
	dir := filepath.Join(b.TempDir(), "key")
	for b.Loop() {
		k, err := d.OpenKey(b.Context(), KeyOptions{Dir: dir})
		if err != nil {
			b.Fatal(err)
		}
		if err := k.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
