package nonce

import (
	"bytes"
	"encoding/hex"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The openssl command comes to the same nonce, from the formulas of the
// package comment and nothing of this package.
func TestOpenSSLAgrees(t *testing.T) {
	bound := append(append([]byte{byte(len(kid))}, kid...), append([]byte{byte(len(audience))}, audience...)...)
	hint := sum(t, append([]byte("telemark-nonce-for-v1\x00"), bound...), "-sha256")[:2]

	out, err := exec.CommandContext(t.Context(), "openssl", "kdf", "-keylen", "32", "-kdfopt", "digest:SHA2-256",
		"-kdfopt", "hexkey:"+hex.EncodeToString(secret()), "-kdfopt", "hexsalt:"+hex.EncodeToString(epoch[:]),
		"-kdfopt", "info:telemark-nonce-v1", "HKDF").Output()
	require.NoError(t, err)
	key := strings.ToLower(strings.ReplaceAll(strings.TrimSpace(string(out)), ":", ""))

	n := mint(t, authority(t), kid, 40)
	head := n[:24]
	require.Equal(t, hint, head[10:12])
	require.Equal(t, epoch[:], head[6:10])
	mac := sum(t, append(bytes.Clone(bound), head...), "-sha256", "-mac", "HMAC", "-macopt", "hexkey:"+key)
	require.Equal(t, mac[:16], n[24:])
}

func sum(t *testing.T, in []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "openssl", append([]string{"dgst", "-binary"}, args...)...)
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.Output()
	require.NoError(t, err)
	require.Len(t, out, 32)
	return out
}
