package strictjson_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/strictjson"
)

type order struct {
	Image string            `json:"image"`
	Port  int               `json:"port"`
	Blob  []byte            `json:"blob,omitempty"`
	More  map[string]string `json:"more,omitempty"`
}

func TestRead(t *testing.T) {
	var o order
	require.NoError(t, strictjson.Unmarshal([]byte(" {\"image\":\"a\",\"port\":8080,\"blob\":\"AQI=\",\"more\":{\"K\":\"v\",\"k\":\"w\"}}\n"), &o))
	require.Equal(t, order{Image: "a", Port: 8080, Blob: []byte{1, 2}, More: map[string]string{"K": "v", "k": "w"}}, o)
}

func TestErrorsAreForWhoWroteTheJSON(t *testing.T) {
	for content, want := range map[string]string{
		`{"imag":"a"}`:                  `there is no member "imag" here`,
		`{"port":"8080"}`:               `"/port": want a whole number, not a string`,
		`{"image":7}`:                   `"/image": want a string, not this number`,
		`{"blob":[1]}`:                  `"/blob": want a string in base64, not an array`,
		`{"more":{"k":true}}`:           `"/more/k": want a string, not true`,
		`{"port":99999999999999999999}`: `"/port": `,
		`{"blob":"?"}`:                  `"/blob": `,
		`[]`:                            "the whole value: want an object, not an array",
		`"a"`:                           "the whole value: want an object, not a string",
		`{"` + strings.Repeat("k", 9999) + `":1}`: "there is no member",
	} {
		var o order
		err := strictjson.Unmarshal([]byte(content), &o)
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "strictjson_test")
		require.NotContains(t, err.Error(), "Go ")
		require.Less(t, len(err.Error()), 400)
	}
}

func TestWhatALenientReaderTakesIsRefused(t *testing.T) {
	for name, content := range map[string]string{
		"another case":        `{"IMAGE":"a"}`,
		"case variant beside": `{"image":"a","Image":"b"}`,
		"twice":               `{"image":"a","image":"b"}`,
		"twice, escaped":      `{"image":"a","imag\u0065":"b"}`,
		"twice in a map":      `{"more":{"a":"1","a":"2"}}`,
		"unknown":             `{"image":"a","extra":1}`,
		"trailing value":      `{"image":"a"}{}`,
		"trailing text":       `{"image":"a"} x`,
		"invalid UTF-8":       "{\"image\":\"\xff\"}",
		"lone surrogate":      `{"image":"\ud800"}`,
		"wrong type":          `{"port":"8080"}`,
		"fraction":            `{"port":1.5}`,
		"out of range":        `{"port":99999999999999999999}`,
		"array for bytes":     `{"blob":[1,2]}`,
		"nothing":             ``,
		"truncated":           `{"image":`,
		"comment":             `{"image":"a"/*x*/}`,
		"deep":                strings.Repeat(`[`, 100_000),
	} {
		t.Run(name, func(t *testing.T) {
			var o order
			require.Error(t, strictjson.Unmarshal([]byte(content), &o))
		})
	}
}

func TestDepthIsBounded(t *testing.T) {
	var v any
	nested := func(n int) []byte { return []byte(strings.Repeat("[", n) + strings.Repeat("]", n)) }
	require.NoError(t, strictjson.Unmarshal(nested(strictjson.MaxDepth), &v))
	require.ErrorIs(t, strictjson.Unmarshal(nested(strictjson.MaxDepth+1), &v), strictjson.ErrDepth)
}

func TestErrorsDoNotRepeatWhatWasSent(t *testing.T) {
	var o order
	err := strictjson.Unmarshal([]byte(`{"`+strings.Repeat("x", 1<<16)+`":1}`), &o)
	require.Error(t, err)
	require.Less(t, len(err.Error()), 1000)
}
