package tpmextension

import (
	"fmt"

	"github.com/telemark-otel/telemark/internal/tpm"
)

// readAuthFile reads an auth value, nil without a file. rule is what its
// option asks for.
func readAuthFile(rule error, name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	auth, err := tpm.ReadAuthFile(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", rule, err)
	}
	return auth, nil
}
