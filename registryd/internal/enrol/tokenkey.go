package enrol

import "github.com/telemark-otel/telemark/registryd/internal/seal"

// The purposes for which something is sealed. Each also begins the additional
// data.
const (
	sealSession = "telemark-session-v1"
	sealToken   = "telemark-token-v1"
)

// SealTokenKey encrypts a token's key for the store. It is bound to the token,
// so that nobody who writes to the store gives one token the key of another.
//
//	additional data: "telemark-token-v1" | id
func SealTokenKey(sealKey []byte, id string, key []byte) ([]byte, error) {
	return seal.Seal(sealKey, sealToken, []byte(sealToken+id), key)
}

func openTokenKey(sealKey []byte, id string, sealed []byte) ([]byte, error) {
	return seal.Open(sealKey, sealToken, []byte(sealToken+id), sealed)
}
