package server

import "net/http"

// access is who may call a route.
type access string

const (
	// accessOpen is everybody.
	accessOpen access = "open"
	// accessLookup is everybody, or viewers where the operator wants that.
	accessLookup access = "lookup"
	// The others are roles.
	accessViewer   access = "viewer"
	accessApprover access = "approver"
	accessAuditor  access = "auditor"
	accessAdmin    access = "admin"
)

// Sizes of bodies, in bytes.
const (
	sizeSmall        = 4 << 10
	sizeEvidence     = 64 << 10  // a quote as hexadecimal digits or numbers, certificates
	sizeRegistration = 128 << 10 // and a statement, base64
	sizeEnrolment    = 1 << 20   // with a boot's event log, base64
	sizeImport       = 8 << 20
)

// route is one line of the table.
type route struct {
	method, path string
	access       access
	body         int64    // bytes that are taken; 0 takes no body
	query        []string // parameters that are taken
	// subject is the path's parameter that names what the request is about:
	// requests are limited for each.
	subject string
	stream  bool // goes on until somebody ends it
	handle  func(*Server, *call) error
}

// routes is everything that is served, and who may call it.
var routes = []route{
	{method: http.MethodPost, path: "/register", access: accessOpen, body: sizeEvidence, handle: (*Server).registerFirst},
	{method: http.MethodGet, path: "/instance/{pubkey}", access: accessLookup, subject: "pubkey", handle: (*Server).instanceFirst},

	{method: http.MethodPost, path: "/v1/nonces", access: accessOpen, handle: (*Server).nonce},
	{method: http.MethodPost, path: "/v1/instances", access: accessOpen, body: sizeRegistration, handle: (*Server).register},
	{method: http.MethodGet, path: "/v1/instances", access: accessViewer, query: []string{"state", "operator", "owner", "after", "limit"}, handle: (*Server).instances},
	{method: http.MethodGet, path: "/v1/instances/{pubkey}", access: accessLookup, subject: "pubkey", handle: (*Server).instance},
	{method: http.MethodPost, path: "/v1/instances/{pubkey}/revoke", access: accessAdmin, body: sizeSmall, handle: (*Server).revokeInstance},
	{method: http.MethodGet, path: "/v1/identities/{origin}", access: accessOpen, query: []string{"nonce"}, handle: (*Server).identity},

	{method: http.MethodPost, path: "/v1/enrolments", access: accessOpen, body: sizeEvidence, handle: (*Server).enrol},
	{method: http.MethodPost, path: "/v1/enrolments/complete", access: accessOpen, body: sizeEnrolment, handle: (*Server).enrolComplete},

	{method: http.MethodGet, path: "/v1/keys", access: accessViewer, query: []string{"since", "nonce", "limit"}, handle: (*Server).snapshot},
	{method: http.MethodGet, path: "/v1/keys/{kid}", access: accessLookup, query: []string{"nonce"}, subject: "kid", handle: (*Server).key},
	{method: http.MethodPost, path: "/v1/keys/{kid}/revoke", access: accessAdmin, body: sizeSmall, handle: (*Server).revokeKey},

	{method: http.MethodGet, path: "/v1/machines", access: accessViewer, query: []string{"state", "name", "label", "after", "limit"}, handle: (*Server).machines},
	{method: http.MethodPost, path: "/v1/machines/import", access: accessAdmin, body: sizeImport, handle: (*Server).importMachines},
	{method: http.MethodGet, path: "/v1/machines/{id}", access: accessViewer, handle: (*Server).machine},
	{method: http.MethodPost, path: "/v1/machines/{id}/approve", access: accessApprover, body: sizeEvidence, handle: (*Server).approve},
	{method: http.MethodPost, path: "/v1/machines/{id}/reject", access: accessApprover, handle: (*Server).reject},
	{method: http.MethodPost, path: "/v1/machines/{id}/replace", access: accessAdmin, body: sizeSmall, handle: (*Server).replace},
	{method: http.MethodPost, path: "/v1/machines/{id}/revoke", access: accessAdmin, body: sizeSmall, handle: (*Server).revokeMachine},

	{method: http.MethodPost, path: "/v1/tokens", access: accessAdmin, body: sizeEvidence, handle: (*Server).createToken},
	{method: http.MethodGet, path: "/v1/tokens", access: accessAdmin, handle: (*Server).tokens},
	{method: http.MethodDelete, path: "/v1/tokens/{id}", access: accessAdmin, handle: (*Server).deleteToken},

	{method: http.MethodGet, path: "/v1/policies", access: accessViewer, handle: (*Server).policies},
	{method: http.MethodPut, path: "/v1/policies/{scope}", access: accessAdmin, body: sizeEnrolment, handle: (*Server).putPolicy},
	{method: http.MethodDelete, path: "/v1/policies/{scope}", access: accessAdmin, handle: (*Server).deletePolicy},

	{method: http.MethodGet, path: "/v1/events", access: accessViewer, query: []string{"since", "nonce"}, stream: true, handle: (*Server).events},
	{method: http.MethodGet, path: "/v1/audit", access: accessAuditor, query: []string{"after", "limit"}, handle: (*Server).audit},
	{method: http.MethodGet, path: "/v1/audit/head", access: accessAuditor, query: []string{"nonce"}, handle: (*Server).auditHead},

	{method: http.MethodGet, path: "/v1/registry-key", access: accessOpen, handle: (*Server).registryKey},
	{method: http.MethodGet, path: "/v1/openapi.yaml", access: accessOpen, handle: (*Server).openAPI},
	{method: http.MethodGet, path: "/health", access: accessOpen, handle: (*Server).health},
	{method: http.MethodGet, path: "/ready", access: accessOpen, handle: (*Server).ready},
	{method: http.MethodGet, path: "/metrics", access: accessViewer, handle: (*Server).metrics},
}
