package tdx

import (
	"bytes"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// PPID reads the 16-byte PPID in the platform's certificate of a quote that
// nobody verified: for a machine that asks who it is itself.
func PPID(quote []byte) ([]byte, error) {
	a, err := read(quote)
	if err != nil {
		return nil, err
	}
	if a.EncryptedPPID {
		return nil, api.Refuse(api.PPIDEncrypted, "certification data of type %d", a.layout.innerType)
	}
	return bytes.Clone(a.platform.ppid), nil
}

// RTMR3 reads the register of that number from a quote that nobody verified: for
// a machine that looks whether its quote is of this moment.
func RTMR3(quote []byte) ([48]byte, error) {
	if len(quote) < signedEnd {
		return [48]byte{}, api.Refuse(api.QuoteLength, "%d bytes, header and report alone have %d", len(quote), signedEnd)
	}
	return [48]byte(quote[offRTMR+3*48 : offReportData]), nil
}
