//go:build !linux

package state

import "os"

// isInMemory reports false where nothing is known of the file system.
func isInMemory(*os.File) (bool, error) { return false, nil }
