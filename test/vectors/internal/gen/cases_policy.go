package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/keyfile"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/receipt"
	"github.com/telemark-otel/telemark/test/vectors/internal/vector"
)

// policies are authentic blocks that policy allows or refuses.
func policies(b *book) {
	binding(b)
	freshness(b)
	locations(b)
}

// judged adds a vector of one authentic block of edge-a under a policy, beside
// one of edge-b under none. why is empty for a block that is allowed.
func (b *book) judged(name, about string, why reason.Reason, data digest.Batch, machine func(*agent), demand func(p *vector.Vector, k *keyfile.Entry)) {
	a, c := newAgent("edge-a"), newAgent("edge-b")
	if machine != nil {
		machine(a)
	}
	p := b.add(name, about, data.Signal(), a, c)
	demand(p.Vector, &p.Keys[0])
	s := a.one(data, 0)
	x := good(s)
	if why != "" {
		x = refused(s.bytes(), why)
	}
	p.step(arrival, x, good(c.one(sample(data.Signal(), "edge-b"), 0)))
}

func binding(b *book) {
	bind := func(name, about, host string, why reason.Reason, demand func(*vector.Vector, *keyfile.Entry)) {
		data := sample(block.Logs, host)
		if host == "" {
			data.At(0).Attributes().Remove("host.name")
		}
		b.judged("bind-"+name, about, why, data, nil, demand)
	}
	byName := func(p *vector.Vector, _ *keyfile.Entry) { p.Policy.Bind = map[string]string{"host.name": "name"} }
	byLabel := func(_ *vector.Vector, k *keyfile.Entry) {
		k.Bind, k.Labels = map[string]string{"service.name": "label:service"}, map[string]string{"service": "shop"}
	}
	why := reason.IdentityMismatch
	bind("name", "host.name is bound to the key's name, and is it.", "edge-a", "", byName)
	bind("other-name", "host.name is bound to the key's name, and names another machine.", "edge-b", why, byName)
	bind("case", "Names differ in case only: they are others.", "Edge-A", why, byName)
	bind("absent", "host.name is bound, and not there: it need not be.", "", "", byName)
	bind("absent-required", "host.name is bound and required, and not there.", "", why, func(p *vector.Vector, k *keyfile.Entry) {
		byName(p, k)
		k.Bind, k.BindRequired = map[string]string{"host.name": "name"}, []string{"host.name"}
	})
	bind("label", "service.name is bound to a label of the key, and is it.", "edge-a", "", byLabel)
	bind("other-label", "service.name is bound to a label of the key, and is another one.", "edge-a", why, func(p *vector.Vector, k *keyfile.Entry) {
		byLabel(p, k)
		k.Labels["service"] = "bank"
	})
	bind("no-label", "service.name is bound to a label that the key does not have.", "edge-a", why, func(p *vector.Vector, k *keyfile.Entry) {
		byLabel(p, k)
		k.Labels = nil
	})
	bind("own-in-place-of-default", "A key's own bindings stand in place of the default ones.", "edge-b", "", func(p *vector.Vector, k *keyfile.Entry) {
		byName(p, k)
		byLabel(p, k)
	})
}

func freshness(b *book) {
	live := func(_ *vector.Vector, k *keyfile.Entry) { k.Freshness = "live" }
	data := sample(block.Traces, "edge-a")
	b.judged("freshness-live", "The key's policy asks for live, and the block is.", "", data, nil, live)
	b.judged("freshness-stale", "The key's policy asks for live, and the nonce is 1 ms too old.", reason.NotFresh, data,
		func(a *agent) { a.fetch(arrival.Add(-5*time.Minute - time.Millisecond)) }, live)
}

const box = `{"type":"Polygon","coordinates":[[[13,52],[14,52],[14,53],[13,53],[13,52]],[[13.5,52.5],[13.6,52.5],[13.6,52.6],[13.5,52.6],[13.5,52.5]]]}`

func locations(b *book) {
	at := func(l *receipt.Location) func(*agent) { return func(a *agent) { a.location = l } }
	here := func(change func(*receipt.Location)) func(*agent) {
		l := &receipt.Location{Latitude: 52.25, Longitude: 13.25, Accuracy: new(20.0), Age: new(int64(5)), Source: "gpsd"}
		if change != nil {
			change(l)
		}
		return at(l)
	}
	locate := func(name, about string, why reason.Reason, machine func(*agent), demand *keyfile.Location) {
		b.judged("location-"+name, about, why, sample(block.Metrics, "edge-a"), machine, func(_ *vector.Vector, k *keyfile.Entry) { k.Location = demand })
	}
	all := &keyfile.Location{
		Sources: []string{"gpsd", "static"}, MaxAge: "1m", MaxAccuracy: 50, Within: json.RawMessage(box),
	}
	locate("allowed", "Everything that policy asks of a location holds.", "", here(nil), all)
	locate("missing", "Policy asks for a location, and there is none.", reason.LocationMissing, nil, all)
	locate("not-required", "Policy judges a location only if there is one.", "", nil,
		&keyfile.Location{Required: new(false), Sources: []string{"gpsd"}})
	locate("not-required-and-wrong", "Policy does not require a location, and the one that is there is of a wrong source.", reason.LocationSourceNotAllowed,
		here(func(l *receipt.Location) { l.Source = "geoip" }), &keyfile.Location{Required: new(false), Sources: []string{"gpsd"}})
	locate("source", "The source is not allowed.", reason.LocationSourceNotAllowed, here(func(l *receipt.Location) { l.Source = "geoip" }), all)
	locate("age", "The fix is a second older than allowed.", reason.LocationStale, here(func(l *receipt.Location) { l.Age = new(int64(61)) }), all)
	locate("no-age", "Policy asks for an age, and the claim has neither age nor time.", reason.LocationStale, here(func(l *receipt.Location) { l.Age = nil }), all)
	stamped := func(t time.Time, age *int64) func(*agent) {
		return here(func(l *receipt.Location) { l.Timestamp, l.Age = new(t.Unix()), age })
	}
	signed := t0.Add(2 * time.Second) // iat, later than T
	locate("time", "The fix is as old as allowed, by its time and iat.", "", stamped(signed.Add(-time.Minute), nil), all)
	locate("time-too-old", "The fix is a second older than allowed, by its time and iat.", reason.LocationStale, stamped(signed.Add(-time.Minute-time.Second), nil), all)
	locate("time-against-t", "iat is set back to the time of the fix; the nonce shows that signing was later.", reason.LocationStale, func(a *agent) {
		stamped(t0.Add(-time.Hour), nil)(a)
		a.iat = t0.Add(-time.Hour)
	}, all)
	locate("time-after-signing", "The fix is 61 s after signing: a minute of difference of clocks is allowed.", reason.LocationStale, stamped(signed.Add(61*time.Second), nil), all)
	locate("accuracy", "The accuracy is coarser than allowed.", reason.LocationTooInaccurate, here(func(l *receipt.Location) { l.Accuracy = new(50.5) }), all)
	locate("no-accuracy", "Policy asks for an accuracy, and the claim has none.", reason.LocationTooInaccurate, here(func(l *receipt.Location) { l.Accuracy = nil }), all)
	place := func(name, about string, why reason.Reason, latitude, longitude float64) {
		locate(name, about, why, here(func(l *receipt.Location) { l.Latitude, l.Longitude = latitude, longitude }), all)
	}
	place("outside", "The position is north of the area.", reason.LocationOutside, 53.5, 13.5)
	place("in-hole", "The position is in a hole of the area.", reason.LocationOutside, 52.55, 13.55)
	place("swapped", "Latitude and longitude changed places.", reason.LocationOutside, 13.25, 52.25)
	locate("second-polygon", "The area has two polygons, the position is in the second one.", "", here(nil), &keyfile.Location{
		Within: json.RawMessage(fmt.Sprintf(`{"type":"MultiPolygon","coordinates":[[[[0,0],[1,0],[1,1],[0,0]]],%s]}`, "[[[13,52],[14,52],[14,53],[13,53],[13,52]]]")),
	})
}
