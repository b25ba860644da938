// Package server is the HTTP interface of identityd (RFC 9110, RFC 9112), which
// openapi.yaml describes: it bounds rates, sizes and times, reads bodies as they
// came, has them verified (package request), calls Control, and says how things
// stand. What a step does stands in package control.
//
// What is served stands in one table (routes.go), which the tests hold against
// openapi.yaml. Every answer that is not a success is an api.Error; only what
// net/http refuses before it knows a request (a malformed request line, headers
// beyond MaxHeaderBytes) is plain text. The older forms, under paths without
// /v1/, answer what older clients know and no member more.
//
// What it leaves out: web pages, compression, ranges, conditional requests, and
// proxies in front of it: the client is who the connection is from.
package server
