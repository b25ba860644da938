package server_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/registryd/internal/server"
)

// Path parameters that are well formed and name nothing.
var nowhere = strings.NewReplacer(
	"{pubkey}", strings.Repeat("ab", 32), "{origin}", strings.Repeat("ab", 32), "{kid}", "000b"+strings.Repeat("cd", 32), "{id}", "nobody", "{scope}", "default",
)

// Everything that is served stands in openapi.yaml with the same role, and
// nothing else does.
func TestRoutesAndRolesAreThoseOfTheDescription(t *testing.T) {
	require.NoError(t, spec().Validate(context.Background()))
	described := map[string]string{}
	for path, item := range spec().Paths.Map() {
		for method, op := range item.Operations() {
			role, ok := op.Extensions["x-telemark-role"].(string)
			require.True(t, ok, "%s %s has no x-telemark-role", method, path)
			described[method+" "+path] = role
			require.NotEmpty(t, op.Summary)
			require.NotNil(t, op.Responses.Default(), "%s %s does not say how it refuses", method, path)
		}
	}
	require.Equal(t, server.Table(), described)
}

func TestParametersAreThoseOfTheDescription(t *testing.T) {
	for path, item := range spec().Paths.Map() {
		for method, op := range item.Operations() {
			var names []string
			for _, p := range slices.Concat(item.Parameters, op.Parameters) {
				if p.Value.In == "query" {
					names = append(names, p.Value.Name)
				}
			}
			require.ElementsMatch(t, server.Parameters(method, path), names, "%s %s", method, path)
			require.Equal(t, server.TakesBody(method, path), op.RequestBody != nil, "%s %s", method, path)
		}
	}
}

func TestReasonsAreThoseOfTheDescription(t *testing.T) {
	schema := spec().Components.Schemas["Reason"].Value
	var described []api.Reason
	for _, v := range schema.Enum {
		described = append(described, api.Reason(v.(string)))
	}
	require.Equal(t, api.Reasons(), described, "in the order of the table")
	encoded, err := json.Marshal(schema.Extensions["x-status"])
	require.NoError(t, err)
	var status map[api.Reason]int
	require.NoError(t, json.Unmarshal(encoded, &status))
	require.Len(t, status, len(described))
	for r, s := range status {
		require.Equal(t, r.Status(), s, r)
	}
}

// who may do what, by the role that a route wants.
var allowed = map[string][]string{
	"open":     {"", "viewer", "approver", "auditor", "admin"},
	"lookup":   {"", "viewer", "approver", "auditor", "admin"},
	"viewer":   {"viewer", "approver", "auditor", "admin"},
	"approver": {"approver", "admin"},
	"auditor":  {"auditor", "admin"},
	"admin":    {"admin"},
}

func TestEveryRouteAsksForItsRole(t *testing.T) {
	for _, required := range []bool{false, true} {
		r := newRig(t, func(s *settings) { s.RequireAuth = required })
		for line, wants := range server.Table() {
			method, path, _ := strings.Cut(line, " ")
			may := allowed[wants]
			if required && wants == "lookup" {
				may = allowed["viewer"]
			}
			for _, role := range []string{"", "viewer", "approver", "auditor", "admin"} {
				status, reason := r.knock(method, nowhere.Replace(path), role)
				switch {
				case slices.Contains(may, role):
					require.NotEqual(t, http.StatusUnauthorized, status, "%s as %q", line, role)
					require.NotEqual(t, api.Forbidden, reason, "%s as %q", line, role)
				case role == "":
					require.Equal(t, http.StatusUnauthorized, status, "%s as nobody", line)
					require.Equal(t, api.Unauthenticated, reason)
				default:
					require.Equal(t, http.StatusForbidden, status, "%s as %q", line, role)
					require.Equal(t, api.Forbidden, reason)
				}
			}
			// A wrong token is told, on open routes too.
			r.tokens["wrong"] = "tmb1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
			status, reason := r.knock(method, nowhere.Replace(path), "wrong")
			require.Equal(t, http.StatusUnauthorized, status, line)
			require.Equal(t, api.Unauthenticated, reason, line)
		}
	}
}

// knock asks with an empty object where a body is taken, and does not wait for
// the end of streams.
func (r *rig) knock(method, path, role string) (int, api.Reason) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	defer cancel()
	var body io.Reader
	pattern := ""
	for line := range server.Table() {
		m, p, _ := strings.Cut(line, " ")
		if m == method && nowhere.Replace(p) == path {
			pattern = p
		}
	}
	if server.TakesBody(method, pattern) {
		body = strings.NewReader("{}")
	}
	req, err := http.NewRequestWithContext(ctx, method, r.http.URL+path, body)
	require.NoError(r.t, err)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if role != "" {
		r.as(role)(req)
	}
	resp, err := r.client.Do(req)
	require.NoError(r.t, err)
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusOK {
		return resp.StatusCode, ""
	}
	var e api.ErrorBody
	content, err := io.ReadAll(resp.Body)
	require.NoError(r.t, err)
	if resp.StatusCode >= 400 {
		require.NoError(r.t, json.Unmarshal(content, &e), "%s %s: %s", method, path, content)
		require.Equal(r.t, resp.StatusCode, e.Reason.Status())
	}
	return resp.StatusCode, e.Reason
}

func TestUnknownPathsAndMethodsAreRefusedInOurWords(t *testing.T) {
	r := newRig(t)
	for _, path := range []string{"/", "/v1", "/v1/", "/v2/keys", "/v1/machines/", "//v1/machines", "/v1/../register", "/v1/keys/a/b", "/v1/%2e%2e/register", "/favicon.ico"} {
		refused(t, api.NotFound, r.do(http.MethodGet, path, nil, r.as("admin")))
	}
	resp := r.do(http.MethodDelete, "/register", nil)
	refused(t, api.MethodNotAllowed, resp)
	require.Equal(t, "POST", resp.Header.Get("Allow"))
	resp = r.do(http.MethodPatch, "/v1/policies/default", nil, r.as("admin"))
	refused(t, api.MethodNotAllowed, resp)
	require.Equal(t, "DELETE, PUT", resp.Header.Get("Allow"))
	resp = r.do(http.MethodPost, "/v1/keys", nil)
	require.Equal(t, "GET, HEAD", resp.Header.Get("Allow"))
	require.Equal(t, http.StatusOK, r.do(http.MethodHead, "/health", nil).StatusCode)
}

func TestUnknownAndRepeatedParametersAreRefused(t *testing.T) {
	r := newRig(t)
	for _, path := range []string{
		"/v1/machines?stat=pending", "/v1/machines?state=enroled", "/v1/machines?limit=0", "/v1/machines?limit=1001", "/v1/machines?limit=x",
		"/v1/machines?limit=1&limit=2", "/v1/machines?label=site", "/v1/machines?after=nonsense%00", "/v1/machines?%zz", "/v1/instances?operator=xyz",
		"/v1/instances?state=revoke", "/v1/keys?since=-1", "/v1/keys?nonce=AA", "/v1/keys?nonce=AAAAAAAAAAAAAAAAAAAAAA==", "/v1/keys?limit=5001",
		"/v1/events?since=abc", "/v1/audit?after=x", "/v1/keys/000B" + strings.Repeat("cd", 32), "/v1/keys/xyz", "/instance/abcd", "/health?verbose",
	} {
		refused(t, api.BadRequest, r.do(http.MethodGet, path, nil, r.as("admin")))
	}
	refused(t, api.BadRequest, r.do(http.MethodGet, "/v1/events", nil, r.as("viewer"), header("Last-Event-ID", "-5")))
}
