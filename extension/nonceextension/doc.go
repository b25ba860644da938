// Package nonceextension issues the anti-replay nonces that agents sign with,
// keeps the windows that let each block be accepted once, and shows how
// machines and streams stand. On a gateway it relays nonces instead.
//
// It holds no rules of its own: nonces are package internal/nonce, windows are
// package internal/replay; here are HTTP (RFC 9110, JSON bodies), storage,
// lifecycle and telemetry. Verifying processors find the extension through the
// host and take from it what [Extension] offers.
package nonceextension

//go:generate go tool -modfile=../../internal/tools/go.mod mdatagen metadata.yaml
