package nesting

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
)

// Every way to a value, as deep as allowed and one level deeper, where pdata
// finds the same depth.
func TestEveryWayToAValueIsFollowed(t *testing.T) {
	for signal, root := range roots {
		ways := paths(root)
		require.NotEmpty(t, ways)
		for _, path := range ways {
			t.Run(name(path), func(t *testing.T) {
				for _, in := range [][]field{inArray, inMap} {
					for _, levels := range []int{1, 2, fewLevels, 3 * fewLevels} {
						fits, deep := wrap(path, nested(levels, in)), wrap(path, nested(levels+1, in))
						r, err := decode(signal, deep, false)
						require.NoError(t, err)
						_, depth := depthOf(r)
						require.Equal(t, levels+1, depth)
						for _, of := range []Signal{signal, Any} {
							require.True(t, Proto(fits, of, levels), "%d levels", levels)
							require.False(t, Proto(deep, of, levels), "%d levels", levels+1)
						}
						for _, snake := range []bool{false, true} {
							fits, deep := []byte(wrapJSON(path, nestedJSON(levels, in, snake), snake)), []byte(wrapJSON(path, nestedJSON(levels+1, in, snake), snake))
							r, err := decode(signal, deep, true)
							require.NoError(t, err)
							_, depth := depthOf(r)
							require.Equal(t, levels+1, depth)
							require.Equal(t, Fits, JSON(fits, levels), "%s", fits)
							require.Equal(t, TooDeep, JSON(deep, levels), "%s", deep)
						}
					}
				}
			})
		}
	}
}

// What an attacker sends: it is refused as fast as it is read, whatever follows.
func TestMillionsOfLevels(t *testing.T) {
	deep := wrap(paths(mLogsRequest)[0], nestedFast(2_000_000))
	require.False(t, Proto(deep, Logs, 128))
	require.False(t, Proto(deep, Any, MaxLevels))

	path := paths(mLogsRequest)[0]
	require.True(t, Proto(wrap(path, nestedFast(MaxLevels-2)), Logs, MaxLevels))
	require.False(t, Proto(wrap(path, nestedFast(MaxLevels+2)), Logs, MaxLevels))
}

// nestedFast builds from the inside out without copying each level.
func nestedFast(levels int) []byte {
	var back []byte // reversed
	size := 0
	for range levels {
		for _, tag := range []byte{0x0a, 0x2a} {
			head := protowire.AppendVarint([]byte{tag}, uint64(size))
			size += len(head)
			slices.Reverse(head)
			back = append(back, head...)
		}
	}
	slices.Reverse(back)
	return back
}

// pdata decodes a value before it finds what is wrong behind it, so nesting in
// front of an error counts, and nesting behind one does not.
func TestErrorsAreFoundWherePdataFindsThem(t *testing.T) {
	body := []field{{number: 1}, {number: 2}, {number: 2}, {number: 5}}
	deep, shallow := nested(10, inArray), nested(3, inArray)
	behind := func(b []byte, more ...byte) []byte { return append(bytes.Clone(b), more...) }
	record := func(b []byte) []byte { return wrap(body[:3], b) }
	field5 := func(b []byte) []byte { return wrap(body[3:], b) }
	group := func(inside []byte, end ...byte) []byte { return append(append([]byte{13<<3 | 3}, inside...), end...) }
	for name, tc := range map[string]struct {
		b    []byte
		fits bool
	}{
		"nothing":                        {nil, true},
		"garbage":                        {[]byte{0xff, 0xff, 0xff}, true},
		"cut off in the tag":             {[]byte{0x80}, true},
		"length beyond the end":          {[]byte{0x0a, 0x05, 0x0a}, true},
		"negative length":                {[]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, true},
		"varint of 11 bytes":             {bytes.Repeat([]byte{0x80}, 11), true},
		"field 0":                        {append([]byte{0x02, 0x00}, record(field5(deep))...), true},
		"deep before a bad tag":          {record(behind(field5(deep), 0x07)), false},
		"deep before a wrong wire type":  {record(behind(field5(deep), 5<<3, 1)), false},
		"deep before a stray group end":  {record(behind(field5(deep), 13<<3|4)), false},
		"deep before garbage":            {behind(record(field5(deep)), 0xff, 0xff), false},
		"deep behind a wrong wire type":  {record(append([]byte{5 << 3, 1}, field5(deep)...)), true},
		"deep behind a stray group end":  {record(append([]byte{13<<3 | 4}, field5(deep)...)), true},
		"deep behind wire type 6":        {record(append([]byte{13<<3 | 6}, field5(deep)...)), true},
		"cut off in the deepest":         {record(field5(deep)[:len(field5(deep))-1]), true},
		"deep behind an unknown field":   {record(append([]byte{15<<3 | 2, 3, 1, 2, 3}, field5(deep)...)), false},
		"deep in an unknown field":       {wrap([]field{body[0], body[1], body[2], {number: 15}}, deep), true},
		"deep in a string":               {wrap([]field{body[0], body[1], body[2], {number: 3}}, deep), true},
		"deep in a group, as its first":  {record(group(field5(deep), 13<<3|4)), true},
		"deep in a group, as its second": {record(group(append([]byte{13 << 3, 1}, field5(deep)...))), false},
		"deep in a group of groups":      {record(group(append([]byte{13<<3 | 3, 13 << 3, 1}, field5(deep)...))), false},
		"deep behind an empty group":     {record(append(group(nil, 13<<3|4), field5(deep)...)), false},
		"a number that wraps around":     {record(protowire.AppendBytes(protowire.AppendVarint(nil, (1<<32|5)<<3|2), deep)), false},
		"a tag longer than it need be":   {record(protowire.AppendBytes([]byte{5<<3 | 2 | 0x80, 0x80, 0x00}, deep)), false},
		"a value twice, deep and not":    {record(append(field5(deep), field5(shallow)...)), false},
		"scopes of earlier versions":     {wrap([]field{{number: 1}, {number: 1000}, {number: 2}, {number: 5}}, deep), false},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tc.fits, Proto(tc.b, Logs, 9))
			r, err := decode(Logs, tc.b, false)
			if err == nil && name != "a value twice, deep and not" { // of which pdata keeps the second
				_, depth := depthOf(r)
				require.Equal(t, tc.fits, depth <= 9, "pdata finds %d levels", depth)
			}
		})
	}
}

func TestTruncatedBytesAreNeverTooDeep(t *testing.T) {
	b := wrap(paths(mMetricsRequest)[0], nested(20, inMap))
	for i := range b {
		require.True(t, Proto(b[:i], Metrics, 20), i)
	}
}

func TestScanningAllocatesNothing(t *testing.T) {
	b := wrap(paths(mLogsRequest)[0], nested(100, inMap))
	j := []byte(wrapJSON(paths(mLogsRequest)[0], nestedJSON(100, inMap, false), false))
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if !Proto(b, Any, 128) || JSON(j, 128) != Fits {
			panic("too deep")
		}
	}))
}

func ExampleProto() {
	body := wrap([]field{{number: 1}, {number: 2}, {number: 2}, {number: 5}}, nested(3, inArray))
	fmt.Println(Proto(body, Logs, 3), Proto(body, Logs, 2))
	// Output: true false
}
