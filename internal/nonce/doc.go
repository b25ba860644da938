// Package nonce mints and checks the anti-replay nonces that stand in
// statements (claim 10 of RFC 9711), as docs/spec/receipt.md lays them down.
//
// A nonce is a lease and it is stateless: the server that issued it remembers
// nothing, it knows its own nonces by their MAC. The MAC key is derived from a
// long-lived secret and from the store epoch, which is random and is kept with
// the replay windows: when the windows are lost, the nonces that were issued
// over them die too.
//
//	 0      6         10    12                  L-16     L     L = 32..64
//	+------+---------+-----+-------------------+--------+
//	|  T   |  store  | for |      random       |  MAC   |
//	| 6 B  |  epoch  | 2 B |     L-28 bytes    |  16 B  |
//	|      |   4 B   |     |                   |        |
//	+------+---------+-----+-------------------+--------+
//
//	T    = Unix time in ms when the nonce was issued, big-endian
//	for  = SHA-256("telemark-nonce-for-v1\0" | u8 len,kid | u8 len,aud)[0:2]
//	key  = HKDF-SHA-256(secret, salt = store epoch, info = "telemark-nonce-v1"), 32 bytes
//	MAC  = HMAC-SHA-256(key, u8 len,kid | u8 len,aud | all bytes before the MAC)[0:16]
//
// The field "for" is a hint and proves nothing: it lets an honest mix-up (another
// key, another audience) be told from a forgery.
//
// The package is pure: it has no clock, no storage and no source of randomness.
// It does not judge whether T is too old; its callers do.
package nonce
