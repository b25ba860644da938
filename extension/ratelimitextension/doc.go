// Package ratelimitextension limits requests, bytes and concurrency of HTTP and
// gRPC servers, and how deep values nest in the OTLP requests that they take, as
// middleware of confighttp and configgrpc (extensionmiddleware).
//
// Refusals follow RFC 6585 (429) and RFC 9110 section 10.2.3 (Retry-After), for
// OTLP the OpenTelemetry Protocol specification, "OTLP/HTTP Throttling" and
// "OTLP/gRPC Throttling": google.rpc.Status with RetryInfo, so that exporters
// back off and send again. Callers behind proxies are told apart by
// X-Forwarded-For; the Forwarded header of RFC 7239 is not read.
//
// What nests too deep is refused for good: 400 or, where grpc-go decodes before
// any middleware runs, Internal, which "OTLP/gRPC Response" has as not retryable.
//
// It keeps no state over restarts and shares none between processes. The
// buckets are package internal/limit, the bound on nesting is internal/nesting.
package ratelimitextension

//go:generate go tool -modfile=../../internal/tools/go.mod mdatagen metadata.yaml
