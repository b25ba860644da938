package nesting

import "math"

// What stands around a value, at most, and what a level of it takes, in
// brackets:
//
//	{ "resourceMetrics" [ { "scopeMetrics" [ { "metrics" [ { "sum" { "dataPoints" [ {
//	  "exemplars" [ { "filteredAttributes" [ {
//	"value" { "kvlistValue" { "values" [ {
const (
	jsonAround = 14
	jsonLevel  = 4
)

// frame is a bracket that is open: an object, or an array of what holds says.
type frame struct {
	message message
	holds   valueType
	array   bool
}

// JSON judges a request in JSON encoding: whether a value nests deeper than
// levels, as [Proto] counts them, or fields that nobody knows do.
//
// Up to the first error, pdata's decoder opens a level with brackets alone. After
// it, it goes on: a comma in the place of a bracket opens a level too, and what
// had been inside of a string may be outside. So all is refused that would be
// an error there, with the exception of strings that hold no number, no name of an
// enumeration and no base64, which are read to their end. What follows the end of
// the request is not looked at, and neither is what does not begin with a brace.
func JSON(b []byte, levels int) Verdict {
	var few [jsonAround + jsonLevel*fewLevels]frame
	said, room := scanJSON(b, levels, few[:])
	if !room {
		said, _ = scanJSON(b, levels, make([]frame, jsonAround+jsonLevel*levels))
	}
	return said
}

// scanJSON notes in stack the brackets that are open. Without room for them it
// cannot say what b is.
func scanJSON(b []byte, levels int, stack []frame) (said Verdict, room bool) {
	t := tokens{b: b}
	switch t.next() {
	case '{':
	case ',':
		return Malformed, true
	default:
		return Fits, true
	}
	var (
		open  = 1 // of stack; the first is the request
		depth = 0 // how many of them are values
		first = true
		most  = jsonAround + jsonLevel*levels
	)
	stack[0] = frame{message: mNone, holds: object}
	for {
		around := stack[open-1]
		c := t.next()
		if c == '}' && !around.array || c == ']' && around.array {
			if around.holds == object && around.message == mAnyValue && !around.array {
				depth--
			}
			if open--; open == 0 {
				return Fits, true
			}
			first = false
			continue
		}
		if !first {
			if c != ',' {
				return Malformed, true
			}
			c = t.next()
		}
		first = false
		inner := around
		inner.array = false
		if !around.array {
			var ok bool
			if inner, ok = t.key(c, around); !ok {
				return Malformed, true
			}
			c = t.next()
		}
		if !inner.opens(c) {
			if !t.value(c, inner) {
				return Malformed, true
			}
			continue
		}
		if open == most {
			return TooDeep, true
		}
		if c == '{' && inner.holds == object && inner.message == mAnyValue {
			if depth++; depth > levels {
				return TooDeep, true
			}
		}
		if inner.holds == anything {
			inner.array = c == '['
		}
		if open >= len(stack) {
			return Fits, false
		}
		stack[open] = inner
		open++
		first = true
	}
}

// opens says whether a value that begins with c is one of brackets, as f takes it.
func (f frame) opens(c byte) bool {
	switch {
	case f.array:
		return c == '['
	case f.holds == object:
		return c == '{'
	case f.holds == anything:
		return c == '{' || c == '['
	default:
		return false
	}
}

// tokens reads JSON. It allows what pdata's decoder allows, or less.
type tokens struct {
	b   []byte
	pos int
}

// next returns what comes after white space; 0 is the end.
func (t *tokens) next() byte {
	for t.pos < len(t.b) {
		c := t.b[t.pos]
		t.pos++
		if c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			return c
		}
	}
	return 0
}

// key reads the name of a field that begins with c, and the colon, and returns
// what the field takes. An empty one ends the object for pdata, and one with
// escapes may be any: no sender has them.
func (t *tokens) key(c byte, around frame) (frame, bool) {
	if c != '"' {
		return frame{}, false
	}
	start := t.pos
	plain, ok := t.text()
	if !ok {
		return frame{}, false
	}
	name := t.b[start : t.pos-1]
	if t.next() != ':' {
		return frame{}, false
	}
	if around.holds == anything {
		return frame{}, true
	}
	if !plain || len(name) == 0 {
		return frame{}, false
	}
	for i := range schema[around.message] {
		if f := &schema[around.message][i]; string(name) == f.camel || string(name) == f.snake {
			return frame{message: f.message, holds: f.holds, array: f.list}, true
		}
	}
	return frame{}, true
}

// value reads one without brackets that begins with c.
func (t *tokens) value(c byte, f frame) bool {
	holds := f.holds
	if f.array {
		holds = object // or null
	}
	switch c {
	case '"':
		plain, ok := t.text()
		return ok && holds != object && holds != boolean && (plain || holds != raw)
	case 'n':
		return t.literal("null") && (holds == object || holds == text || holds == anything)
	case 't':
		return t.literal("true") && (holds == boolean || holds == anything)
	case 'f':
		return t.literal("false") && (holds == boolean || holds == anything)
	}
	switch holds {
	case anything, float:
		_, _, ok := t.number(c)
		return ok
	case int32s:
		return t.integer(c, math.MaxInt32+1, math.MaxInt32)
	case int64s:
		return t.integer(c, math.MaxInt64+1, math.MaxInt64)
	case uint32s:
		return t.integer(c, 0, math.MaxUint32)
	case uint64s:
		return t.integer(c, 0, math.MaxUint64)
	default:
		return false
	}
}

// literal reads one of which the first letter was read.
func (t *tokens) literal(want string) bool {
	want = want[1:]
	if len(t.b)-t.pos < len(want) || string(t.b[t.pos:t.pos+len(want)]) != want {
		return false
	}
	t.pos += len(want)
	return true
}

// text reads a string behind its quotation mark, and says whether it is plain:
// without escapes.
func (t *tokens) text() (plain, ok bool) {
	plain = true
	for i, c := range t.b[t.pos:] { // most have nothing to look at
		if c == '"' {
			t.pos += i + 1
			return true, true
		}
		if c == '\\' || c < ' ' {
			t.pos += i
			break
		}
	}
	for t.pos < len(t.b) {
		c := t.b[t.pos]
		t.pos++
		switch {
		case c == '"':
			return plain, true
		case c == '\\':
			plain = false
			if !t.escape() {
				return false, false
			}
		case c < ' ' && plain: // pdata looks no further than the first escape
			return false, false
		}
	}
	return false, false
}

func (t *tokens) escape() bool {
	if t.pos == len(t.b) {
		return false
	}
	c := t.b[t.pos]
	t.pos++
	switch c {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return true
	case 'u':
		for range 4 {
			if t.pos == len(t.b) || !hex(t.b[t.pos]) {
				return false
			}
			t.pos++
		}
		return true
	default:
		return false
	}
}

func hex(c byte) bool { return digit(c) || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F' }

func digit(c byte) bool { return '0' <= c && c <= '9' }

// number reads one that begins with c, and returns where it stands and whether
// it is whole.
func (t *tokens) number(c byte) (start int, whole, ok bool) {
	start = t.pos - 1
	if c == '-' {
		if t.pos == len(t.b) {
			return 0, false, false
		}
		c = t.b[t.pos]
		t.pos++
	}
	switch {
	case !digit(c):
		return 0, false, false
	case c != '0':
		t.digits()
	}
	whole = true
	if t.pos < len(t.b) && t.b[t.pos] == '.' {
		t.pos++
		whole = false
		if !t.digits() {
			return 0, false, false
		}
	}
	if t.pos < len(t.b) && (t.b[t.pos] == 'e' || t.b[t.pos] == 'E') {
		t.pos++
		whole = false
		if t.pos < len(t.b) && (t.b[t.pos] == '+' || t.b[t.pos] == '-') {
			t.pos++
		}
		if !t.digits() {
			return 0, false, false
		}
	}
	return start, whole, true
}

// digits passes over them, and says whether there was one.
func (t *tokens) digits() bool {
	start := t.pos
	for t.pos < len(t.b) && digit(t.b[t.pos]) {
		t.pos++
	}
	return t.pos > start
}

// integer reads a number between -below and upTo. A minus sign is an error where
// none can be.
func (t *tokens) integer(c byte, below, upTo uint64) bool {
	start, whole, ok := t.number(c)
	if !ok || !whole {
		return false
	}
	digits := t.b[start:t.pos]
	if digits[0] == '-' {
		if below == 0 {
			return false
		}
		digits, upTo = digits[1:], below
	}
	var v uint64
	for _, d := range digits {
		n := uint64(d - '0')
		if v > (upTo-n)/10 {
			return false
		}
		v = v*10 + n
	}
	return true
}
