package identity_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/transittest"
)

// TestKeyOfTheVolumeFromAVault: a stand-in for OpenBao's transit engine keeps it,
// and the owner sends none.
func TestKeyOfTheVolumeFromAVault(t *testing.T) {
	t.Parallel()
	engine := transittest.New(t)
	ca, token := filepath.Join(t.TempDir(), "ca.pem"), filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(ca, engine.CA, 0o600))
	require.NoError(t, os.WriteFile(token, []byte(transittest.Token+"\n"), 0o600))
	v := newVM(t, flags("--storage-key", "vault", "--vault-address", engine.URL, "--vault-key", transittest.Key, "--vault-ca", ca, "--vault-token-file", token))
	owner := v.registerOperator()
	v.refused("sealed_key_unwanted", v.second(v.owner, api.PathRegisterOwner, &api.Owner{
		Pubkey: v.owner.public(), Signature: v.owner.sign(v.instance()), SealedKey: make([]byte, 64),
	}, api.HeaderToken, owner))

	// A vault that refuses: the owner may try again.
	v.sends = false
	engine.Allow()
	v.refused("source_failed", v.second(v.owner, api.PathRegisterOwner, v.ownerBody(), api.HeaderToken, owner))
	require.Equal(t, "operator_registered", v.state().State)
	engine.Allow(transittest.Token)
	v.registerOwner(owner)
	v.accepted(v.second(v.owner, api.PathConfigure, v.configureBody(app, "/data")))
	v.copyIn("/data/a", "kept\n")
	v.restart()
	require.Equal(t, "kept\n", v.inside("/data/a"))
	for _, said := range engine.Calls() {
		require.Equal(t, transittest.Token, said)
	}

	// After a reboot the vault gives the key back, to a token that is renewed
	// meanwhile, and the owner says that it shall be used.
	counter := v.state().Counter
	v.reboot()
	require.Equal(t, "locked", v.state().Storage.Volume)
	engine.Allow("s.renewed")
	unlock := func() *answer {
		return v.second(v.owner, api.PathUnlock, &api.Unlock{
			InstancePubkey: v.instance(), Signature: v.owner.sign(v.instance()), SealedKey: api.Hex{}, LastCounter: &counter,
		})
	}
	v.refused("source_failed", unlock())
	require.NoError(t, os.WriteFile(token, []byte("s.renewed\n"), 0o600))
	v.accepted202(unlock())
	require.Equal(t, "kept\n", v.inside("/data/a"))
}
