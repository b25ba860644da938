package api

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
)

// EKHash names a TPM: SHA-256, in hexadecimal, of the endorsement key's
// SubjectPublicKeyInfo in DER, so that it can be taken from a certificate:
//
//	openssl x509 -in ek.crt -noout -pubkey | openssl pkey -pubin -outform der | sha256sum
func EKHash(public crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", fmt.Errorf("hash of an endorsement key: %w", err)
	}
	digest := sha256.Sum256(der)
	return hex.EncodeToString(digest[:]), nil
}
