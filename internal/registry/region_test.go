package registry

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/keyfile"
	"github.com/telemark-otel/telemark/internal/policy"
	"github.com/telemark-otel/telemark/internal/registry/registrytest"
)

// TestPolicyThatNamesARegionIsJudgedByTheVerifiersArea: the record has the name
// and how it is drawn, the verifier has the file. A name that it does not have, or
// has otherwise, trusts nobody.
func TestPolicyThatNamesARegionIsJudgedByTheVerifiersArea(t *testing.T) {
	bubble(t, func(t *testing.T) {
		named, err := (*policy.Regions)(nil).With("berlin", []byte(`{"type":"Polygon","coordinates":[[[13,52],[14,52],[14,53],[13,53],[13,52]]]}`))
		require.NoError(t, err)
		found, err := named.Find("berlin")
		require.NoError(t, err)

		reg := registrytest.New(t)
		fenced := func(name, reference string) *registrytest.Machine {
			m := machine(t, name)
			m.Entry.Location = &keyfile.Location{Regions: []string{reference}, MaxSpeed: 900}
			reg.Enrol(m)
			return m
		}
		byName, byDrawing := fenced("edge-a", "berlin"), fenced("edge-b", found.Reference())
		elsewhere := fenced("edge-c", "paris")
		r := start(t, reg)
		under := *defaults
		under.Regions = named
		r.keys = r.c.Keys(&under)
		synctest.Wait()
		for _, m := range []*registrytest.Machine{byName, byDrawing} {
			k, err := r.keys.Lookup(m.KID)
			require.NoError(t, err)
			require.Same(t, found, k.Policy.Location.Regions[0], "all keys share one area")
			require.InDelta(t, 250, k.Policy.Location.MaxSpeed, 1e-9)
		}
		require.Equal(t, "unavailable", r.state(elsewhere))
		_, err = r.keys.Lookup(elsewhere.KID)
		require.ErrorIs(t, err, policy.ErrNoRegion)
	})
}
