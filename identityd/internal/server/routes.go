package server

import (
	"net/http"
	"slices"

	"github.com/telemark-otel/telemark/internal/identity/api"
)

// Sizes of bodies, in bytes.
const (
	sizeRole     = 4 << 10
	sizeSealed   = 16 << 10 // with a wrapped key
	sizeWorkload = 48 << 10 // 16 directories, the longest image name, the longest credentials, all of it escaped
)

// cost is what a call costs, and so how often one address may make it.
type cost int

const (
	cheap cost = iota
	token      // it tries a token
	quote      // it makes a quote
)

// route is one line of the table.
type route struct {
	method, path string
	body         int64    // bytes that are taken; 0 takes no body
	query        []string // parameters that are taken
	cost         cost
	// older is true for the form of the first generation of what takes a
	// signature or a token.
	older bool
	// secret is true when the request or its answer carries the owner's token.
	secret bool
	// step is true for what may take as long as an image takes to be pulled.
	step bool
	// always is true for what is answered however busy the service is.
	always bool
	handle func(*Server, *call) error
}

// v1 reports whether a route is of the second generation.
func (r *route) v1() bool { return len(r.path) > 4 && r.path[:4] == "/v1/" }

// routes is everything that is served.
var routes = slices.Concat(
	twice(api.PathRegisterOperator, route{body: sizeRole, secret: true, handle: (*Server).registerOperator}),
	twice(api.PathRegisterOwner, route{body: sizeSealed, cost: token, secret: true, step: true, handle: (*Server).registerOwner}),
	twice(api.PathConfigure, route{body: sizeWorkload, step: true, handle: (*Server).configure}),
	twice(api.PathExpose, route{body: sizeRole, step: true, handle: (*Server).expose}),
	[]route{
		{method: http.MethodGet, path: api.PathPubkey, always: true, handle: (*Server).pubkey},
		{method: http.MethodPost, path: api.PathRenewOperator, body: sizeRole, handle: (*Server).renewOperator},
		{method: http.MethodPost, path: api.PathStorageRequest, body: sizeRole, cost: quote, handle: (*Server).storageRequest},
		{method: http.MethodPost, path: api.PathUnlock, body: sizeSealed, step: true, handle: (*Server).unlock},
		{method: http.MethodGet, path: api.PathAttestation, query: []string{"nonce"}, cost: quote, handle: (*Server).attestation},
		{method: http.MethodGet, path: api.PathState, handle: (*Server).state},
		{method: http.MethodGet, path: "/v1/openapi.yaml", always: true, handle: (*Server).openAPI},
		{method: http.MethodGet, path: api.PathHealth, always: true, handle: (*Server).health},
		{method: http.MethodGet, path: "/metrics", always: true, handle: (*Server).metrics},
	},
)

// twice is a route in both forms.
func twice(path string, r route) []route {
	r.method = http.MethodPost
	older := r
	older.path, older.older = path[len("/v1"):], true
	r.path = path
	return []route{older, r}
}
