package tdx_test

import (
	"testing"

	"github.com/telemark-otel/telemark/internal/tdx"
)

// Quotes with collateral that is cached: the case of every renewal.
func BenchmarkVerifyCachedCollateral(b *testing.B) {
	endorsements, err := tdx.Open(collateral(), trusted, now)
	if err != nil {
		b.Fatal(err)
	}
	q := lab.Quote(report)
	policies := tdx.DefaultPolicies(trusted)
	b.ReportAllocs()
	for b.Loop() {
		e, err := appraise(q, endorsements)
		if err == nil {
			_, err = tdx.Judge(policies, e, now)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "verifications/s")
}

// Everything from bytes, collateral too.
func BenchmarkVerifyRawCollateral(b *testing.B) {
	c, q := collateral(), lab.Quote(report)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tdx.Verify(q, c, trusted, now); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "verifications/s")
}

func BenchmarkOpenCollateral(b *testing.B) {
	c := collateral()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tdx.Open(c, trusted, now); err != nil {
			b.Fatal(err)
		}
	}
}

// What forgeries cost us, which anybody can send.
func BenchmarkRefuseForgery(b *testing.B) {
	q := foreign.Quote(report)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tdx.Authenticate(q, trusted, now); err == nil {
			b.Fatal("accepted")
		}
	}
}
