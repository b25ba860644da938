package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/server"
	"github.com/telemark-otel/telemark/identityd/internal/state"
)

var update = flag.Bool("update", false, "write the reasons into openapi.yaml")

// withReasons is the description with the reasons at its end written anew.
func withReasons(t *testing.T) []byte {
	t.Helper()
	content, err := os.ReadFile("openapi.yaml")
	require.NoError(t, err)
	at := bytes.LastIndex(content, []byte("    Reason:\n"))
	require.Positive(t, at)
	list := at + bytes.Index(content[at:], []byte("      enum:\n"))
	var b bytes.Buffer
	b.Write(content[:list])
	b.WriteString("      enum:\n")
	for _, r := range reason.Reasons() {
		fmt.Fprintf(&b, "        - %s\n", r)
	}
	b.WriteString("      x-status:\n")
	for _, r := range reason.Reasons() {
		fmt.Fprintf(&b, "        %s: %d\n", r, r.Status())
	}
	return b.Bytes()
}

func TestReasonsAreThoseOfTheDescription(t *testing.T) {
	want := withReasons(t)
	if *update {
		require.NoError(t, os.WriteFile("openapi.yaml", want, 0o600))
	}
	got, err := os.ReadFile("openapi.yaml")
	require.NoError(t, err)
	require.Equal(t, string(want), string(got), "run: go test ./identityd/internal/server -update")
	schema := spec().Components.Schemas["Reason"].Value
	encoded, err := json.Marshal(schema.Extensions["x-status"])
	require.NoError(t, err)
	var status map[reason.Reason]int
	require.NoError(t, json.Unmarshal(encoded, &status))
	require.Len(t, status, len(schema.Enum))
}

// Everything that is served stands in openapi.yaml, and nothing else does.
func TestRoutesAreThoseOfTheDescription(t *testing.T) {
	require.NoError(t, spec().Validate(context.Background()))
	var described []string
	for path, item := range spec().Paths.Map() {
		for method, op := range item.Operations() {
			described = append(described, method+" "+path)
			require.NotEmpty(t, op.Summary)
			require.NotNil(t, op.Responses.Default(), "%s %s does not say how it refuses", method, path)
			require.Contains(t, []any{"role", "owner", "nobody"}, op.Extensions["x-telemark-signed"], "%s %s", method, path)
			var query []string
			for _, p := range op.Parameters {
				if p.Value.In == "query" {
					query = append(query, p.Value.Name)
				}
			}
			require.ElementsMatch(t, server.Parameters(method, path), query, "%s %s", method, path)
			require.Equal(t, server.Size(method, path) > 0, op.RequestBody != nil, "%s %s", method, path)
		}
	}
	slices.Sort(described)
	require.Equal(t, server.Table(), described)
}

func TestUnknownPathsAndMethodsAreRefusedInOurWords(t *testing.T) {
	r := newRig(t)
	for _, path := range []string{
		"/", "/v1", "/v1/", "/v2/state", "/v1/state/", "//v1/state", "/v1/../health", "/v1/%2e%2e/health", "/favicon.ico",
		"/storage/unlock", "/operator/renew", "/attestation", "/V1/state", "/health/",
	} {
		refused(t, reason.NotFound, r.do(http.MethodGet, path, nil))
	}
	resp := r.do(http.MethodGet, "/operator/register", nil)
	refused(t, reason.MethodNotAllowed, resp)
	require.Equal(t, "OPTIONS, POST", resp.Header.Get("Allow"))
	resp = r.do(http.MethodDelete, "/v1/state", nil)
	refused(t, reason.MethodNotAllowed, resp)
	require.Equal(t, "GET, HEAD, OPTIONS", resp.Header.Get("Allow"))
	resp = r.do(http.MethodOptions, "/v1/state", nil)
	require.Equal(t, http.StatusNoContent, resp.StatusCode)
	require.Equal(t, "GET, HEAD, OPTIONS", resp.Header.Get("Allow"))
	require.Empty(t, resp.Header.Get("Access-Control-Allow-Origin"))
	require.Equal(t, http.StatusOK, r.do(http.MethodHead, "/health", nil).StatusCode)
}

func TestUnknownAndRepeatedParametersAreRefused(t *testing.T) {
	r := newRig(t)
	nonce := strings.Repeat("ab", 16)
	for _, path := range []string{
		"/health?verbose", "/v1/state?nonce=" + nonce, "/v1/attestation?nonce=" + nonce + "&nonce=" + nonce, "/v1/attestation?Nonce=" + nonce,
		"/v1/attestation?%zz", "/v1/attestation", "/v1/attestation?nonce=", "/v1/attestation?nonce=" + nonce[2:],
		"/v1/attestation?nonce=" + strings.ToUpper(nonce), "/v1/attestation?nonce=" + strings.Repeat("ab", 65), "/v1/attestation?nonce=" + nonce + "a",
	} {
		refused(t, reason.BadRequest, r.do(http.MethodGet, path, nil))
	}
	require.Zero(t, r.control.calls.Load(), "no quote was made for them")
	refused(t, reason.BadRequest, r.do(http.MethodPost, "/operator/register?force=1", r.role(r.operator)))
	ok[map[string]any](t, r.do(http.MethodGet, "/v1/attestation?nonce="+nonce, nil))
}

func TestPagesOfOtherOriginsAreRefused(t *testing.T) {
	r := newRig(t)
	for _, e := range []edit{header("Origin", "https://evil.example"), header("Sec-Fetch-Site", "cross-site"), header("Origin", "null")} {
		refused(t, reason.ForeignOrigin, r.do(http.MethodPost, "/operator/register", r.role(r.operator), e))
	}
	require.Equal(t, state.Fresh, r.machine.View().State)
}
