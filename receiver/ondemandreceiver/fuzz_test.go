package ondemandreceiver

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// FuzzParse holds what is accepted to the limits: as many names as values, none
// twice, each within its bounds.
func FuzzParse(f *testing.F) {
	limits := &ApplicationConfig{MaxDepth: 4, MaxValues: 16, MaxKey: 64, MaxString: 32}
	f.Add(`{"metric_type":"system"}`)
	f.Add(`{"metric_type":"application","custom_data":{"a":{"b":[1,2.5,{"c":-0}]},"d":"e","f":true,"g":null}}`)
	f.Fuzz(func(t *testing.T, body string) {
		req, err := parse([]byte(body), limits)
		if err != nil {
			require.NotEmpty(t, refusalOf(err).reason)
			return
		}
		if req.kind == kindSystem {
			require.Nil(t, req.data)
			return
		}
		md := pmetric.NewMetrics()
		b := &builder{metrics: md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics(), now: 1}
		req.data.gauges(b)
		require.Positive(t, md.DataPointCount())
		require.Equal(t, md.DataPointCount(), md.MetricCount())
		require.LessOrEqual(t, md.DataPointCount()+req.data.attributes.Len(), limits.MaxValues)
		names := map[string]bool{}
		for _, m := range b.metrics.All() {
			require.False(t, names[m.Name()])
			require.LessOrEqual(t, len(m.Name()), limits.MaxKey)
			names[m.Name()] = true
		}
		for k, v := range req.data.attributes.All() {
			require.False(t, names[k])
			require.LessOrEqual(t, len(v.AsString()), limits.MaxString)
		}
	})
}

func TestSeedsOfTheFuzzerAreThere(t *testing.T) {
	found, err := os.ReadDir("testdata/fuzz/FuzzParse")
	require.NoError(t, err)
	require.NotEmpty(t, found)
}
