package tpm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// maxPCR is the highest PCR of the PC Client profile.
const maxPCR = 23

// quoteAttempts is how often registers may change between a quote and reading
// them before that is an error.
const quoteAttempts = 5

// PCRQuote is a quote and the values that it covers.
type PCRQuote struct {
	Attestation
	PCRs map[uint][]byte // SHA-256 bank
}

// Quote lets the attestation key sign the SHA-256 bank's PCRs of these
// numbers. qualifying is the verifier's nonce. Part 3, section 18.4, TPM2_Quote.
func (d *Device) Quote(ctx context.Context, qualifying []byte, pcrs []uint) (*Attestation, error) {
	if err := checkQuote(qualifying, pcrs); err != nil {
		return nil, err
	}
	return ask(ctx, d, "quoting", func(l *link) (*Attestation, error) { return l.quote(qualifying, pcrs) })
}

// QuotePCRs is Quote with the values that were quoted. Part 3, section 22.4,
// TPM2_PCR_Read.
func (d *Device) QuotePCRs(ctx context.Context, qualifying []byte, pcrs []uint) (*PCRQuote, error) {
	if err := checkQuote(qualifying, pcrs); err != nil {
		return nil, err
	}
	return ask(ctx, d, "quoting", func(l *link) (*PCRQuote, error) {
		for attempt := 1; ; attempt++ {
			a, err := l.quote(qualifying, pcrs)
			if err != nil {
				return nil, err
			}
			values, err := l.pcrs(pcrs)
			if err != nil {
				return nil, err
			}
			if quoted, err := l.quotedDigest(a); err != nil {
				return nil, err
			} else if bytes.Equal(quoted, digestPCRs(values)) {
				return &PCRQuote{Attestation: *a, PCRs: values}, nil
			}
			if attempt == quoteAttempts {
				return nil, fmt.Errorf("PCRs %v changed each time between quoting and reading them", pcrs)
			}
		}
	})
}

func checkQuote(qualifying []byte, pcrs []uint) error {
	for _, pcr := range pcrs {
		if pcr > maxPCR {
			return fmt.Errorf("PCR %d does not exist, the last one is %d", pcr, maxPCR)
		}
	}
	return checkQualifying(qualifying)
}

func selectPCRs(pcrs []uint) tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
		Hash:      tpm2.TPMAlgSHA256,
		PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...),
	}}}
}

func (l *link) quote(qualifying []byte, pcrs []uint) (*Attestation, error) {
	ak, err := l.attestationKey()
	if err != nil {
		return nil, err
	}
	defer l.flushQuietly(ak.handle)
	rsp, err := exec(l, tpm2.Quote{
		SignHandle:     ak.auth(tpm2.PasswordAuth(nil)),
		QualifyingData: tpm2.TPM2BData{Buffer: qualifying},
		InScheme:       keyScheme,
		PCRSelect:      selectPCRs(pcrs),
	})
	if err != nil {
		return nil, err
	}
	return l.attestation(ak, rsp.Quoted.Bytes(), rsp.Signature, tpm2.TPMSTAttestQuote, qualifying)
}

// quotedDigest returns what a quote says of the registers' values.
func (l *link) quotedDigest(a *Attestation) (digest []byte, err error) {
	defer func() {
		if p := recover(); p != nil { // see exec
			digest, err = nil, l.breakOff(fmt.Errorf("%w: %v", ErrMalformed, p))
		}
	}()
	attest, err := tpm2.Unmarshal[tpm2.TPMSAttest](a.Attest)
	if err != nil {
		return nil, l.breakOff(fmt.Errorf("%w: %w", ErrMalformed, err))
	}
	quote, err := attest.Attested.Quote()
	if err != nil {
		return nil, l.breakOff(fmt.Errorf("%w: %w", ErrMalformed, err))
	}
	return quote.PCRDigest.Buffer, nil
}

// pcrs reads registers of the SHA-256 bank. A TPM returns at most eight at
// once, those of the lowest numbers.
func (l *link) pcrs(wanted []uint) (map[uint][]byte, error) {
	values := make(map[uint][]byte, len(wanted))
	left := slices.Compact(slices.Sorted(slices.Values(wanted)))
	for len(left) > 0 {
		rsp, err := exec(l, tpm2.PCRRead{PCRSelectionIn: selectPCRs(left)})
		if err != nil {
			return nil, err
		}
		got := selected(rsp.PCRSelectionOut)
		if len(got) == 0 {
			return nil, fmt.Errorf("the TPM keeps no PCR %d with SHA-256; is the SHA-256 bank switched on in the firmware?", left[0])
		}
		if len(got) > len(left) || len(rsp.PCRValues.Digests) != len(got) || !slices.Equal(got, left[:len(got)]) {
			return nil, l.breakOff(fmt.Errorf("%w: values of other PCRs than asked for", ErrMalformed))
		}
		for i, pcr := range got {
			value := rsp.PCRValues.Digests[i].Buffer
			if len(value) != sha256.Size {
				return nil, l.breakOff(fmt.Errorf("%w: PCR %d of %d bytes", ErrMalformed, pcr, len(value)))
			}
			values[pcr] = value
		}
		left = left[len(got):]
	}
	return values, nil
}

// selected lists the registers of a selection of the SHA-256 bank.
func selected(s tpm2.TPMLPCRSelection) (pcrs []uint) {
	for _, bank := range s.PCRSelections {
		if bank.Hash != tpm2.TPMAlgSHA256 {
			continue
		}
		for i, bits := range bank.PCRSelect {
			for bit := range 8 {
				if bits>>bit&1 == 1 {
					pcrs = append(pcrs, uint(i*8+bit))
				}
			}
		}
	}
	return pcrs
}

// digestPCRs is what a quote holds of these values: SHA-256 over them, in
// ascending order of their registers (part 2, section 10.12.1).
func digestPCRs(values map[uint][]byte) []byte {
	h := sha256.New()
	for pcr := range uint(maxPCR + 1) {
		h.Write(values[pcr])
	}
	return h.Sum(nil)
}
