package identity_test

import (
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/api"
	registryapi "github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/test/identitylab"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

// TestRegistryThatIsDownIsToldLater: the step is taken and kept, the answer says
// so, and the registry hears of it when it is back.
func TestRegistryThatIsDownIsToldLater(t *testing.T) {
	t.Parallel()
	registry, err := newRegistry(filepath.Join(t.TempDir(), "registry"))
	require.NoError(t, err)
	t.Cleanup(registry.Kill)
	v := newVM(t, func(o *identitylab.Options) { o.Registry, o.Pin = registry.URL, registry.Pin })
	registry.Kill()

	a := v.second(v.operator, api.PathRegisterOperator, v.operatorBody())
	require.Equal(t, http.StatusAccepted, a.Code, "%s", a)
	require.Equal(t, api.StatusSuccess, a.Status)
	require.Equal(t, api.RegistryPending, a.Registry)
	require.Equal(t, "registry_unreachable", a.Reason)
	require.NotEmpty(t, a.OwnerToken, "the step is taken")
	require.Equal(t, "operator_registered", v.state().State)
	require.False(t, v.state().Registry.Told)

	// The service is killed meanwhile: what is owed is not forgotten.
	v.restart()
	v.owner202(a.OwnerToken)
	require.NoError(t, registry.Start())
	require.NoError(t, up(registry))
	v.eventually(func() error {
		if r := v.state().Registry; !r.Told {
			return fmt.Errorf("not told: %s", r.LastError)
		}
		return nil
	})
	i, err := registry.Client.Instance(t.Context(), fmt.Sprintf("%x", v.instance()))
	require.NoError(t, err)
	require.Equal(t, registryapi.TDXVerified, i.State)
	require.Equal(t, []byte(v.owner.public()), []byte(i.Owner.Pubkey))
	require.Equal(t, []byte(v.operator.public()), []byte(i.Operator.Pubkey))
}

func (v *vm) owner202(token string) {
	v.Helper()
	a := v.second(v.owner, api.PathRegisterOwner, v.ownerBody(), api.HeaderToken, token)
	require.Equal(v, http.StatusAccepted, a.Code, "%s", a)
	require.Equal(v, "registry_unreachable", a.Reason, "%s", a)
}

// TestWithoutRTMR3TheStatementVouches: a machine whose register cannot be extended
// binds its event log into the report data alone, and the registry says so.
func TestWithoutRTMR3OnlyTheStatementVouches(t *testing.T) {
	t.Parallel()
	server := serve(t, (&tdxlab.Server{Lab: world.forger, ReadOnly: true}).Handler())
	v := newVM(t, func(o *identitylab.Options) { o.Lab = server })
	v.configured()
	v.expose()
	f := v.facts(func(f *registryapi.InstanceFacts) error {
		if f.SSH != "closed" {
			return errors.New("SSH is " + f.SSH)
		}
		return nil
	})
	require.Equal(t, registryapi.FactsStatement, f.Evidence)
	require.False(t, f.SSHClosed.IsZero())
}

// TestFactsFollowTheSteps: what the registry shows is what was done.
func TestFactsFollowTheSteps(t *testing.T) {
	t.Parallel()
	v := newVM(t)
	v.registerOwner(v.registerOperator())
	is := func(state, ssh string) func(*registryapi.InstanceFacts) error {
		return func(f *registryapi.InstanceFacts) error {
			if f.State != state || f.SSH != ssh {
				return fmt.Errorf("%s, SSH %s", f.State, f.SSH)
			}
			return nil
		}
	}
	require.Empty(t, v.facts(is("owner_registered", "never_opened")).Image)
	v.accepted(v.second(v.owner, api.PathConfigure, v.configureBody(app)))
	f := v.facts(is("workload_configured", "open"))
	require.Equal(t, app+"@"+v.state().Workload.Digest, f.Image)
	require.True(t, f.SSHClosed.IsZero())
	v.expose()
	f = v.facts(is("workload_exposed", "closed"))
	require.False(t, f.SSHClosed.IsZero())
	require.Equal(t, registryapi.FactsRTMR3, f.Evidence)
}

// TestRTMR3ThatSomebodyElseExtendedIsNotBelieved: root in the VM that writes into
// the register can only spoil the log.
func TestRTMR3ThatSomebodyElseExtendedIsNotBelieved(t *testing.T) {
	t.Parallel()
	v := newVM(t)
	v.configured()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, v.Quotes+"/rtmr3/"+fmt.Sprintf("%096x", 7), nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Less(t, resp.StatusCode, 300)
	a := v.second(v.owner, api.PathExpose, v.exposeBody(app))
	require.NotEqual(t, http.StatusOK, a.Code, "%s", a)
	i, err := world.registry.Client.Instance(t.Context(), fmt.Sprintf("%x", v.instance()))
	require.NoError(t, err)
	require.NotEqual(t, "closed", i.Facts.SSH)
}
