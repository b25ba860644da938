package tdx

import (
	"bytes"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// Verified is what a quote says that policy accepted.
type Verified struct {
	ReportData   [64]byte
	PPID         []byte // nil where nothing authenticates it
	TCBStatus    string
	Advisories   []string
	Measurements api.Measurements
	Policy       string // name of the one that accepted it
}

// SameSignature reports whether two quotes are one act of signing. The bytes of
// one can be written in many ways, since lengths and line breaks are not signed
// and with (r, s) also (r, -s) is a signature; what is signed, and r, stay.
// Neither has to be verified: those that are not the same may differ anywhere.
func SameSignature(a, b []byte) bool {
	const r = 32
	if len(a) < authStart+authFixed || len(b) < authStart+authFixed {
		return false
	}
	return bytes.Equal(a[:signedEnd], b[:signedEnd]) && bytes.Equal(a[authStart:authStart+r], b[authStart:authStart+r])
}

// ReportData reads the report data of a quote that nobody verified: for
// development machines, where verification is switched off.
func ReportData(quote []byte) ([64]byte, error) {
	if len(quote) < signedEnd {
		return [64]byte{}, api.Refuse(api.QuoteLength, "%d bytes, header and report alone have %d", len(quote), signedEnd)
	}
	return [64]byte(quote[offReportData:signedEnd]), nil
}
