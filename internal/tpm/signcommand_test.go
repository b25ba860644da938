package tpm

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/tpm/wire"
)

// ear keeps the command and answers nothing.
type ear struct{ heard []byte }

var errDeaf = errors.New("no answer")

func (e *ear) Exchange(command []byte, _ time.Duration) ([]byte, error) {
	e.heard = append([]byte(nil), command...)
	return nil, errDeaf
}
func (*ear) Close() error { return nil }

func TestSignCommandIsTheOneThatGoTPMWrites(t *testing.T) {
	t.Parallel()
	heard := func(use func(l *link) error) []byte {
		e := new(ear)
		require.ErrorIs(t, use(&link{conn: e, opts: &Options{RetryFor: -1}, life: context.Background()}), errDeaf)
		return e.heard
	}
	key := tpm2.AuthHandle{
		Handle: 0x80FFFFFF, Name: tpm2.TPM2BName{Buffer: []byte("\x00\x0bname")}, Auth: tpm2.PasswordAuth([]byte("secret")),
	}
	digest := make([]byte, 48) // the longest
	digest[47] = 1
	ours := heard(func(l *link) error { _, err := l.signDigest(suites[ES384], key, digest); return err })
	theirs := heard(func(l *link) error {
		_, err := exec(l, tpm2.Sign{
			KeyHandle:  key,
			Digest:     tpm2.TPM2BDigest{Buffer: digest},
			Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
		})
		return err
	})
	require.Equal(t, theirs, ours)
	require.LessOrEqual(t, len(ours)+len(digest), signCommandSize, "an HMAC is longer than this password")
}

func TestSessionAttributesGoThereAndBack(t *testing.T) {
	t.Parallel()
	for b := range 1 << 8 {
		known := byte(b) &^ (1<<3 | 1<<4) // reserved
		require.Equal(t, known, sessionByte(sessionAttributes(byte(b))))
	}
	require.Equal(t, tpm2.TPMASession{Decrypt: true}, sessionAttributes(1<<5))
}

func TestSignAnswerThatDoesNotFitIsMalformed(t *testing.T) {
	t.Parallel()
	const (
		ecdsa    = "\x00\x18\x00\x0b"
		numbers  = "\x00\x01r\x00\x02ss"
		password = "\x00\x00\x01\x00\x00" // the session of a password: no nonce, continues, no HMAC
	)
	answer := func(tag uint16, parameters, session string) []byte {
		body := append([]byte{0, 0, 0, byte(len(parameters))}, parameters+session...)
		b := append([]byte{byte(tag >> 8), byte(tag), 0, 0, 0, byte(wire.HeaderSize + len(body)), 0, 0, 0, 0}, body...)
		return b
	}
	sign := func(answer []byte) (*signature, error) {
		l := &link{conn: liar{answer}, opts: &Options{RetryFor: -1}, life: context.Background()}
		return l.signDigest(suites[ES256], tpm2.AuthHandle{Handle: 1, Auth: tpm2.PasswordAuth(nil)}, make([]byte, 32))
	}
	good, err := sign(answer(0x8002, ecdsa+numbers, password))
	require.NoError(t, err)
	require.Equal(t, &signature{numbers: [][]byte{[]byte("r"), []byte("ss")}}, good)
	for name, bad := range map[string][]byte{
		"no session":         answer(0x8001, ecdsa+numbers, password),
		"another algorithm":  answer(0x8002, "\x00\x14\x00\x0b"+numbers, password),
		"another hash":       answer(0x8002, "\x00\x18\x00\x0c"+numbers, password),
		"a number too short": answer(0x8002, ecdsa+numbers[:len(numbers)-1], password),
		"bytes behind it":    answer(0x8002, ecdsa+numbers+"x", password),
		"half a session":     answer(0x8002, ecdsa+numbers, password[:3]),
		"another session":    answer(0x8002, ecdsa+numbers, password+password),
		"wrong HMAC":         answer(0x8002, ecdsa+numbers, "\x00\x00\x01\x00\x01h"),
		"nothing":            answer(0x8002, "", "")[:wire.HeaderSize],
	} {
		sig, err := sign(bad)
		require.ErrorIs(t, err, ErrMalformed, name)
		require.Nil(t, sig, name)
	}
}
