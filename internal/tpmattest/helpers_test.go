package tpmattest_test

import (
	"crypto"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tpmattest"
	"github.com/telemark-otel/telemark/internal/tpmattest/attesttest"
)

func refusedFor(t testing.TB, reason api.Reason, err error) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, reason, api.ReasonOf(err), "%v", err)
}

func parseEK(t testing.TB, o *attesttest.Object) *tpmattest.EK {
	t.Helper()
	ek, err := tpmattest.ParseEK(o.Public)
	require.NoError(t, err)
	return ek
}

func parseAK(t testing.TB, o *attesttest.Object) *tpmattest.AK {
	t.Helper()
	ak, err := tpmattest.ParseAK(o.Public)
	require.NoError(t, err)
	return ak
}

func parseKey(t testing.TB, o *attesttest.Object) *tpmattest.Key {
	t.Helper()
	key, err := tpmattest.ParseKey(o.Public)
	require.NoError(t, err)
	return key
}

// question is qualifying data.
func question(s string) []byte {
	sum := sha256.Sum256([]byte(s))
	return sum[:]
}

// patched returns b with bytes replaced at offset.
func patched(b []byte, offset int, with ...byte) []byte {
	b = slices.Clone(b)
	copy(b[offset:], with)
	return b
}

// attributes returns a public area with other attributes.
func withAttributes(public []byte, change func(uint32) uint32) []byte {
	b := slices.Clone(public)
	binary.BigEndian.PutUint32(b[4:], change(binary.BigEndian.Uint32(b[4:])))
	return b
}

const (
	bitFixedTPM            = 1 << 1
	bitFixedParent         = 1 << 4
	bitSensitiveDataOrigin = 1 << 5
	bitEncryptedDup        = 1 << 11
	bitRestricted          = 1 << 16
	bitDecrypt             = 1 << 17
	bitSign                = 1 << 18
	bitX509Sign            = 1 << 19
	bitReserved            = 1 << 3
)

func without(bit uint32) func(uint32) uint32 { return func(a uint32) uint32 { return a &^ bit } }
func with(bit uint32) func(uint32) uint32    { return func(a uint32) uint32 { return a | bit } }

// goName is the Name as go-tpm computes it.
func goName(t testing.TB, public []byte) []byte {
	t.Helper()
	p, err := tpm2.Unmarshal[tpm2.TPMTPublic](public)
	require.NoError(t, err)
	name, err := tpm2.ObjectName(p)
	require.NoError(t, err)
	return name.Buffer
}

type equaler interface{ Equal(crypto.PublicKey) bool }
