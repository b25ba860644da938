package geo

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"point":                {`{"type":"Point","coordinates":[1,2]}`, ErrType},
		"feature of nothing":   {`{"type":"Feature","geometry":{}}`, ErrType},
		"feature without":      {`{"type":"Feature"}`, ErrType},
		"feature of a feature": {`{"type":"Feature","geometry":{"type":"Feature","geometry":` + northernCap + `}}`, ErrType},
		"null geometry":        {`{"type":"Feature","geometry":null}`, ErrType},
		"geometry collection":  {`{"type":"GeometryCollection","geometries":[` + northernCap + `]}`, ErrType},
		"collection nested":    {`{"type":"FeatureCollection","features":[{"type":"FeatureCollection","features":[]}]}`, ErrType},
		"collection of a line": {`{"type":"FeatureCollection","features":[{"type":"Feature","geometry":{"type":"LineString","coordinates":[[1,2],[3,4]]}}]}`, ErrType},
		"empty collection":     {`{"type":"FeatureCollection","features":[]}`, ErrEmpty},
		"collection of null":   {`{"type":"FeatureCollection","features":null}`, ErrEmpty},
		"no polygon":           {`{"type":"MultiPolygon","coordinates":[]}`, ErrEmpty},
		"no ring":              {`{"type":"Polygon","coordinates":[]}`, ErrEmpty},
		"empty ring":           {`{"type":"Polygon","coordinates":[[]]}`, ErrRing},
		"three points":         {polygonOf(`[[0,0],[1,0],[0,0]]`), ErrRing},
		"open ring":            {polygonOf(`[[0,0],[1,0],[1,1],[0,1]]`), ErrRing},
		"one coordinate":       {polygonOf(`[[0],[1,0],[1,1],[0]]`), ErrPosition},
		"four of them":         {polygonOf(`[[0,0,0,0],[1,0],[1,1],[0,0]]`), ErrPosition},
		"text":                 {polygonOf(`[["0",0],[1,0],[1,1],["0",0]]`), ErrPosition},
		"null":                 {polygonOf(`[[null,0],[1,0],[1,1],[null,0]]`), ErrPosition},
		"out of range":         {polygonOf(`[[0,91],[1,0],[1,1],[0,91]]`), ErrPosition},
		"far out of range":     {polygonOf(`[[361,0],[362,0],[362,1],[361,0]]`), ErrPosition},
		"metres":               {`{"type":"Polygon","crs":{"type":"name","properties":{"name":"EPSG:25833"}},"coordinates":[` + rectangle(0, 0, 1, 1) + `]}`, ErrCRS},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(c.text))
			require.ErrorIs(t, err, c.want)
		})
	}
	for name, text := range map[string]string{
		"nothing":         ``,
		"not JSON":        `{`,
		"coordinates":     `{"type":"Polygon","coordinates":"x"}`,
		"no coordinates":  `{"type":"Polygon"}`,
		"type twice":      `{"type":"Point","type":"Polygon","coordinates":[` + rectangle(0, 0, 1, 1) + `]}`,
		"type in capital": `{"Type":"Polygon","coordinates":[` + rectangle(0, 0, 1, 1) + `]}`,
		"two texts":       northernCap + northernCap,
		"huge number":     polygonOf(`[[1e999,0],[1,0],[1,1],[0,0]]`),
		"deep":            strings.Repeat("[", 1<<20),
		"deep and closed": `{"x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`,
	} {
		_, err := Parse([]byte(text))
		require.Error(t, err, name)
		require.Less(t, len(err.Error()), 1000)
	}
	a := parse(t, `{"type":"Polygon","crs":{"type":"name","properties":{"name":"urn:ogc:def:crs:OGC:1.3:CRS84"}},"coordinates":[`+rectangle(0, 0, 1, 1)+`]}`)
	require.True(t, a.Contains(at(0.5, 0.5)))
}

func TestParseIsBounded(t *testing.T) {
	_, err := Parse(make([]byte, MaxGeoJSON+1))
	require.ErrorIs(t, err, ErrSize)
	_, err = Parse([]byte(polygonOf("[" + strings.Repeat("[0,0],", MaxPositions) + "[0,0]]")))
	require.ErrorIs(t, err, ErrTooLarge)
	_, err = Parse([]byte(`{"type":"FeatureCollection","features":[` + strings.Repeat(`{"type":"Feature","geometry":`+polygonOf(rectangle(0, 0, 1, 1))+`},`, maxFeatures) + `{}]}`))
	require.ErrorIs(t, err, ErrSize)
}
