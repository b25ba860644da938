package daemon

import (
	"fmt"
	"os"
	"strings"
)

const maxSecret = 16 << 10

// Secret reads a secret from the file that a flag names, without the white space
// around it. Nobody else may be able to read it.
func Secret(flag, file string) (string, error) {
	info, err := os.Stat(file)
	if err != nil {
		return "", fmt.Errorf("--%s: %w", flag, err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("--%s %s has mode %#o: others could read the password; run chmod 600 on it", flag, file, info.Mode().Perm())
	}
	if info.Size() > maxSecret {
		return "", fmt.Errorf("--%s %s is larger than %d bytes", flag, file, maxSecret)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("--%s: %w", flag, err)
	}
	secret := strings.TrimSpace(string(b))
	if secret == "" {
		return "", fmt.Errorf("--%s %s is empty", flag, file)
	}
	return secret, nil
}
