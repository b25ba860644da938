package nesting

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const logBody = `{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":`

// What pdata takes for nesting without brackets, or with brackets that are
// closed again: after an error it goes on at whatever comes.
func TestLevelsWithoutBracketsAreMalformed(t *testing.T) {
	for name, json := range map[string]string{
		"commas":           logBody + `{"arrayValue":` + strings.Repeat(`,"values":,,"arrayValue":`, 50),
		"commas from here": `,"resourceLogs":,,"scopeLogs":,,"logRecords":,,"body":` + strings.Repeat(`,"arrayValue":,"values":,`, 50),
		"no colons":        logBody + `{"arrayValue",` + strings.Repeat(`,"values":,,"arrayValue":`, 50),
		"strings turned inside out": logBody + `{"arrayValue":{"values":[{` +
			strings.Repeat(`"boolValue":",","u":[{"x":[1]},"\"S","arrayValue",{"values":[{`, 50),
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, Malformed, JSON([]byte(json), 128))
			_, err := decode(Logs, []byte(json), true)
			require.Error(t, err)
		})
	}
	r, err := decode(Logs, []byte(logBody+`{"arrayValue":`+strings.Repeat(`,"values":,,"arrayValue":`, 50)), true)
	require.Error(t, err)
	depth, _ := depthOf(r)
	require.Greater(t, depth, 40, "so it has to be refused before")
}

func TestJSON(t *testing.T) {
	record := func(fields string) string {
		return `{"resourceLogs":[{"scopeLogs":[{"logRecords":[{` + fields + `}]}]}]}`
	}
	for name, tc := range map[string]struct {
		json string
		want Verdict
	}{
		"nothing":                    {``, Fits},
		"an array":                   {`[[[[`, Fits},
		"null":                       {`null`, Fits},
		"empty":                      {`{}`, Fits},
		"trailing data":              {`{} {"resourceLogs":`, Fits},
		"white space":                {" {\n\"resourceLogs\" :\t[ ]\r}", Fits},
		"cut off":                    {`{"resourceLogs":[{`, Malformed},
		"comma at the end":           {`{"resourceLogs":[],}`, Malformed},
		"comma in front":             {`{,"resourceLogs":[]}`, Malformed},
		"no comma":                   {`{"resourceLogs":[{}{}]}`, Malformed},
		"no quotes":                  {`{resourceLogs:[]}`, Malformed},
		"wrong bracket":              {`{"resourceLogs":[}]`, Malformed},
		"empty key":                  {`{"":1}`, Malformed},
		"empty key of no message":    {`{"x":{"":1}}`, Fits},
		"escaped key":                {`{"resourceLog\u0073":[]}`, Malformed},
		"object for a list":          {`{"resourceLogs":{}}`, Malformed},
		"null for a list":            {`{"resourceLogs":null}`, Fits},
		"null for a message":         {`{"resourceLogs":[null,{"resource":null}]}`, Fits},
		"null for text":              {record(`"severityText":null`), Fits},
		"null for a number":          {record(`"flags":null`), Malformed},
		"null for bytes":             {record(`"traceId":null`), Malformed},
		"number as text":             {record(`"timeUnixNano":"18446744073709551615"`), Fits},
		"text for a number":          {record(`"timeUnixNano":"soon"`), Fits}, // pdata refuses it, having read all of it
		"largest":                    {record(`"timeUnixNano":18446744073709551615`), Fits},
		"too large":                  {record(`"timeUnixNano":18446744073709551616`), Malformed},
		"uint32":                     {record(`"flags":4294967295`), Fits},
		"too large for uint32":       {record(`"flags":4294967296`), Malformed},
		"negative where none can be": {record(`"flags":-0`), Malformed},
		"int64":                      {record(`"body":{"intValue":-9223372036854775808}`), Fits},
		"too small for int64":        {record(`"body":{"intValue":-9223372036854775809}`), Malformed},
		"fraction for a whole":       {record(`"body":{"intValue":1.0}`), Malformed},
		"exponent for a whole":       {record(`"body":{"intValue":1e3}`), Malformed},
		"leading zero":               {record(`"body":{"intValue":01}`), Malformed},
		"double":                     {record(`"body":{"doubleValue":-1.5e-7}`), Fits},
		"double as text":             {record(`"body":{"doubleValue":"NaN"}`), Fits},
		"double of nothing":          {record(`"body":{"doubleValue":.5}`), Malformed},
		"double that ends early":     {record(`"body":{"doubleValue":5.}`), Malformed},
		"bool":                       {record(`"body":{"boolValue":true}`), Fits},
		"bool as text":               {record(`"body":{"boolValue":"true"}`), Malformed},
		"no bool":                    {record(`"body":{"boolValue":trux}`), Malformed},
		"enumeration by name":        {record(`"severityNumber":"SEVERITY_NUMBER_INFO"`), Fits},
		"enumeration by number":      {record(`"severityNumber":9`), Fits},
		"text for a message":         {record(`"body":"hello"`), Malformed},
		"message for text":           {record(`"severityText":{}`), Malformed},
		"base64":                     {record(`"body":{"bytesValue":"aGk="}`), Fits},
		"base64 with escapes":        {record(`"body":{"bytesValue":"aG\/="}`), Malformed},
		"escapes":                    {record(`"severityText":"\"\\\/\b\f\n\r\t\u00e4\ud83d\ude00 [[[{{{"`), Fits},
		"no escape":                  {record(`"severityText":"\x"`), Malformed},
		"no hexadecimal":             {record(`"severityText":"\u00g0"`), Malformed},
		"control character":          {record("\"severityText\":\"a\nb\""), Malformed},
		"one behind an escape":       {record("\"severityText\":\"\\ta\nb\""), Fits}, // pdata takes it
		"unknown":                    {record(`"x":{"y":[1,"z",null,true,false,-1.5e3,{}]}`), Fits},
		"unknown and deep":           {record(`"x":` + strings.Repeat(`[`, 600) + strings.Repeat(`]`, 600)), TooDeep},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tc.want, JSON([]byte(tc.json), 128))
			if tc.want == Malformed && name != "escaped key" && name != "empty key" {
				_, err := decode(Logs, []byte(tc.json), true)
				require.Error(t, err, "pdata takes what is refused here")
			}
		})
	}
}
