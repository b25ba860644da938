package client_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/client"
	"github.com/telemark-otel/telemark/internal/identity/identitytest"
	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/identity/unlock"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

func TestRolledBackCounterIsNotBelieved(t *testing.T) {
	vm, url := instance(t)
	known := memory{}
	remember := func(o *client.Options) { o.Memory = known }
	c := dial(t, url, remember)
	owner, _ := owned(t, c)
	configure(t, c, owner)
	attest(t, c)
	vm.Rollback(vm.Counter() - 1)
	_, err := dial(t, url, remember).Attest(t.Context())
	doubted(t, err, client.StateRollback)
	attest(t, dial(t, url)) // who remembers nothing, notices nothing

	vm.Lie(identitytest.Lies{Statement: func(s *statement.Statement) {
		*s = statement.Statement{Version: 1, Instance: s.Instance, Origin: s.Origin, Boot: s.Boot, State: statement.RolledBack, Counter: 99, TLSKey: s.TLSKey, SSHHostKey: s.SSHHostKey, Log: s.Log}
	}})
	_, err = dial(t, url, remember).Attest(t.Context())
	doubted(t, err, client.StateRollback)
}

func TestRolledBackDiskGetsNoKeyAfterAReboot(t *testing.T) {
	vm, url := instance(t)
	known := memory{}
	remember := func(o *client.Options) { o.Memory = known }
	c := dial(t, url, remember)
	owner, key := owned(t, c)
	configure(t, c, owner)
	seen := known[string(attest(t, c).Statement.Origin)]
	require.NoError(t, vm.Reboot())
	vm.Rollback(seen.Counter - 1)
	i := attest(t, dial(t, url, remember))
	ask, err := i.Ask(t.Context(), owner)
	require.NoError(t, err)
	_, err = ask.Seal(key, seen)
	doubted(t, err, client.StorageRefused)
	require.ErrorContains(t, err, string(unlock.StateRollback))
}

func TestOtherImageOfTheVMIsNotBelieved(t *testing.T) {
	vm, url := instance(t)
	known := memory{}
	remember := func(o *client.Options) { o.Memory = known }
	i := attest(t, dial(t, url, remember))
	require.NotNil(t, i.Measurements())
	for n, edit := range []func(*tdxlab.Quote){
		func(q *tdxlab.Quote) { q.MRTD[0] ^= 1 },
		func(q *tdxlab.Quote) { q.RTMR[0][47] ^= 1 },
		func(q *tdxlab.Quote) { q.RTMR[2][0] ^= 1 },
	} {
		vm.Lie(identitytest.Lies{Quote: []func(*tdxlab.Quote){edit}})
		_, err := dial(t, url, remember).Attest(t.Context())
		doubted(t, err, client.MeasurementsChanged)
		if n == 2 {
			attest(t, dial(t, url, remember, func(o *client.Options) { o.NewMeasurements = true }))
			attest(t, dial(t, url, remember))
		}
	}
}

// The key of a volume is not sealed to a request that another VM made.
func TestStorageRequestOfAnotherVMIsRefused(t *testing.T) {
	vm, url := instance(t)
	c := dial(t, url)
	owner := newKey(t)
	_, err := attest(t, c).RegisterOperator(t.Context(), newKey(t), publicOf(owner))
	require.NoError(t, err)
	i := attest(t, c)

	vm.Lie(identitytest.Lies{Quote: []func(*tdxlab.Quote){func(q *tdxlab.Quote) { q.MRTD[0] ^= 1 }}})
	_, err = i.Ask(t.Context(), owner)
	doubted(t, err, client.StorageRefused)

	for name, edit := range map[string]func(*unlock.Transcript){
		"nonce":   func(t *unlock.Transcript) { t.OwnerNonce[0] ^= 1 },
		"TLS key": func(t *unlock.Transcript) { t.TLS[0] ^= 1 },
		"owner":   func(t *unlock.Transcript) { t.Owner[0] ^= 1 },
		"state":   func(t *unlock.Transcript) { t.State = "workload_exposed" },
	} {
		t.Run(name, func(t *testing.T) {
			vm.Lie(identitytest.Lies{Transcript: edit})
			ask, err := i.Ask(t.Context(), owner)
			require.NoError(t, err)
			_, err = ask.Seal(unlock.NewKey(), client.Known{})
			doubted(t, err, client.StorageRefused)
		})
	}
	vm.Lie(identitytest.Lies{})
	ask, err := i.Ask(t.Context(), owner)
	require.NoError(t, err)
	_, err = ask.Seal(make([]byte, 32), client.Known{})
	doubted(t, err, client.StorageRefused)
}

// Whoever answers where quotes are not verified could raise the counter for ever.
func TestUnverifiedInstanceLeavesNoTraceInMemory(t *testing.T) {
	_, url := instance(t)
	known := memory{}
	remember := func(o *client.Options) { o.Memory = known }
	attest(t, dial(t, url, remember, func(o *client.Options) { o.Quotes = client.Unverified{} }))
	require.Empty(t, known)
	attest(t, dial(t, url, remember))
	require.Len(t, known, 1)
}
