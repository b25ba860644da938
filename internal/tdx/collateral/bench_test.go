package collateral_test

import (
	"testing"

	"github.com/telemark-otel/telemark/internal/tdx/collateral"
)

// The whole way of a registration's quote: authenticate, cached collateral,
// appraise, policy.
func BenchmarkVerifier(b *testing.B) {
	v, err := collateral.New(collateral.Options{Source: answers(now), Roots: lab.Roots()})
	if err != nil {
		b.Fatal(err)
	}
	defer v.Close()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(b.Context(), good, now); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "verifications/s")
}
