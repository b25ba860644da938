// Package server is the HTTP interface of registryd (RFC 9110, RFC 9112), which
// openapi.yaml describes: it authenticates and authorises, limits rates, sizes
// and times, reads strict JSON, calls the services, and feeds event streams
// (server-sent events, WHATWG HTML section 9.2). The rules about machines, keys
// and instances stand in enrol, fleet and instance.
//
// Who may call what stands in one table (routes.go), which the tests hold
// against openapi.yaml. Every answer that is not a success is an api.ErrorBody;
// only what net/http refuses before it knows a request (a malformed request
// line, headers beyond MaxHeaderBytes) is plain text.
//
// What it leaves out: web pages, compression, ranges and conditional requests.
package server
