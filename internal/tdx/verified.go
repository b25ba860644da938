package tdx

import (
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

// ReportData reads the report data of a quote that nobody verified: for
// development machines, where verification is switched off.
func ReportData(quote []byte) ([64]byte, error) {
	if len(quote) < signedEnd {
		return [64]byte{}, api.Refuse(api.QuoteLength, "%d bytes, header and report alone have %d", len(quote), signedEnd)
	}
	return [64]byte(quote[offReportData:signedEnd]), nil
}
