package nesting

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// harmless are the errors that pdata's decoder of JSON goes on from where it
// should: a string that does not hold what it has to, a number without end.
var harmless = regexp.MustCompile(`strconv\.|value out of range|unknown string value|base64\.Decode|ID\.UnmarshalJSONIter|ReadBigFloat`)

var signals = []Signal{Logs, Traces, Metrics, Profiles}

func FuzzProto(f *testing.F) {
	for i, signal := range signals {
		for _, path := range paths(roots[signal]) {
			f.Add(wrap(path, nested(4, inMap)), uint8(i), uint8(4))
			f.Add(wrap(path, nested(4, inArray)), uint8(i), uint8(3))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, signal, levels uint8) {
		of, most := signals[int(signal)%len(signals)], int(levels)%32+1
		fits := Proto(b, of, most)
		if len(b) > 1<<16 {
			return
		}
		r, err := decode(of, b, false)
		filled, all := depthOf(r)
		if fits {
			require.LessOrEqual(t, filled, most)
		}
		if err != nil {
			return
		}
		again, err := r.MarshalProto() // without what pdata does not know
		require.NoError(t, err)
		fits = Proto(again, of, most)
		require.False(t, fits && filled > most || !fits && all <= most, "pdata finds %d levels of %d, or %d", filled, most, all)
	})
}

func FuzzJSON(f *testing.F) {
	for i, signal := range signals {
		for _, path := range paths(roots[signal]) {
			f.Add([]byte(wrapJSON(path, nestedJSON(4, inMap, false), false)), uint8(i), uint8(4))
			f.Add([]byte(wrapJSON(path, nestedJSON(4, inArray, true), true)), uint8(i), uint8(3))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, signal, levels uint8) {
		of, most := signals[int(signal)%len(signals)], int(levels)%32+1
		verdict := JSON(b, most)
		if len(b) > 1<<16 {
			return
		}
		r, err := decode(of, b, true) // what was decoded before an error too
		filled, all := depthOf(r)
		if verdict == Fits {
			require.LessOrEqual(t, filled, most)
			if err != nil && bytes.HasPrefix(bytes.TrimLeft(b, " \n\t\r"), []byte("{")) {
				require.Regexp(t, harmless, err.Error(), "pdata is out of step from here on")
			}
		}
		if err != nil {
			return
		}
		again, err := r.MarshalJSON() // without what pdata does not know
		require.NoError(t, err)
		verdict = JSON(again, most)
		require.NotEqual(t, Malformed, verdict, "%s", again)
		require.False(t, verdict == Fits && filled > most || verdict == TooDeep && all <= most, "pdata finds %d levels of %d, or %d, in %s", filled, most, all, again)
	})
}

// What fuzzing has found stays in the corpus, and what an attacker would send
// stands in it from the beginning.
func TestCorporaAreNotEmpty(t *testing.T) {
	for _, target := range []string{"FuzzProto", "FuzzJSON"} {
		entries, err := os.ReadDir(filepath.Join("testdata", "fuzz", target))
		require.NoError(t, err)
		require.NotEmpty(t, entries, target)
	}
}
