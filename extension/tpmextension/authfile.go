package tpmextension

import (
	"bytes"
	"fmt"

	"github.com/telemark-otel/telemark/internal/tpm/private"
)

const (
	maxAuth     = 32   // bytes, what a SHA-256 key takes
	maxAuthFile = 4096 // bytes, white space at the end included
)

// readAuthFile reads the auth value of the signing key, nil without a file.
func readAuthFile(name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	content, err := private.ReadSecret(name, maxAuthFile)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errAuthFile, err)
	}
	auth := bytes.TrimRight(content, " \t\r\n")
	if len(auth) == 0 || len(auth) > maxAuth || bytes.IndexByte(auth, 0) >= 0 {
		return nil, fmt.Errorf("%w: %s holds %d bytes", errAuthFile, name, len(auth))
	}
	return auth, nil
}
