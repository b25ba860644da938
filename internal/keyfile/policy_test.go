package keyfile

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/geo"
	"github.com/telemark-otel/telemark/internal/policy"
)

const berlin = `{"type":"Polygon","coordinates":[[[13,52],[14,52],[14,53],[13,53],[13,52]]]}`

func fenced(region string) *Location { return &Location{Regions: []string{region}} }

func marshalFile(t *testing.T, f File) []byte {
	t.Helper()
	b, err := json.Marshal(f)
	require.NoError(t, err)
	return b
}

func TestPolicyOfAKeyComesFromTheNarrowestScope(t *testing.T) {
	keys := []Entry{entry(t, "edge-a"), entry(t, "edge-b"), entry(t, "edge-c"), entry(t, "edge-d")}
	keys[0].Location = fenced("own")
	keys[1].Labels = map[string]string{"site": "berlin", "rack": "7"}
	keys[2].Labels = map[string]string{"rack": "7"}
	f := File{
		Keys:    keys,
		Regions: map[string]json.RawMessage{},
		Policies: []Policy{
			{Scope: "default", Freshness: "live", Location: fenced("default")},
			{Scope: "label:site=berlin", Location: fenced("site")},
			{Scope: "label:rack=7", Location: fenced("rack"), Bind: map[string]string{"host.name": "name"}},
			{Scope: "name:EDGE-C", Location: fenced("name"), RequireEvidence: "genuine"},
			{Scope: "name:other", Freshness: "sequence"},
		},
	}
	for _, name := range []string{"own", "default", "site", "rack", "name"} {
		f.Regions[name] = json.RawMessage(berlin)
	}
	s, err := Parse("keys.json", marshalFile(t, f), defaults)
	require.NoError(t, err)
	found := map[string]*policy.Policy{}
	for _, k := range s.Keys() {
		found[k.Name] = k.Policy
	}
	for name, region := range map[string]string{"edge-a": "own", "edge-b": "rack", "edge-c": "name", "edge-d": "default"} {
		p := found[name]
		require.Equal(t, region, p.Location.Regions[0].Name, name)
		require.Equal(t, policy.Live, p.Freshness, name)
		require.Equal(t, policy.DefaultLiveWithin, p.LiveWithin)
	}
	require.Empty(t, found["edge-a"].Bind)
	require.Len(t, found["edge-b"].Bind, 1)
	require.Len(t, found["edge-c"].Bind, 1)
	require.True(t, found["edge-c"].Genuine)
	require.True(t, found["edge-d"].Location.Required)
	require.True(t, found["edge-d"].Location.Regions[0].Area.Contains(geo.Position{Latitude: 52.5, Longitude: 13.5}))
	require.Nil(t, defaults.Location)
}

func TestRegionsAreTheFilesAndTheVerifiers(t *testing.T) {
	known, err := (*policy.Regions)(nil).With("verifier", []byte(berlin))
	require.NoError(t, err)
	under := *defaults
	under.Regions = known
	a, b := entry(t, "edge-a"), entry(t, "edge-b")
	a.Location, b.Location = fenced("verifier"), fenced("file")
	a.Location.MaxSpeed, a.Location.Mode = 900, "strict"
	f := File{Keys: []Entry{a, b}, Regions: map[string]json.RawMessage{"file": json.RawMessage(berlin)}}
	s, err := Parse("keys.json", marshalFile(t, f), &under)
	require.NoError(t, err)
	for _, k := range s.Keys() {
		require.NotNil(t, k.Policy.Location.Regions[0].Area)
		if k.Name == "edge-a" {
			require.InDelta(t, 250, k.Policy.Location.MaxSpeed, 1e-9)
			require.Equal(t, policy.Strict, k.Policy.Location.Mode)
		}
	}
	one, err := json.Marshal(a)
	require.NoError(t, err)
	_, err = ParseEntry(one, &under)
	require.NoError(t, err)
	_, err = ParseEntry(one, defaults)
	require.ErrorIs(t, err, policy.ErrNoRegion)
	require.NoError(t, a.CheckPolicy(), "what regions there are only verifiers know")

	f.Regions["verifier"] = json.RawMessage(berlin)
	_, err = Parse("keys.json", marshalFile(t, f), &under)
	require.ErrorIs(t, err, policy.ErrRegionTwice)
}

func TestPoliciesAreReadStrictly(t *testing.T) {
	for name, c := range map[string]struct {
		policies string
		want     string
	}{
		"scope unknown":     {`[{"scope":"site:berlin","freshness":"live"}]`, "name:NAME"},
		"scope empty":       {`[{"freshness":"live"}]`, "name:NAME"},
		"name empty":        {`[{"scope":"name:","freshness":"live"}]`, "name:NAME"},
		"label without":     {`[{"scope":"label:site","freshness":"live"}]`, "KEY=VALUE"},
		"label without key": {`[{"scope":"label:=x","freshness":"live"}]`, "KEY=VALUE"},
		"demands nothing":   {`[{"scope":"default"}]`, "demands nothing"},
		"twice":             {`[{"scope":"default","freshness":"live"},{"scope":"default","freshness":"stale"}]`, "twice"},
		"unknown member":    {`[{"scope":"default","fresh":"live"}]`, "fresh"},
		"freshness":         {`[{"scope":"default","freshness":"new"}]`, "live, stale or sequence"},
		"region not there":  {`[{"scope":"default","location":{"regions":["x"]}}]`, "no region"},
		"location":          {`[{"scope":"default","location":{"max_age":"x"}}]`, "max_age"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("keys.json", []byte(`{"keys":[],"policies":`+c.policies+`}`), defaults)
			require.ErrorContains(t, err, c.want)
		})
	}
	_, err := Parse("keys.json", []byte(`{"keys":[],"regions":{"a/b":`+berlin+`}}`), defaults)
	require.ErrorIs(t, err, policy.ErrRegionName)
	_, err = Parse("keys.json", []byte(`{"keys":[],"regions":{"a":{"type":"Point"}}}`), defaults)
	require.ErrorIs(t, err, geo.ErrType)
}
