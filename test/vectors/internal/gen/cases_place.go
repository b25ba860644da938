package main

import (
	"encoding/json"
	"time"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/keyfile"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/receipt"
	"github.com/telemark-otel/telemark/test/vectors/internal/vector"
)

// places are areas that are more than a box, whole circles, named areas,
// policies of groups, and ways that no machine goes.
func places(b *book) {
	circles(b)
	shapes(b)
	regions(b)
	journeys(b)
}

func claim(latitude, longitude float64, accuracy *float64) *receipt.Location {
	return &receipt.Location{Latitude: latitude, Longitude: longitude, Accuracy: accuracy, Age: new(int64(5)), Source: "gpsd"}
}

// place adds a vector of a block from a position, under a location policy.
func (b *book) place(name, about string, why reason.Reason, l *receipt.Location, demand *keyfile.Location) {
	b.judged("location-"+name, about, why, sample(block.Metrics, "edge-a"),
		func(a *agent) { a.location = l }, func(_ *vector.Vector, k *keyfile.Entry) { k.Location = demand })
}

func circles(b *book) {
	strict := &keyfile.Location{Within: json.RawMessage(box), Mode: "strict"}
	b.place("strict", "The whole circle of 10 km is inside.", "", claim(52.25, 13.25, new(10_000.0)), strict)
	b.place("strict-over-edge", "The position is inside, and 17 km from the west; its circle has 20 km.", reason.LocationOutside, claim(52.25, 13.25, new(20_000.0)), strict)
	b.place("strict-over-hole", "The position is inside, and 5.6 km from the hole; its circle has 6 km.", reason.LocationOutside, claim(52.45, 13.55, new(6_000.0)), strict)
	b.place("strict-beside-hole", "As before, with a circle of 5 km.", "", claim(52.45, 13.55, new(5_000.0)), strict)
	b.place("strict-no-accuracy", "Whole circles are asked for, and the claim has none.", reason.LocationTooInaccurate, claim(52.25, 13.25, nil), strict)
	b.place("strict-point", "The circle is a point.", "", claim(52.25, 13.25, new(0.0)), strict)
}

const (
	cutBox    = `{"type":"MultiPolygon","coordinates":[[[[177,-20],[180,-20],[180,-15],[177,-15],[177,-20]]],[[[-180,-20],[-178,-20],[-178,-15],[-180,-15],[-180,-20]]]]}`
	uncutBox  = `{"type":"Polygon","coordinates":[[[177,-20],[182,-20],[182,-15],[177,-15],[177,-20]]]}`
	boundBox  = `{"type":"Feature","properties":null,"bbox":[177,-20,-178,-15],"geometry":{"type":"Polygon","coordinates":[[[177,-20],[-178,-20],[-178,-15],[177,-15],[177,-20]]]}}`
	unevenBox = `{"type":"MultiPolygon","coordinates":[[[[177,-20],[180,-20],[180,-15],[177,-15],[177,-20]]],[[[-180,-18],[-178,-18],[-178,-17],[-180,-17],[-180,-18]]]]}`
	arctic    = `{"type":"Polygon","coordinates":[[[-180,80],[180,80],[180,90],[-180,90],[-180,80]]]}`
	north     = `{"type":"Polygon","coordinates":[[[-60,40],[60,40],[60,60],[-60,60],[-60,40]]]}`
	clockwise = `{"type":"Polygon","coordinates":[[[13,52],[13,53],[14,53],[14,52],[13,52]]]}`
	twoOfThem = `{"type":"FeatureCollection","features":[{"type":"Feature","properties":{"name":"a"},"geometry":{"type":"Polygon","coordinates":[[[0,0],[1,0],[1,1],[0,0]]]}},` +
		`{"type":"Feature","properties":{"name":"b"},"geometry":` + box + `}]}`
)

func shapes(b *book) {
	within := func(text, mode string) *keyfile.Location {
		return &keyfile.Location{Within: json.RawMessage(text), Mode: mode}
	}
	for name, text := range map[string]string{"cut": cutBox, "uncut": uncutBox, "bbox": boundBox} {
		b.place("antimeridian-"+name+"-west", "The area reaches across the antimeridian, the position is west of it.", "", claim(-17, 179.5, nil), within(text, ""))
		b.place("antimeridian-"+name+"-east", "The area reaches across the antimeridian, the position is east of it.", "", claim(-17, -179.5, nil), within(text, ""))
		b.place("antimeridian-"+name+"-outside", "The area reaches across the antimeridian, the position is on the other side of the Earth.", reason.LocationOutside, claim(-17, 0.5, nil), within(text, ""))
		b.place("antimeridian-"+name+"-strict", "The circle reaches across the antimeridian, as the area does.", "", claim(-17, 179.9, new(50_000.0)), within(text, "strict"))
		b.place("antimeridian-"+name+"-strict-outside", "The circle reaches across the antimeridian and out of the area there.", reason.LocationOutside, claim(-17, -178.5, new(60_000.0)), within(text, "strict"))
	}
	b.place("antimeridian-end-of-cut", "At this latitude the area ends at the antimeridian.", reason.LocationOutside, claim(-16, 179.9, new(20_000.0)), within(unevenBox, "strict"))
	b.place("pole", "The position is the pole, and its circle of 1,000 km is inside.", "", claim(90, 20, new(1_000_000.0)), within(arctic, "strict"))
	b.place("pole-outside", "The position is the pole, and its circle of 1,130 km reaches out.", reason.LocationOutside, claim(90, 20, new(1_130_000.0)), within(arctic, "strict"))
	b.place("pole-beyond", "The circle reaches over the pole to the other side.", "", claim(89.9, -150, new(500_000.0)), within(arctic, "strict"))
	b.place("parallel", "An edge of 120 degrees follows its parallel, not the great circle, which passes far to the north.", reason.LocationOutside, claim(60.5, 0.5, nil), within(north, ""))
	b.place("parallel-inside", "The position is south of that edge.", "", claim(59.5, 0.5, nil), within(north, ""))
	b.place("parallel-strict", "The circle of 60 km reaches over the edge, 56 km away.", reason.LocationOutside, claim(59.5, 0.5, new(60_000.0)), within(north, "strict"))
	b.place("clockwise", "The direction of a ring does not matter.", "", claim(52.5, 13.5, nil), within(clockwise, ""))
	b.place("features", "The area is a collection, the position is in its second feature.", "", claim(52.25, 13.25, nil), within(twoOfThem, ""))
	b.place("features-outside", "The position is in a hole of the second feature.", reason.LocationOutside, claim(52.55, 13.55, nil), within(twoOfThem, ""))
}

func regions(b *book) {
	named := func(name, about string, why reason.Reason, demand func(v *vector.Vector, k *keyfile.Entry)) {
		b.judged("region-"+name, about, why, sample(block.Logs, "edge-a"), func(a *agent) { a.location = claim(52.25, 13.25, nil) },
			func(v *vector.Vector, k *keyfile.Entry) {
				v.Regions = map[string]json.RawMessage{"berlin": json.RawMessage(box), "fiji": json.RawMessage(cutBox)}
				demand(v, k)
			})
	}
	in := func(names ...string) *keyfile.Location { return &keyfile.Location{Regions: names} }
	named("inside", "The position is in the region that policy names.", "", func(_ *vector.Vector, k *keyfile.Entry) { k.Location = in("berlin") })
	named("other", "The position is in another region than policy names.", reason.LocationOutside, func(_ *vector.Vector, k *keyfile.Entry) { k.Location = in("fiji") })
	named("one-of-two", "Policy names two regions, one of them holds the position.", "", func(_ *vector.Vector, k *keyfile.Entry) { k.Location = in("fiji", "berlin") })
	named("beside-area", "Policy draws an area and names a region, which holds the position.", "", func(_ *vector.Vector, k *keyfile.Entry) {
		k.Location = &keyfile.Location{Regions: []string{"berlin"}, Within: json.RawMessage(arctic)}
	})
	group := func(scope, region string) keyfile.Policy { return keyfile.Policy{Scope: scope, Location: in(region)} }
	named("of-default", "The file's default policy names a region, which does not hold the position.", reason.LocationOutside, func(v *vector.Vector, _ *keyfile.Entry) {
		v.Policies = []keyfile.Policy{group("default", "fiji"), group("name:edge-b", "berlin")}
		v.Policies[1].Location.Required = new(false)
	})
	named("of-label", "The policy of a label stands before the default.", "", func(v *vector.Vector, k *keyfile.Entry) {
		k.Labels = map[string]string{"site": "berlin"}
		v.Policies = []keyfile.Policy{group("default", "fiji"), group("label:site=berlin", "berlin"), group("label:site=suva", "fiji"), group("name:edge-b", "berlin")}
		v.Policies[3].Location.Required = new(false)
	})
	named("of-name", "The policy of a name stands before that of a label.", reason.LocationOutside, func(v *vector.Vector, k *keyfile.Entry) {
		k.Labels = map[string]string{"site": "berlin"}
		v.Policies = []keyfile.Policy{group("label:site=berlin", "berlin"), group("name:EDGE-A", "fiji")}
	})
	named("of-key", "The key's own policy stands before that of its name.", "", func(v *vector.Vector, k *keyfile.Entry) {
		k.Location = in("berlin")
		v.Policies = []keyfile.Policy{group("name:edge-a", "fiji")}
	})
}

var (
	berlin  = [2]float64{52.52, 13.405}
	potsdam = [2]float64{52.39, 13.065}
	paris   = [2]float64{48.857, 2.352}
)

// journey is what one machine sends under a limit of 1000 km/h.
type journey struct {
	*page
	a *agent
}

func (b *book) journey(name, about string) *journey {
	a := newAgent("edge-a")
	p := b.add("travel-"+name, about, block.Logs, a)
	p.Keys[0].Location = &keyfile.Location{MaxSpeed: 1000}
	return &journey{p, a}
}

// from signs a block that says where the machine was at a time.
func (j *journey) from(at [2]float64, taken time.Time, accuracy *float64) *signed {
	j.a.location = claim(at[0], at[1], accuracy)
	j.a.location.Age, j.a.location.Timestamp = nil, new(taken.Unix())
	return j.a.one(sample(block.Logs, "edge-a"), 0)
}

// at signs a block at a time and lets it arrive ten seconds later. why is empty
// for one that is accepted.
func (j *journey) at(place [2]float64, now time.Time, why reason.Reason) *journey {
	j.a.fetch(now)
	j.a.iat = now
	x := good(j.from(place, now, nil))
	if why != "" {
		x = refused(x.bytes, why)
	}
	j.step(now.Add(10*time.Second), x)
	return j
}

func journeys(b *book) {
	no := reason.ImpossibleTravel
	hour := func(h float64) time.Time { return t0.Add(time.Duration(h * float64(time.Hour))) }
	b.journey("possible", "Berlin to Paris, 870 km, in two hours.").at(berlin, hour(0), "").at(paris, hour(2), "")
	b.journey("impossible", "Berlin to Paris, 870 km, in half an hour.").at(berlin, hour(0), "").at(paris, hour(0.5), no)
	b.journey("refused-is-forgotten", "What was refused is not where the machine is: it goes on from Berlin, and Paris is refused again.").
		at(berlin, hour(0), "").at(paris, hour(0.25), no).at(berlin, hour(0.5), "").at(paris, hour(0.75), no).at(paris, hour(3), "")

	j := b.journey("accuracy", "The circles of both positions explain the distance.")
	first, second := j.from(berlin, t0, new(500_000.0)), j.from(paris, t0.Add(time.Minute), new(400_000.0))
	j.step(arrival.Add(time.Minute), good(first), good(second))

	j = b.journey("in-one-request", "Two blocks of one request, from two places.")
	first, second = j.from(berlin, t0, nil), j.from(paris, t0, nil)
	j.step(arrival, good(first), refused(second.bytes(), no))

	j = b.journey("late", "A block from in between arrives last: it is held against the positions before and after it.")
	first = j.from(berlin, t0.Add(-3*time.Hour), nil)
	between, never := j.from(potsdam, t0.Add(-2*time.Hour), nil), j.from(potsdam, t0.Add(-10*time.Minute), nil)
	last := j.from(paris, t0, nil)
	j.step(arrival, good(first), good(last)).step(arrival, good(between), refused(never.bytes(), no))

	j = b.journey("duplicate", "A block that arrives again is a duplicate, wherever the machine has gone since.")
	j.at(berlin, hour(0), "")
	again := j.Steps[0].Request
	j.at(paris, hour(4), "")
	j.Steps = append(j.Steps, vector.Step{Now: vector.Time{Time: hour(4).Add(time.Minute)}, Request: again, Expect: []vector.Block{{Verdict: "duplicate"}}})

	j = b.journey("two-machines", "Where one machine is says nothing of another.")
	c := newAgent("edge-b")
	j.Keys = append(j.Keys, c.entry())
	j.Keys[1].Location = j.Keys[0].Location
	c.location = claim(paris[0], paris[1], nil)
	j.step(arrival, good(j.from(berlin, t0, nil)), good(c.one(sample(block.Logs, "edge-b"), 0)))

	j = b.journey("future", "A fix that is said to be of next year counts as of now.")
	first = j.from(berlin, t0.Add(365*24*time.Hour), nil)
	j.step(arrival, good(first))
	j.at(berlin, hour(0.1), "").at(paris, hour(0.2), no)
}
