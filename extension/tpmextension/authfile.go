package tpmextension

import (
	"bytes"
	"fmt"
	"io"
	"os"
)

const maxAuth = 32 // bytes, what a SHA-256 key takes

// readAuthFile reads the auth value of the signing key. It judges the file
// that it opened, so that nobody can put another in its place in between.
func readAuthFile(name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errAuthFile, err)
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errAuthFile, err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%w: %s has mode %v", errAuthFile, name, info.Mode())
	}
	content, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errAuthFile, err)
	}
	auth := bytes.TrimRight(content, " \t\r\n")
	if len(auth) == 0 || len(auth) > maxAuth || bytes.IndexByte(auth, 0) >= 0 {
		return nil, fmt.Errorf("%w: %s holds %d bytes", errAuthFile, name, len(auth))
	}
	return auth, nil
}
