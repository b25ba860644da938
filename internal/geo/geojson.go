package geo

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Bounds of a GeoJSON text.
const (
	MaxGeoJSON  = 16 << 20 // bytes
	maxFeatures = 10_000
	maxLabel    = 128 // bytes
	maxDepth    = 64  // of what is not looked at
)

// Errors of [Parse].
var (
	ErrType = errors.New("an area is a GeoJSON Polygon or MultiPolygon, or a Feature or FeatureCollection of them")
	ErrSize = fmt.Errorf("a GeoJSON text has at most %d bytes and %d features", MaxGeoJSON, maxFeatures)
	ErrCRS  = errors.New("the coordinates are of another reference system than WGS 84 (OGC:CRS84), convert them")
)

// Parse reads an area (RFC 7946 §3.1.6, §3.1.7, §3.2, §3.3):
//
//	{"type": "Polygon",      "coordinates": [ring, hole, …]}
//	{"type": "MultiPolygon", "coordinates": [[ring, hole, …], …]}
//	{"type": "Feature", "geometry": one of the two, "properties": {"name": …}, "id": …}
//	{"type": "FeatureCollection", "features": [Feature, …]}
//	ring = [[longitude, latitude], …], closed
//
// A third number of a position is its altitude and is not looked at; neither
// are members that are not named here, but for bbox and crs. Features without
// an area are refused: whoever draws a fence means all of it.
func Parse(text []byte) (*Area, error) {
	if len(text) > MaxGeoJSON {
		return nil, ErrSize
	}
	if err := wellFormed(text); err != nil {
		return nil, err
	}
	p := &parser{}
	if err := p.object(text, true); err != nil {
		return nil, err
	}
	return build(p.out)
}

// wellFormed refuses what two readers could take for two things: members that
// stand twice, something behind the end, text that is not UTF-8.
func wellFormed(text []byte) error {
	d := jsontext.NewDecoder(bytes.NewReader(text))
	for {
		if _, err := d.ReadToken(); err != nil {
			return unreadable(err)
		}
		if d.StackDepth() > maxDepth {
			return fmt.Errorf("read GeoJSON at byte %d: nested deeper than %d", d.InputOffset(), maxDepth)
		}
		if d.StackDepth() == 0 {
			break
		}
	}
	if len(bytes.TrimSpace(text[d.InputOffset():])) > 0 {
		return errors.New("read GeoJSON: the text goes on behind its end")
	}
	return nil
}

// unreadable bounds what somebody sent.
func unreadable(err error) error { return fmt.Errorf("read GeoJSON: %.300s", err.Error()) }

// object is any GeoJSON object.
type object struct {
	Type        string         `json:"type"`
	Coordinates jsontext.Value `json:"coordinates"`
	Geometry    jsontext.Value `json:"geometry"`
	Features    jsontext.Value `json:"features"`
	Properties  jsontext.Value `json:"properties"`
	ID          jsontext.Value `json:"id"`
	BBox        []float64      `json:"bbox"`
	CRS         jsontext.Value `json:"crs"`
}

// parser gathers drawings. Its fields are the context of the object that is
// read.
type parser struct {
	out       []drawing
	positions int
	features  int
	label     string
	inFeature bool
	crosses   bool
}

// object reads one object; collected says that Features may follow.
func (p *parser) object(text []byte, collected bool) error {
	var o object
	if err := json.Unmarshal(text, &o); err != nil { // names match exactly, case included
		return unreadable(err)
	}
	if len(o.CRS) > 0 && !bytes.Contains(o.CRS, []byte("CRS84")) {
		return ErrCRS
	}
	if crossing(o.BBox) {
		defer func(was bool) { p.crosses = was }(p.crosses)
		p.crosses = true
	}
	switch {
	case o.Type == "Polygon":
		return p.coordinates(o.Coordinates, false)
	case o.Type == "MultiPolygon":
		return p.coordinates(o.Coordinates, true)
	case o.Type == "Feature" && !p.inFeature:
		return p.feature(&o)
	case o.Type == "FeatureCollection" && collected:
		return p.collection(o.Features)
	default:
		return fmt.Errorf("%w, not %.64q", ErrType, o.Type)
	}
}

func (p *parser) feature(o *object) error {
	if len(o.Geometry) == 0 {
		return fmt.Errorf("%w: a Feature has no geometry", ErrType)
	}
	p.label, p.inFeature = labelOf(o), true
	defer func() { p.label, p.inFeature = "", false }()
	return p.object(o.Geometry, false)
}

// labelOf is for people; what is no short text is left out.
func labelOf(o *object) string {
	var named struct {
		Name any `json:"name"`
	}
	if json.Unmarshal(o.Properties, &named) == nil {
		if s, ok := named.Name.(string); ok && s != "" {
			return clip(s)
		}
	}
	var id any
	if json.Unmarshal(o.ID, &id) == nil {
		switch id := id.(type) {
		case string:
			if id != "" {
				return clip(id)
			}
		case float64:
			return strconv.FormatFloat(id, 'g', -1, 64)
		}
	}
	return ""
}

func clip(s string) string {
	if len(s) <= maxLabel {
		return s
	}
	return strings.ToValidUTF8(s[:maxLabel], "") + "…"
}

func (p *parser) collection(features []byte) error {
	d := jsontext.NewDecoder(bytes.NewReader(features))
	if d.PeekKind() != '[' {
		return fmt.Errorf("%w: a FeatureCollection has no features", ErrEmpty)
	}
	if _, err := d.ReadToken(); err != nil {
		return unreadable(err)
	}
	for d.PeekKind() != ']' {
		if p.features++; p.features > maxFeatures {
			return ErrSize
		}
		one, err := d.ReadValue()
		if err != nil {
			return unreadable(err)
		}
		if err := p.object(one, false); err != nil {
			return fmt.Errorf("feature %d: %w", p.features, err)
		}
	}
	return nil
}

// crossing is RFC 7946 §5.2: a box that crosses the antimeridian has its west
// east of its east.
func crossing(bbox []float64) bool {
	switch len(bbox) {
	case 4:
		return bbox[0] > bbox[2]
	case 6:
		return bbox[0] > bbox[3]
	default:
		return false
	}
}

// coordinates reads the arrays number by number, so that nothing is allocated
// for what is then refused.
func (p *parser) coordinates(text []byte, multi bool) error {
	d := jsontext.NewDecoder(bytes.NewReader(text))
	if !multi {
		return p.polygon(d)
	}
	return each(d, func() error { return p.polygon(d) })
}

func (p *parser) polygon(d *jsontext.Decoder) error {
	one := drawing{crosses: p.crosses, label: p.label}
	err := each(d, func() error {
		var ring []Position
		err := each(d, func() error {
			if p.positions++; p.positions > MaxPositions {
				return ErrTooLarge
			}
			at, err := position(d)
			ring = append(ring, at)
			return err
		})
		one.rings = append(one.rings, ring)
		if err == nil && len(ring) < 4 { // else rings of nothing could be many
			err = fmt.Errorf("%w: it has %d", ErrRing, len(ring))
		}
		return err
	})
	if err == nil && len(one.rings) == 0 {
		err = ErrEmpty
	}
	p.out = append(p.out, one)
	return err
}

// position reads [longitude, latitude] or [longitude, latitude, altitude].
func position(d *jsontext.Decoder) (Position, error) {
	var numbers [3]float64
	n := 0
	err := each(d, func() error {
		t, err := d.ReadToken()
		if err != nil {
			return unreadable(err)
		}
		if t.Kind() != '0' || n == len(numbers) {
			return ErrPosition
		}
		if numbers[n], err = t.Float(); err != nil {
			return unreadable(err)
		}
		n++
		return nil
	})
	if err == nil && n < 2 {
		err = ErrPosition
	}
	return Position{Longitude: numbers[0], Latitude: numbers[1]}, err
}

// each reads an array and calls element for each of its elements.
func each(d *jsontext.Decoder, element func() error) error {
	if d.PeekKind() != '[' {
		return fmt.Errorf("read GeoJSON coordinates at byte %d: an array should stand there", d.InputOffset())
	}
	if _, err := d.ReadToken(); err != nil {
		return unreadable(err)
	}
	for d.PeekKind() != ']' {
		if err := element(); err != nil {
			return err
		}
	}
	if _, err := d.ReadToken(); err != nil {
		return unreadable(err)
	}
	return nil
}
