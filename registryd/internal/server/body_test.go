package server_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/registryd/internal/server"
)

// Bodies that one reader takes for one thing and another for another.
var crooked = map[string]string{
	"unknown member":      `{"reason":"stolen","force":true}`,
	"member twice":        `{"reason":"stolen","reason":"superseded"}`,
	"other case":          `{"Reason":"stolen"}`,
	"other case, twice":   `{"reason":"stolen","REASON":"superseded"}`,
	"long s":              "{\"rea\u017fon\":\"stolen\"}",
	"something behind":    `{"reason":"stolen"}{}`,
	"garbage behind":      `{"reason":"stolen"} x`,
	"wrong type":          `{"reason":["stolen"]}`,
	"array":               `["stolen"]`,
	"string":              `"stolen"`,
	"null":                `null`,
	"nothing":             ` `,
	"cut off":             `{"reason":"stol`,
	"invalid UTF-8":       "{\"reason\":\"stol\xffen\"}",
	"byte order mark":     "\ufeff{\"reason\":\"stolen\"}",
	"comment":             `{/* */"reason":"stolen"}`,
	"deep":                `{"reason":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`,
	"very deep":           strings.Repeat(`{"a":`, 700),
	"single quotes":       `{'reason':'stolen'}`,
	"escaped member name": `{"r\u0065ason":"stolen","reason":"superseded"}`,
}

func TestCrookedBodiesAreRefused(t *testing.T) {
	r := newRig(t)
	for name, text := range crooked {
		t.Run(name, func(t *testing.T) {
			e := refused(t, api.BadRequest, r.do(http.MethodPost, "/v1/machines/nobody/revoke", text, r.as("admin")))
			require.Less(t, len(e.Error), 600)
		})
	}
	refused(t, api.NotFound, r.do(http.MethodPost, "/v1/machines/nobody/revoke", `{"reason":"stolen"}`, r.as("admin")))
}

func TestMembersOfNestedObjectsAreHeldToTheirNames(t *testing.T) {
	r := newRig(t)
	for _, text := range []string{
		`{"machines":[{"ek_hash":"00","name":"a","Name":"b"}]}`,
		`{"machines":[{"ek_hash":"00","name":"a","labels":{"site":"a","site":"b"}}]}`,
		`{"machines":[{"ekhash":"00"}]}`,
	} {
		refused(t, api.BadRequest, r.do(http.MethodPost, "/v1/machines/import", text, r.as("admin")))
	}
	refused(t, api.BadRequest, r.do(http.MethodPut, "/v1/policies/default", `{"location":{"within":{"type":"Point","type":"Polygon"}}}`, r.as("admin")))
}

func TestOtherContentTypesAreRefused(t *testing.T) {
	r := newRig(t)
	for _, media := range []string{"", "text/plain", "application/x-www-form-urlencoded", "application/jsonp", "multipart/form-data"} {
		refused(t, api.MediaType, r.do(http.MethodPost, "/v1/tokens", `{}`, r.as("admin"), header("Content-Type", media)))
	}
	refused(t, api.MediaType, r.do(http.MethodPost, "/v1/tokens", `{}`, r.as("admin"), header("Content-Encoding", "gzip")))
	resp := r.do(http.MethodPost, "/v1/tokens", `{}`, r.as("admin"), header("Content-Type", "Application/JSON; charset=utf-8"))
	require.Equal(t, http.StatusCreated, resp.StatusCode)
}

func TestBodiesHaveASizeForEachRoute(t *testing.T) {
	r := newRig(t)
	for path, size := range map[string]int{
		"/register": 64 << 10, "/v1/instances": 128 << 10, "/v1/enrolments": 64 << 10, "/v1/enrolments/complete": 1 << 20,
		"/v1/machines/nobody/revoke": 4 << 10, "/v1/machines/import": 8 << 20,
	} {
		over := bytes.Repeat([]byte(" "), size+1)
		refused(t, api.BodyTooLarge, r.do(http.MethodPost, path, over, r.as("admin")))
		// Without a length nobody knows before.
		refused(t, api.BodyTooLarge, r.do(http.MethodPost, path, over, r.as("admin"), func(req *http.Request) { req.ContentLength = -1 }))
		refused(t, api.BadRequest, r.do(http.MethodPost, path, over[1:], r.as("admin")))
	}
}

func TestCallsWithoutABodyTakeNone(t *testing.T) {
	r := newRig(t)
	refused(t, api.BadRequest, r.do(http.MethodPost, "/v1/nonces", `{}`))
	refused(t, api.BadRequest, r.do(http.MethodGet, "/health", `{}`))
}

// seeds stand in testdata, so that the fuzzer begins with them everywhere.
func TestSeedsOfTheFuzzerAreThere(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "fuzz", "FuzzBody", "*"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(files), 10)
	for _, f := range files {
		content, err := os.ReadFile(f)
		require.NoError(t, err)
		require.True(t, bytes.HasPrefix(content, []byte("go test fuzz v1\n")), f)
	}
}

// What is taken means one thing: written again and read again it is the same,
// and a lenient reader that sees only the first or last of two members agrees.
func FuzzBody(f *testing.F) {
	for _, text := range crooked {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		for _, make := range []func() any{
			func() any { return &api.EnrolmentComplete{} },
			func() any { return &api.Registration{} },
			func() any { return &api.ImportRequest{} },
			func() any { return &api.Policy{} },
		} {
			v := make()
			err := server.Decode(content, v)
			if err != nil {
				var refusal *api.Error
				if !errors.As(err, &refusal) || refusal.Reason != api.BadRequest || len(err.Error()) > 1000 {
					t.Fatalf("%v", err)
				}
				continue
			}
			encoded, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			again := make()
			if err := server.Decode(encoded, again); err != nil {
				t.Fatalf("%s: %v", encoded, err)
			}
			lenient := make()
			if err := json.Unmarshal(content, lenient); err != nil {
				t.Fatalf("a lenient reader refuses what was taken: %s: %v", content, err)
			}
			first, _ := json.Marshal(again)
			second, _ := json.Marshal(lenient)
			if !bytes.Equal(encoded, first) || !bytes.Equal(encoded, second) {
				t.Fatalf("%s\n%s\n%s", encoded, first, second)
			}
		}
	})
}
