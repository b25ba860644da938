package tdx_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tdx"
)

// A quote with one byte changed is refused, or it says what it said before:
// bytes of the certificates' text that mean nothing (a line's end) exist.
func TestQuoteWithOneByteChangedNeverSaysOtherwise(t *testing.T) {
	good := lab.Quote(report)
	endorsements, err := tdx.Open(collateral(), trusted, now)
	require.NoError(t, err)
	want := verify(t, good)
	reasons := map[api.Reason]int{}
	accepted := 0
	for i := range good {
		// All of what is not certificate, and every fifth byte of what is.
		if i > 1300 && i%5 != 0 {
			continue
		}
		change := []byte{1, 0x80, 0xff}[i%3]
		if i > 1300 {
			change = 1
		}
		bad := bytes.Clone(good)
		bad[i] ^= change
		got, err := appraise(bad, endorsements)
		if err != nil {
			reasons[api.ReasonOf(err)]++
			continue
		}
		accepted++
		require.Equal(t, want, got, "byte %d", i)
	}
	require.Less(t, accepted, 40, "hardly any byte is without meaning")
	for _, r := range []api.Reason{api.QuoteLength, api.QuoteUnsupported, api.QuoteSignature, api.QEReportInvalid, api.QuoteMalformed, api.PCKUntrusted} {
		require.NotZero(t, reasons[r], "%s: %v", r, reasons)
	}
	require.Zero(t, reasons[api.Internal], reasons)
}

func appraise(q []byte, e *tdx.Endorsements) (*tdx.Evidence, error) {
	a, err := tdx.Authenticate(q, trusted, now)
	if err != nil {
		return nil, err
	}
	return a.Appraise(e, now)
}

func TestQuoteCutAnywhereIsRefused(t *testing.T) {
	good := lab.Quote(report)
	for n := range good {
		_, err := tdx.Parse(good[:n])
		requireReason(t, api.QuoteLength, err)
	}
}

// Each length in a quote, at each of its extremes.
func TestEveryLengthIsBounded(t *testing.T) {
	good := lab.Quote(report)
	for _, at := range []int{632, 766, 770 + 448, 770 + 450 + 32 + 2} {
		for _, value := range []byte{0, 1, 0x7f, 0x80, 0xfe, 0xff} {
			for width := 1; width <= 4; width++ {
				bad := bytes.Clone(good)
				for i := range width {
					bad[at+i] = value
				}
				if bytes.Equal(bad, good) {
					continue
				}
				_, err := tdx.Parse(bad)
				require.Error(t, err, "at %d, %d bytes of %#x", at, width, value)
			}
		}
	}
}

// No byte of collateral can be changed: it is refused, or says the same.
func TestCollateralWithOneByteChangedIsRefused(t *testing.T) {
	for name, part := range map[string]func(*tdx.Collateral) *[]byte{
		"tcbinfo": func(c *tdx.Collateral) *[]byte { return &c.TCBInfo },
		"qe":      func(c *tdx.Collateral) *[]byte { return &c.QEIdentity },
		"pckcrl":  func(c *tdx.Collateral) *[]byte { return &c.PCKCRL },
		"rootcrl": func(c *tdx.Collateral) *[]byte { return &c.RootCRL },
	} {
		t.Run(name, func(t *testing.T) {
			good := *part(collateral())
			for i := 0; i < len(good); i += 1 + len(good)/200 {
				bad := collateral()
				(*part(bad))[i] ^= 1
				e, err := tdx.Open(bad, trusted, now)
				require.True(t, e == nil && err != nil, "byte %d", i)
			}
		})
	}
}
