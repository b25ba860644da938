package ondemandreceiver

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"unicode"

	"github.com/go-json-experiment/json/jsontext"
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/telemark-otel/telemark/internal/strictjson"
)

// kind is what metrics are asked for.
type kind string

const (
	kindSystem      kind = "system"
	kindApplication kind = "application"
	kindUnknown     kind = "unknown"
)

// body is the request of POST /metrics/generate.
type body struct {
	MetricType string          `json:"metric_type"`
	CustomData json.RawMessage `json:"custom_data,omitempty"`
}

// request is one that was read.
type request struct {
	kind kind
	data *flat // of an application
}

// parse reads a request.
func parse(raw []byte, limits *ApplicationConfig) (*request, error) {
	var b body
	if err := strictjson.Unmarshal(raw, &b); err != nil {
		return nil, refuse(reasonInvalid, `the body is not of the form {"metric_type":"system"} or {"metric_type":"application","custom_data":{…}}: %s`, err)
	}
	switch k := kind(b.MetricType); k {
	case kindSystem:
		if b.CustomData != nil {
			return nil, refuse(reasonDataInvalid, "custom_data goes with metric_type application")
		}
		return &request{kind: k}, nil
	case kindApplication:
		if b.CustomData == nil {
			return nil, refuse(reasonDataMissing, "custom_data is missing: an object with at least one number")
		}
		data, err := flatten(b.CustomData, limits)
		if err != nil {
			return nil, err
		}
		return &request{kind: k, data: data}, nil
	default:
		return nil, refuse(reasonTypeUnknown, "metric_type %.32q: want system or application", b.MetricType)
	}
}

// flat is custom_data, nested names joined by dots, in the order in which they
// stand there.
type flat struct {
	numbers    []number
	attributes pcommon.Map // strings and booleans
}

type number struct {
	name    string
	integer bool
	i       int64
	f       float64
}

// flatten reads custom_data: numbers become gauges, strings and booleans
// attributes of all of them, and what lies in objects and lists is named after
// its place (a.b, a.0). null says nothing and is passed over. raw was read
// once already: it is JSON, and no member stands twice in one object.
func flatten(raw json.RawMessage, limits *ApplicationConfig) (*flat, error) {
	if bytes.TrimSpace(raw)[0] != '{' {
		return nil, refuse(reasonDataInvalid, "custom_data is not an object")
	}
	f := &flattener{
		limits: limits, tokens: jsontext.NewDecoder(bytes.NewReader(raw)), names: map[string]struct{}{},
		out: flat{attributes: pcommon.NewMap()},
	}
	if err := f.value("", 0); err != nil {
		return nil, err
	}
	if len(f.out.numbers) == 0 {
		return nil, refuse(reasonDataMissing, "custom_data holds no number, so that there is nothing to measure")
	}
	return &f.out, nil
}

// maxMade is how many bytes of names and attributes custom_data may become. A
// body's bounds do not suffice: every number carries all strings and booleans, so
// that half of each make a thousand times as much as was sent.
const maxMade = 4 << 20

// perAttribute is what an attribute takes in OTLP beside its name and its text:
// four tags, each with a length.
const perAttribute = 16

type flattener struct {
	limits *ApplicationConfig
	tokens *jsontext.Decoder
	names  map[string]struct{}
	out    flat

	// In bytes, without what f.out.numbers multiplies.
	numberNames int64 // of all numbers
	attributes  int64 // of one number
}

var errTokens = refuse(reasonDataInvalid, "custom_data cannot be read")

// value reads one value that lies at name.
func (f *flattener) value(name string, depth int) error {
	t, err := f.tokens.ReadToken()
	if err != nil {
		return errTokens
	}
	switch t.Kind() {
	case '{', '[':
		return f.nested(name, depth+1, t.Kind() == '[')
	case 'n':
		return nil
	case '0':
		return f.number(name, t)
	case '"':
		s := t.String()
		if len(s) > f.limits.MaxString {
			return refuse(reasonDataTooLarge, "the string at %.64q has %d bytes, at most %d are allowed (`application::max_string`)", name, len(s), f.limits.MaxString)
		}
		f.attributes += int64(perAttribute + len(name) + len(s))
		return f.add(name, func() { f.out.attributes.PutStr(name, s) })
	case 't', 'f':
		f.attributes += int64(perAttribute + len(name))
		return f.add(name, func() { f.out.attributes.PutBool(name, t.Bool()) })
	default:
		return errTokens
	}
}

func (f *flattener) nested(name string, depth int, list bool) error {
	if depth > f.limits.MaxDepth {
		return refuse(reasonDataTooDeep, "custom_data is nested deeper than %d (`application::max_depth`)", f.limits.MaxDepth)
	}
	for i := 0; ; i++ {
		switch f.tokens.PeekKind() {
		case '}', ']':
			_, err := f.tokens.ReadToken()
			return err
		case 0:
			return errTokens
		default:
		}
		key := strconv.Itoa(i)
		if !list {
			t, err := f.tokens.ReadToken()
			if err != nil {
				return errTokens
			}
			key = t.String()
		}
		if err := f.member(name, key, depth); err != nil {
			return err
		}
	}
}

func (f *flattener) member(name, key string, depth int) error {
	if key == "" || strings.ContainsFunc(key, unicode.IsControl) {
		return refuse(reasonDataInvalid, "the name %.64q in custom_data is empty or holds control characters", key)
	}
	if name != "" {
		key = name + "." + key
	}
	if len(key) > f.limits.MaxKey {
		return refuse(reasonDataTooLarge, "the name %.64q in custom_data has %d bytes, at most %d are allowed (`application::max_key`)", key, len(key), f.limits.MaxKey)
	}
	return f.value(key, depth)
}

// add counts a value and what is made of it, and sees to it that no two have one
// name: {"a.b":1, "a":{"b":2}} would.
func (f *flattener) add(name string, put func()) error {
	if _, twice := f.names[name]; twice {
		return refuse(reasonDataInvalid, "the name %.64q stands twice in custom_data", name)
	}
	if len(f.names) >= f.limits.MaxValues {
		return refuse(reasonDataTooLarge, "custom_data holds more than %d values (`application::max_values`)", f.limits.MaxValues)
	}
	f.names[name] = struct{}{}
	put()
	// Attributes wait for their numbers, and are held to the bound meanwhile.
	if f.numberNames+max(int64(len(f.out.numbers)), 1)*f.attributes > maxMade {
		return refuse(reasonDataTooLarge, "with %.64q custom_data makes more than %d bytes of metrics: each number carries all strings and booleans", name, maxMade)
	}
	return nil
}

// number keeps integers that fit as such; every other number is the nearest
// double.
func (f *flattener) number(name string, t jsontext.Token) error {
	n := number{name: name}
	var err error
	if n.i, err = strconv.ParseInt(t.String(), 10, 64); err == nil {
		n.integer = true
	} else if n.f, err = strconv.ParseFloat(t.String(), 64); err != nil {
		return refuse(reasonDataInvalid, "the number at %.64q is too large", name)
	}
	f.numberNames += int64(len(name))
	return f.add(name, func() { f.out.numbers = append(f.out.numbers, n) })
}

// named is a metric of which only the name is known.
type named string

func (n named) Name() string      { return string(n) }
func (named) Unit() string        { return "" }
func (named) Description() string { return "" }

// gauges writes one gauge for each number.
func (f *flat) gauges(b *builder) {
	for _, n := range f.numbers {
		p := b.gauge(named(n.name))
		if n.integer {
			p.SetIntValue(n.i)
		} else {
			p.SetDoubleValue(n.f)
		}
		f.attributes.CopyTo(p.Attributes())
	}
}
