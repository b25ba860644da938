package receipt

import (
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/require"
)

// raw is CBOR as it is to stand in a forged receipt.
type raw = cbor.RawMessage

// entry is one pair of a forged map; a nil value leaves it out.
type entry struct{ key, value any }

// rawMap is a map in the order given, deterministic or not.
func rawMap(t testing.TB, entries ...entry) raw {
	t.Helper()
	var body []byte
	n := uint64(0)
	for _, e := range entries {
		if e.value == nil {
			continue
		}
		n++
		body = append(append(body, rawOf(t, e.key)...), rawOf(t, e.value)...)
	}
	return append(appendHead(nil, majorMap, n), body...)
}

func rawArray(t testing.TB, elements ...any) raw {
	t.Helper()
	out := appendHead(nil, majorArray, uint64(len(elements)))
	for _, e := range elements {
		out = append(out, rawOf(t, e)...)
	}
	return out
}

func rawOf(t testing.TB, v any) raw {
	t.Helper()
	if r, ok := v.(raw); ok {
		return r // broken or not
	}
	b, err := encMode.Marshal(v)
	require.NoError(t, err)
	return b
}

// forgery is a receipt in parts, each of which a test may replace. It starts
// out as exampleReceipt.
type forgery struct {
	// protected header; keys in deterministic order
	alg, kid, claims, vds, moreProtected any
	// claims
	aud, iat, nonce, ueid, location, profile, seq, src, prev, size, epoch, moreClaims any
	// location
	lat, lon, alt, accuracy, timestamp, age, moreLocation any
	// unprotected header
	proofs, d, i, k, n, s, moreUnprotected any
	// inclusion proof
	inclusion, consistency, proof, treeSize, leafIndex, path any
	// frame
	protected, unprotected, payload, signature any
}

func newForgery(t testing.TB) *forgery {
	t.Helper()
	r := exampleReceipt(t)
	s := r.Statement
	path := make([]any, len(r.Path))
	for i := range r.Path {
		path[i] = r.Path[i][:]
	}
	return &forgery{
		alg: int64(s.Algorithm), kid: s.KID, vds: 1,
		aud: s.Audience, iat: s.IssuedAt, nonce: s.Nonce, ueid: s.UEID, profile: Profile,
		seq: s.Seq, src: s.Location.Source, prev: s.Prev[:], size: s.Size, epoch: s.Epoch,
		lat: s.Location.Latitude, lon: s.Location.Longitude, accuracy: *s.Location.Accuracy,
		d: r.Digest[:], i: r.Items, k: r.Keys, n: r.BlockNo, s: r.Stream,
		treeSize: r.TreeSize, leafIndex: r.LeafIndex, path: rawArray(t, path...),
		payload: raw{null}, signature: r.Signature,
	}
}

// without stands for a part that is left out although it has a default shape.
type without struct{}

// build puts the parts together; parts that a test has set are taken as they are.
func (f *forgery) build(t testing.TB) []byte {
	t.Helper()
	or := func(v any, shape func() raw) any {
		switch v.(type) {
		case nil:
			return shape()
		case without:
			return nil
		}
		return v
	}
	f.location = or(f.location, func() raw {
		return rawMap(t, entry{1, f.lat}, entry{2, f.lon}, entry{3, f.alt}, entry{4, f.accuracy},
			entry{7, f.moreLocation}, entry{8, f.timestamp}, entry{9, f.age})
	})
	f.claims = or(f.claims, func() raw {
		return rawMap(t, entry{3, f.aud}, entry{6, f.iat}, entry{10, f.nonce}, entry{256, f.ueid},
			entry{264, f.location}, entry{265, f.profile}, entry{266, f.moreClaims},
			entry{"seq", f.seq}, entry{"src", f.src}, entry{"prev", f.prev}, entry{"size", f.size}, entry{"epoch", f.epoch})
	})
	f.protected = or(f.protected, func() raw {
		return rawMap(t, entry{1, f.alg}, entry{2, f.moreProtected}, entry{4, f.kid}, entry{15, f.claims}, entry{395, f.vds})
	})
	f.proof = or(f.proof, func() raw { return rawArray(t, f.treeSize, f.leafIndex, f.path) })
	f.inclusion = or(f.inclusion, func() raw { return rawArray(t, []byte(rawOf(t, f.proof))) })
	f.proofs = or(f.proofs, func() raw { return rawMap(t, entry{-1, f.inclusion}, entry{-2, f.consistency}) })
	f.unprotected = or(f.unprotected, func() raw {
		return rawMap(t, entry{396, f.proofs}, entry{"d", f.d}, entry{"i", f.i}, entry{"k", f.k}, entry{"n", f.n},
			entry{"s", f.s}, entry{"t", f.moreUnprotected})
	})
	return append(raw{0xd2}, rawArray(t, []byte(rawOf(t, f.protected)), f.unprotected, f.payload, f.signature)...)
}
