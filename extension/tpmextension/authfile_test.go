package tpmextension

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAuthFileThatOthersCanReadIsRefused(t *testing.T) {
	write := func(content string, mode os.FileMode) string {
		name := filepath.Join(t.TempDir(), "auth")
		require.NoError(t, os.WriteFile(name, []byte(content), 0o600))
		require.NoError(t, os.Chmod(name, mode))
		return name
	}
	got, err := readAuthFile(errAuthFile, write("s3cret\n", 0o400))
	require.NoError(t, err)
	require.Equal(t, "s3cret", string(got))
	got, err = readAuthFile(errAuthFile, "")
	require.NoError(t, err)
	require.Nil(t, got)

	for name, file := range map[string]string{
		"group":     write("s3cret", 0o640),
		"world":     write("s3cret", 0o604),
		"empty":     write("\n", 0o600),
		"too long":  write(strings.Repeat("x", 33), 0o600),
		"zero byte": write("a\x00b", 0o600),
		"directory": t.TempDir(),
		"missing":   filepath.Join(t.TempDir(), "none"),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := readAuthFile(errAuthFile, file)
			require.ErrorIs(t, err, errAuthFile)
			require.NotContains(t, err.Error(), "s3cret")
		})
	}
}
