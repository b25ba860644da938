package tpm

import (
	"bytes"
	"fmt"

	"github.com/telemark-otel/telemark/internal/tpm/private"
)

const maxAuthFile = 4096 // bytes, white space at the end included

// ReadAuthFile reads an auth value of 1 to 32 bytes, none of them zero, from a
// file that only its owner can read. White space at the end is cut.
func ReadAuthFile(path string) ([]byte, error) {
	content, err := private.ReadSecret(path, maxAuthFile)
	if err != nil {
		return nil, err
	}
	auth := bytes.TrimRight(content, " \t\r\n")
	if len(auth) == 0 {
		return nil, fmt.Errorf("%s holds no auth value", path)
	}
	return auth, checkAuth("the file's", auth)
}
