//go:build !unix

package wire

import "errors"

func openCharDevice(string) (Conn, error) {
	return nil, errors.New("TPM character devices are supported on Unix systems only")
}
