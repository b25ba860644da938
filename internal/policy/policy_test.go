package policy

import (
	"iter"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/geo"
	"github.com/telemark-otel/telemark/internal/reason"
)

type pair struct{ key, value string }

type resource []pair

func (r resource) Values(key string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, p := range r {
			if p.key == key && !yield(p.value) {
				return
			}
		}
	}
}

var signed = time.Unix(1_700_000_000, 0)

func facts(change func(*Facts)) *Facts {
	f := &Facts{
		Name:       "edge-a",
		Labels:     map[string]string{"site": "berlin"},
		Attributes: resource{{"host.name", "edge-a"}, {"site", "berlin"}},
		Freshness:  Live,
		Signed:     signed,
	}
	if change != nil {
		change(f)
	}
	return f
}

func at(lat, lon float64, change func(*block.Location)) *block.Location {
	l := &block.Location{Latitude: lat, Longitude: lon, Source: "gpsd"}
	if change != nil {
		change(l)
	}
	return l
}

func bind(t *testing.T, m map[string]string, required ...string) []Binding {
	b, err := ParseBind(m, required)
	require.NoError(t, err)
	return b
}

func TestBindRefusesAnotherMachinesName(t *testing.T) {
	byName := map[string]string{"host.name": "name"}
	byLabel := map[string]string{"site": "label:site"}
	for name, c := range map[string]struct {
		bind     map[string]string
		required []string
		facts    func(*Facts)
		want     reason.Reason
	}{
		"same name":                {bind: byName},
		"other name":               {bind: byName, facts: func(f *Facts) { f.Attributes = resource{{"host.name", "edge-b"}} }, want: reason.IdentityMismatch},
		"case differs":             {bind: byName, facts: func(f *Facts) { f.Attributes = resource{{"host.name", "EDGE-A"}} }, want: reason.IdentityMismatch},
		"empty value":              {bind: byName, facts: func(f *Facts) { f.Attributes = resource{{"host.name", ""}} }, want: reason.IdentityMismatch},
		"second value names other": {bind: byName, facts: func(f *Facts) { f.Attributes = resource{{"host.name", "edge-a"}, {"host.name", "edge-b"}} }, want: reason.IdentityMismatch},
		"absent":                   {bind: byName, facts: func(f *Facts) { f.Attributes = resource{} }},
		"absent and required":      {bind: byName, required: []string{"host.name"}, facts: func(f *Facts) { f.Attributes = resource{} }, want: reason.IdentityMismatch},
		"label":                    {bind: byLabel},
		"other label":              {bind: byLabel, facts: func(f *Facts) { f.Attributes = resource{{"site", "paris"}} }, want: reason.IdentityMismatch},
		"key without the label":    {bind: byLabel, facts: func(f *Facts) { f.Labels = nil }, want: reason.IdentityMismatch},
		"key without a name":       {bind: byName, facts: func(f *Facts) { f.Name = ""; f.Attributes = resource{{"host.name", ""}} }, want: reason.IdentityMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			p := &Policy{Bind: bind(t, c.bind, c.required...)}
			require.Equal(t, c.want, reason.Of(p.Judge(facts(c.facts))))
		})
	}
}

func TestBindDetailIsBounded(t *testing.T) {
	p := &Policy{Bind: bind(t, map[string]string{"host.name": "name"})}
	huge := string(make([]byte, 1<<20))
	err := p.Judge(facts(func(f *Facts) { f.Attributes = resource{{"host.name", huge}} }))
	require.Less(t, len(err.Error()), 2048)
}

func TestParseBindNamesTheWayOut(t *testing.T) {
	_, err := ParseBind(map[string]string{"host.name": "label:"}, nil)
	require.ErrorContains(t, err, `"label:"`)
	_, err = ParseBind(map[string]string{"host.name": "hostname"}, nil)
	require.ErrorContains(t, err, `"name"`)
	_, err = ParseBind(map[string]string{"": "name"}, nil)
	require.Error(t, err)
	_, err = ParseBind(nil, []string{"host.name"})
	require.ErrorContains(t, err, "not bound")
}

func TestFreshnessIsAnOrder(t *testing.T) {
	for _, required := range []Freshness{Sequence, Stale, Live} {
		for _, got := range []Freshness{Sequence, Stale, Live} {
			p := &Policy{Freshness: required}
			err := p.Judge(facts(func(f *Facts) { f.Freshness = got }))
			if got < required {
				require.Equal(t, reason.NotFresh, reason.Of(err), "%v for %v", got, required)
			} else {
				require.NoError(t, err, "%v for %v", got, required)
			}
		}
		require.NoError(t, (&Policy{Freshness: required}).Judge(facts(func(f *Facts) { f.Freshness = Unjudged })))
	}
}

func TestDegreeComesFromTheNonceAlone(t *testing.T) {
	p := &Policy{LiveWithin: 5 * time.Minute}
	require.Equal(t, Live, p.Degree(signed, signed.Add(5*time.Minute)))
	require.Equal(t, Stale, p.Degree(signed, signed.Add(5*time.Minute+1)))
	require.Equal(t, Live, p.Degree(signed, signed.Add(-time.Second)), "clocks differ within the skew")
}

func TestFreshnessWordsRoundTrip(t *testing.T) {
	for _, f := range []Freshness{Sequence, Stale, Live} {
		got, err := ParseFreshness(f.String())
		require.NoError(t, err)
		require.Equal(t, f, got)
	}
	_, err := ParseFreshness("unjudged")
	require.Error(t, err)
}

const berlin = `{"type":"Polygon","coordinates":[
	[[13,52],[14,52],[14,53],[13,53],[13,52]],
	[[13.4,52.4],[13.6,52.4],[13.6,52.6],[13.4,52.6],[13.4,52.4]]]}`

const twoSquares = `{"type":"MultiPolygon","coordinates":[
	[[[0,0],[1,0],[1,1],[0,1],[0,0]]],
	[[[170,-10,5],[180,-10,5],[180,10,5],[170,10,5],[170,-10,5]]]]}`

func area(t *testing.T, geometry string) *Area {
	a, err := ParseArea([]byte(geometry))
	require.NoError(t, err)
	return a
}

func named(t *testing.T) *Regions {
	r, err := (*Regions)(nil).With("berlin", []byte(berlin))
	require.NoError(t, err)
	r, err = r.With("sea", []byte(twoSquares))
	require.NoError(t, err)
	return r
}

func regions(t *testing.T, references ...string) []*Region {
	found, err := named(t).FindAll(references)
	require.NoError(t, err)
	return found
}

func TestRefusalNamesTheRegions(t *testing.T) {
	at := &block.Location{Latitude: 48, Longitude: 11}
	one := Location{Regions: regions(t, "berlin")}
	require.ErrorContains(t, one.outside(at), "48.00000, 11.00000 is outside berlin")
	many := Location{Regions: regions(t, "berlin", "sea", "berlin", "sea", "berlin")}
	require.ErrorContains(t, many.outside(at), "is outside berlin, sea, berlin, sea, …")
	drawn := Location{Within: area(t, berlin)}
	require.ErrorContains(t, drawn.outside(at), "48.00000, 11.00000 is outside")
}

func TestRegionsAreFoundByNameAndDrawing(t *testing.T) {
	r := named(t)
	found, err := r.Find("berlin")
	require.NoError(t, err)
	require.True(t, found.Area.Contains(geo.Position{Latitude: 52.2, Longitude: 13.2}))
	pinned, err := r.Find(found.Reference())
	require.NoError(t, err)
	require.Same(t, found, pinned)
	require.Len(t, r.All(), 2)
	require.Equal(t, "berlin", r.All()[0].Name)

	other := "berlin@" + strings.Repeat("ab", 32)
	_, err = r.Find(other)
	require.ErrorIs(t, err, ErrRegionHash)
	_, err = r.Find("paris")
	require.ErrorIs(t, err, ErrNoRegion)
	_, err = (*Regions)(nil).Find("paris")
	require.ErrorIs(t, err, ErrNoRegion)
	for _, bad := range []string{"", "a b", "../x", ".x", strings.Repeat("x", 65), "berlin@", "berlin@12", "berlin@" + strings.Repeat("g", 64)} {
		_, err := r.Find(bad)
		require.Error(t, err, bad)
		_, err = AnyRegions().Find(bad)
		require.Error(t, err, bad)
	}
	foreign, err := AnyRegions().Find(other)
	require.NoError(t, err)
	require.Equal(t, other, foreign.Reference())
	require.Nil(t, foreign.Area)

	_, err = r.With("berlin", []byte(berlin))
	require.ErrorIs(t, err, ErrRegionTwice)
	_, err = r.With("a/b", []byte(berlin))
	require.ErrorIs(t, err, ErrRegionName)
	_, err = r.With("x", []byte(`{}`))
	require.ErrorIs(t, err, geo.ErrType)
	_, err = r.FindAll(make([]string, maxReferences+1))
	require.ErrorIs(t, err, ErrRegionMany)
	require.Len(t, r.All(), 2, "what was refused is not there")
}

func TestTimeOfAFixIsTheClaimsElseOfTheSignature(t *testing.T) {
	require.Equal(t, signed.Unix(), Taken(at(1, 1, nil), signed))
	require.Equal(t, signed.Unix()-60, Taken(at(1, 1, func(l *block.Location) { l.Age = new(int64(60)) }), signed))
	require.Equal(t, int64(5), Taken(at(1, 1, func(l *block.Location) { l.Age, l.Timestamp = new(int64(60)), new(int64(5)) }), signed))
	require.Equal(t, signed.Unix(), Taken(at(1, 1, func(l *block.Location) { l.Age = new(int64(math.MaxInt64)) }), signed))
}

func BenchmarkJudgeLocation(b *testing.B) {
	p := &Policy{Location: &Location{Required: true, Sources: []string{"gpsd"}, MaxAge: time.Minute, MaxAccuracy: 100, Mode: Strict}}
	var err error
	p.Location.Within, err = ParseArea([]byte(berlin))
	require.NoError(b, err)
	accuracy, age := 10.0, int64(1)
	f := &Facts{Location: &block.Location{Latitude: 52.2, Longitude: 13.2, Accuracy: &accuracy, Age: &age, Source: "gpsd"}, Signed: signed}
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Judge(f); err != nil {
			b.Fatal(err)
		}
	}
}

func TestLocationPolicyHasOneReasonForEachFault(t *testing.T) {
	metres := func(f float64) func(*block.Location) {
		return func(l *block.Location) { l.Accuracy = &f }
	}
	age := func(s int64) func(*block.Location) {
		return func(l *block.Location) { l.Age = &s }
	}
	taken := func(d time.Duration) func(*block.Location) {
		s := signed.Add(d).Unix()
		return func(l *block.Location) { l.Timestamp = &s }
	}
	for name, c := range map[string]struct {
		policy Location
		got    *block.Location
		want   reason.Reason
	}{
		"absent":                    {Location{Required: true}, nil, reason.LocationMissing},
		"absent, not required":      {Location{Sources: []string{"gpsd"}}, nil, ""},
		"source":                    {Location{Sources: []string{"static", "gpsd"}}, at(0, 0, nil), ""},
		"other source":              {Location{Sources: []string{"static"}}, at(0, 0, nil), reason.LocationSourceNotAllowed},
		"inside":                    {Location{Within: area(t, berlin)}, at(52.2, 13.2, nil), ""},
		"on the boundary":           {Location{Within: area(t, berlin)}, at(52.0, 13.5, nil), ""},
		"in the hole":               {Location{Within: area(t, berlin)}, at(52.5, 13.5, nil), reason.LocationOutside},
		"outside":                   {Location{Within: area(t, berlin)}, at(48, 11, nil), reason.LocationOutside},
		"latitude and longitude":    {Location{Within: area(t, berlin)}, at(13.2, 52.2, nil), reason.LocationOutside},
		"second polygon":            {Location{Within: area(t, twoSquares)}, at(0, 175, nil), ""},
		"between the polygons":      {Location{Within: area(t, twoSquares)}, at(0, 90, nil), reason.LocationOutside},
		"no number":                 {Location{Within: area(t, berlin)}, at(math.NaN(), 13.2, nil), reason.LocationOutside},
		"circle inside":             {Location{Within: area(t, berlin), Mode: Strict}, at(52.2, 13.2, metres(10_000)), ""},
		"circle over the edge":      {Location{Within: area(t, berlin), Mode: Strict}, at(52.2, 13.2, metres(14_000)), reason.LocationOutside},
		"circle over the hole":      {Location{Within: area(t, berlin), Mode: Strict}, at(52.35, 13.5, metres(6_000)), reason.LocationOutside},
		"circle around the hole":    {Location{Within: area(t, berlin), Mode: Strict}, at(52.35, 13.5, metres(5_000)), ""},
		"circle of a point":         {Location{Within: area(t, berlin), Mode: Strict}, at(52.2, 13.2, metres(0)), ""},
		"circle unknown":            {Location{Within: area(t, berlin), Mode: Strict}, at(52.2, 13.2, nil), reason.LocationTooInaccurate},
		"circle is no number":       {Location{Within: area(t, berlin), Mode: Strict}, at(52.2, 13.2, metres(math.NaN())), reason.LocationTooInaccurate},
		"circle of everything":      {Location{Within: area(t, berlin), Mode: Strict}, at(52.2, 13.2, metres(math.Inf(1))), reason.LocationOutside},
		"in a region":               {Location{Regions: regions(t, "sea", "berlin")}, at(52.2, 13.2, nil), ""},
		"in no region":              {Location{Regions: regions(t, "sea", "berlin")}, at(48, 11, nil), reason.LocationOutside},
		"drawn area beside regions": {Location{Within: area(t, twoSquares), Regions: regions(t, "berlin")}, at(0.5, 0.5, nil), ""},
		"region known by name only": {Location{Regions: []*Region{{Name: "x"}}}, at(0.5, 0.5, nil), reason.LocationOutside},
		"accurate":                  {Location{MaxAccuracy: 10}, at(0, 0, metres(10)), ""},
		"too coarse":                {Location{MaxAccuracy: 10}, at(0, 0, metres(10.1)), reason.LocationTooInaccurate},
		"accuracy unknown":          {Location{MaxAccuracy: 10}, at(0, 0, nil), reason.LocationTooInaccurate},
		"accuracy is no number":     {Location{MaxAccuracy: 10}, at(0, 0, metres(math.NaN())), reason.LocationTooInaccurate},
		"negative accuracy":         {Location{MaxAccuracy: 10}, at(0, 0, metres(-1)), reason.LocationTooInaccurate},
		"young by age":              {Location{MaxAge: time.Minute}, at(0, 0, age(60)), ""},
		"old by age":                {Location{MaxAge: time.Minute}, at(0, 0, age(61)), reason.LocationStale},
		"negative age":              {Location{MaxAge: time.Minute}, at(0, 0, age(-1)), reason.LocationStale},
		"young by time":             {Location{MaxAge: time.Minute}, at(0, 0, taken(-time.Minute)), ""},
		"old by time":               {Location{MaxAge: time.Minute}, at(0, 0, taken(-2*time.Minute)), reason.LocationStale},
		"taken after it was signed": {Location{MaxAge: time.Minute}, at(0, 0, taken(2*time.Minute)), reason.LocationStale},
		"end of time":               {Location{MaxAge: time.Minute}, at(0, 0, taken(math.MaxInt64)), reason.LocationStale},
		"neither age nor time":      {Location{MaxAge: time.Minute}, at(0, 0, nil), reason.LocationStale},
		"age says young, time says old": {Location{MaxAge: time.Minute}, at(0, 0, func(l *block.Location) {
			age(1)(l)
			taken(-time.Hour)(l)
		}), reason.LocationStale},
	} {
		t.Run(name, func(t *testing.T) {
			p := &Policy{Location: &c.policy}
			require.Equal(t, c.want, reason.Of(p.Judge(facts(func(f *Facts) { f.Location = c.got }))))
		})
	}
}

func TestPolicyReasonsAreOfClassPolicy(t *testing.T) {
	p := &Policy{Location: &Location{Required: true}}
	require.Equal(t, reason.ClassPolicy, reason.Of(p.Judge(facts(nil))).Class())
}

func TestLocationValidate(t *testing.T) {
	require.ErrorIs(t, (&Location{MaxAge: -1}).Validate(), ErrMaxAge)
	require.ErrorIs(t, (&Location{MaxAccuracy: math.Inf(1)}).Validate(), ErrMaxAccuracy)
	require.ErrorIs(t, (&Location{MaxAccuracy: -1}).Validate(), ErrMaxAccuracy)
	require.ErrorIs(t, (&Location{}).Validate(), ErrNothing)
	require.Error(t, (&Location{Sources: []string{""}}).Validate())
	require.ErrorIs(t, (&Location{Required: true, Mode: Strict}).Validate(), ErrMode)
	for _, speed := range []float64{-1, math.NaN(), math.Inf(1), 1e7} {
		l := &Location{}
		l.SetMaxSpeed(speed)
		require.ErrorIs(t, l.Validate(), ErrMaxSpeed)
	}
	fast := &Location{}
	fast.SetMaxSpeed(1000)
	require.NoError(t, fast.Validate())
	require.InDelta(t, 277.8, fast.MaxSpeed, 0.1)
	require.NoError(t, (&Location{Required: true}).Validate())
}

func TestUnknownModesAllowNothing(t *testing.T) {
	_, err := ParseMode("near")
	require.ErrorContains(t, err, "strict or centre")
	require.False(t, Mode(7).holds(area(t, berlin), geo.Position{Latitude: 52.2, Longitude: 13.2}, new(1.0)))
	for _, m := range []Mode{Centre, Strict} {
		got, err := ParseMode(m.String())
		require.NoError(t, err)
		require.Equal(t, m, got)
	}
}
