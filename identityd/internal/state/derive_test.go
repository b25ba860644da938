package state

import (
	"crypto/hkdf"
	"crypto/sha256"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDerivedKeysAreOfTheirPurposeAndBoot(t *testing.T) {
	v := newVM(t)
	m := v.start()
	ssh, tls := m.Derive("ssh-host-key"), m.Derive("tls-key")
	require.NotEqual(t, ssh, tls, "a key for one purpose serves another")
	require.NotEqual(t, m.key.Seed(), ssh[:])

	want, err := hkdf.Key(sha256.New, m.key.Seed(), nil, "telemark-identityd-ssh-host-key", 32)
	require.NoError(t, err)
	require.Equal(t, want, ssh[:])

	v.restart(false)
	require.Equal(t, ssh, v.start().Derive("ssh-host-key"), "a restart of the service changed it")
	v.reboot(false)
	require.NotEqual(t, ssh, v.start().Derive("ssh-host-key"), "it survived the VM")
}
