package digest

import "github.com/telemark-otel/telemark/internal/block"

// HeartbeatScope is the instrumentation scope of heartbeats and farewells. A
// scope of this name in users' data is dropped by [Block.Prepare], so that only
// the signer itself speaks in it.
const HeartbeatScope = "github.com/telemark-otel/telemark/heartbeat"

// reserved reports whether key belongs to the signer and the verifier:
//
//	(?i)^telemark([^a-z0-9]|$)
//
// in the sense of RE2, where case folding also takes U+212A (KELVIN SIGN) for
// k and U+017F (LONG S) for s. The bare word counts, since exporters that
// flatten maps make telemark.verdict out of {"telemark": {"verdict": …}}.
// It sees the same in a key before and after its UTF-8 was repaired.
func reserved(key string) bool {
	return len(key) >= 8 && key[0]|0x20 == 't' && reservedTail(key)
}

func reservedTail(key string) bool {
	const head = "telemar"
	for i := range len(head) {
		if key[i]|0x20 != head[i] {
			return false
		}
	}
	rest := key[len(head):]
	switch {
	case rest[0]|0x20 == 'k':
		rest = rest[1:]
	case kelvin(rest):
		rest = rest[3:]
	default:
		return false
	}
	if rest == "" {
		return true
	}
	c := rest[0]
	letter := c|0x20 >= 'a' && c|0x20 <= 'z'
	digit := c >= '0' && c <= '9'
	longS := len(rest) >= 2 && c == 0xc5 && rest[1] == 0xbf
	return !letter && !digit && !longS && !kelvin(rest)
}

func kelvin(s string) bool {
	return len(s) >= 3 && s[0] == 0xe2 && s[1] == 0x84 && s[2] == 0xaa
}

// proofKey reports whether key is one of the two attributes that a signer adds.
func proofKey(key string) bool {
	return key == block.AttrReceipt || key == block.AttrManifest
}
