package tpmattest

import (
	"bytes"
	"crypto/sha256"
	"slices"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

const (
	maxPCR     = 23 // of the PC Client profile
	pcrSize    = sha256.Size
	selectSize = 3 // bytes of a bitmap of 24 registers
)

// VerifyQuote checks that ak quoted these registers of the SHA-256 bank, with
// this qualifying data, and that the values given are those that were quoted.
// The attested part is a TPMS_QUOTE_INFO (part 2, section 10.12.1):
//
//	u32 count | count x (u16 hash | u8 size | size bytes, a bit per register) | TPM2B pcrDigest
//
// pcrDigest is over the values in the order of their numbers, by the hash of
// the signing scheme.
func VerifyQuote(q *api.PCRQuote, ak *AK, qualifying []byte, pcrs []uint) error {
	c, err := ak.open(&q.Attestation, qualifying, &quoteReasons)
	if err != nil {
		return err
	}
	count := c.u32()
	if c.bad {
		return api.Refuse(api.PCRQuoteMalformed, "not a TPMS_QUOTE_INFO")
	}
	if count != 1 {
		return api.Refuse(api.PCRQuoteSelection, "%d selections, wanted is one of the SHA-256 bank", count)
	}
	hash := c.u16()
	bits := c.take(int(c.u8()))
	digest := c.sized(maxDigest)
	if !c.done() {
		return api.Refuse(api.PCRQuoteMalformed, "not a TPMS_QUOTE_INFO")
	}
	if hash != algSHA256 {
		return api.Refuse(api.PCRQuoteSelection, "bank %#04x, wanted is SHA-256", hash)
	}
	want, ok := selection(pcrs)
	if !ok || !bytes.Equal(bits, want) {
		return api.Refuse(api.PCRQuoteSelection, "registers %.8x were quoted, asked for were %x", bits, want)
	}
	return checkQuoteDigest(q, ak, digest, pcrs)
}

// selection returns the bitmap of registers, and false for one that does not
// exist or when there is none.
func selection(pcrs []uint) ([]byte, bool) {
	bits := make([]byte, selectSize)
	for _, n := range pcrs {
		if n > maxPCR {
			return nil, false
		}
		bits[n/8] |= 1 << (n % 8)
	}
	return bits, len(pcrs) > 0
}

// checkQuoteDigest checks that exactly the registers that were asked for have
// values, and that these were quoted.
func checkQuoteDigest(q *api.PCRQuote, ak *AK, digest []byte, pcrs []uint) error {
	pcrs = slices.Compact(slices.Sorted(slices.Values(pcrs)))
	if len(q.PCRs) != len(pcrs) {
		return api.Refuse(api.PCRQuoteSelection, "%d values came, asked for were %d", len(q.PCRs), len(pcrs))
	}
	h := hashOf(ak.scheme.hash).New()
	for _, n := range pcrs {
		value, ok := q.PCRs[n]
		if !ok {
			return api.Refuse(api.PCRQuoteSelection, "register %d has no value", n)
		}
		if len(value) != pcrSize {
			return api.Refuse(api.PCRQuoteMalformed, "register %d has %d bytes", n, len(value))
		}
		h.Write(value)
	}
	if !bytes.Equal(h.Sum(nil), digest) {
		return api.Refuse(api.PCRQuoteDigest, "the digest over the values is another one")
	}
	return nil
}
