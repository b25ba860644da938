// Package nesting bounds how deep the values of OTLP requests nest, by their
// bytes: attribute values and log bodies, which hold arrays and maps of
// themselves. Decoders call themselves for each level, without a bound, and a
// stack that is used up ends the process; this one counts.
//
// It reads the protobuf and JSON encodings of the four export requests of OTLP
// (opentelemetry-proto) in the order in which pdata v1.65.0 decodes them, and judges
// nothing but depth: what pdata refuses before it comes to a level, or whatever
// follows, is left to it. JSON is different where it is not as it has to be,
// since pdata's decoder goes on after an error and may open levels without a
// bracket; see [JSON]. Values are not checked.
package nesting

// Signal says which request bytes are.
type Signal uint8

// The signals. Any is for bytes of which it is not known.
const (
	Any Signal = iota
	Logs
	Traces
	Metrics
	Profiles
)

// MaxLevels is the largest bound that can be asked for. A level costs pdata
// some hundred bytes of stack, so that these take it less than 10 MB.
const MaxLevels = 16_384

// fewLevels need no memory.
const fewLevels = 128

// Verdict is what is said of JSON.
type Verdict uint8

// The verdicts.
const (
	Fits      Verdict = iota
	TooDeep           // a value nests deeper than asked
	Malformed         // no JSON, or a field does not hold what pdata reads there
)
