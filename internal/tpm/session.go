package tpm

import (
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// Bounds of a kept session. Its key is renewed now and then, and a resource
// manager does not like contexts that get old (TPM_RC_CONTEXT_GAP).
const (
	sessionMaxAge  = 10 * time.Minute
	sessionMaxUses = 1 << 14
)

// keptSession is a session that serves many commands. The zero value is none.
type keptSession struct {
	tpm2.Session
	begun time.Time
	uses  int
}

func (s *keptSession) fresh() bool {
	return s.Session != nil && s.uses < sessionMaxUses && time.Since(s.begun) < sessionMaxAge
}

// end flushes the session, if there is one.
func (s *keptSession) end(l *link) {
	if s.Session != nil {
		l.flushQuietly(s.Handle())
	}
	*s = keptSession{}
}

// Which first parameters a session encrypts, with AES-128-CFB (part 1, section 21).
var (
	encryptCommand = tpm2.AESEncryption(128, tpm2.EncryptIn)
	encryptAnswer  = tpm2.AESEncryption(128, tpm2.EncryptOut)
	encryptBoth    = tpm2.AESEncryption(128, tpm2.EncryptInOut)
)

// startSession starts an HMAC session that knows auth and is salted to key,
// which must be loaded, so that only the TPM that holds key can know the
// session's key (part 1, section 19.6.13). The caller ends it. Part 3,
// section 11.1, TPM2_StartAuthSession.
func (l *link) startSession(key *object, auth []byte, encryption tpm2.AuthOption) (s tpm2.Session, err error) {
	defer func() {
		if p := recover(); p != nil { // see exec
			s, err = nil, l.breakOff(fmt.Errorf("%w: %v", ErrMalformed, p))
		}
		if err != nil {
			err = fmt.Errorf("TPM2_StartAuthSession: %w", err)
		}
	}()
	s, _, err = tpm2.HMACSession(l, tpm2.TPMAlgSHA256, sessionNonce,
		tpm2.Auth(auth), tpm2.Salted(key.handle, key.public), encryption)
	return s, l.judge(err)
}
