package nonce

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/reason"
)

const audience = "telemark"

var (
	epoch  = [4]byte{0xa1, 0xb2, 0xc3, 0xd4}
	issued = time.UnixMilli(1_800_000_000_123)
	kid    = append([]byte{0x00, 0x0b}, bytes.Repeat([]byte{0x11}, 32)...)
	kid2   = append([]byte{0x00, 0x0b}, bytes.Repeat([]byte{0x22}, 32)...)
)

// secret is 00 01 02 … 1f.
func secret() []byte {
	s := make([]byte, 32)
	for i := range s {
		s[i] = byte(i)
	}
	return s
}

func authority(t testing.TB, change ...func(secret []byte, epoch *[4]byte, audience *string)) *Authority {
	t.Helper()
	s, e, a := secret(), epoch, audience
	for _, c := range change {
		c(s, &e, &a)
	}
	auth, err := NewAuthority(s, e, a)
	require.NoError(t, err)
	return auth
}

// fixed yields the bytes of a hex string.
func fixed(h string) func([]byte) error {
	return func(b []byte) error {
		r, err := hex.DecodeString(h)
		if err == nil && copy(b, r) != len(b) {
			err = errors.New("wrong length")
		}
		return err
	}
}

func mint(t testing.TB, a *Authority, kid []byte, length int) []byte {
	t.Helper()
	n, err := a.Mint(kid, issued, length, fixed(strings.Repeat("5a", length-28)))
	require.NoError(t, err)
	require.Len(t, n, length)
	return n
}

func requireReason(t testing.TB, err error, want reason.Reason) {
	t.Helper()
	require.ErrorIs(t, reasonOf(err), &reason.Error{Reason: want}, "%v", err)
}

// reasonOf drops the detail, which tests do not fix.
func reasonOf(err error) error { return &reason.Error{Reason: reason.Of(err)} }

// The vectors were computed with hmac and hashlib of Python's standard library.
var vectors = []struct {
	random, nonce string
}{
	{"edeeeff0", "01a3185c507ba1b2c3d41a6cedeeeff0887b59c4d808a3f0bbc3429e327c26e9"},
	{
		"01080f161d242b323940474e555c636a71787f868d949ba2a9b0b7bec5ccd3dae1e8eff6",
		"01a3185c507ba1b2c3d41a6c01080f161d242b323940474e555c636a71787f868d949ba2a9b0b7bec5ccd3dae1e8eff6e51fc3b1ec92986bc23cea3bc6c02cfd",
	},
}

func TestVectors(t *testing.T) {
	a := authority(t)
	for _, v := range vectors {
		n, err := a.Mint(kid, issued, len(v.nonce)/2, fixed(v.random))
		require.NoError(t, err)
		require.Equal(t, v.nonce, hex.EncodeToString(n))
		got, err := a.Check(n, kid)
		require.NoError(t, err)
		require.True(t, issued.Equal(got), got)
	}
}

func TestAnyChangedBitIsForgedOrForeign(t *testing.T) {
	a := authority(t)
	for _, length := range []int{MinLen, 45, MaxLen} {
		n := mint(t, a, kid, length)
		for bit := range 8 * length {
			forged := bytes.Clone(n)
			forged[bit/8] ^= 1 << (bit % 8)
			want := reason.NonceForged
			if i := bit / 8; i >= forOff && i < rndOff {
				want = reason.NonceForeign
			}
			_, err := a.Check(forged, kid)
			requireReason(t, err, want)
		}
	}
}

func TestNonceOfAnotherKeyOrAudienceIsForeign(t *testing.T) {
	a := authority(t)
	_, err := a.Check(mint(t, a, kid2, 32), kid)
	requireReason(t, err, reason.NonceForeign)
	b := authority(t, func(_ []byte, _ *[4]byte, aud *string) { *aud = "another" })
	_, err = a.Check(mint(t, b, kid, 32), kid)
	requireReason(t, err, reason.NonceForeign)
	_, err = a.Check(mint(t, a, kid, 32), nil)
	requireReason(t, err, reason.NonceForeign)
	_, err = a.Check(mint(t, a, kid, 32), make([]byte, MaxKIDLen+1))
	requireReason(t, err, reason.NonceForeign)
}

func TestNonceWithTransplantedHintIsForged(t *testing.T) {
	a := authority(t)
	n := mint(t, a, kid2, 32)
	copy(n[forOff:rndOff], mint(t, a, kid, 32)[forOff:rndOff])
	_, err := a.Check(n, kid)
	requireReason(t, err, reason.NonceForged)
}

func TestNonceOfAnotherSecretIsForged(t *testing.T) {
	b := authority(t, func(s []byte, _ *[4]byte, _ *string) { s[31] ^= 1 })
	_, err := authority(t).Check(mint(t, b, kid, 32), kid)
	requireReason(t, err, reason.NonceForged)
}

func TestNonceOfALostStoreIsToldFromAForgery(t *testing.T) {
	a := authority(t)
	lost := authority(t, func(_ []byte, e *[4]byte, _ *string) { e[0]++ })
	n := mint(t, lost, kid, 32)
	for range 3 {
		_, err := a.Check(n, kid)
		requireReason(t, err, reason.NonceStoreLost)
	}
	require.Len(t, *a.lost.Load(), 1)
	n[31] ^= 1
	_, err := a.Check(n, kid)
	requireReason(t, err, reason.NonceForged)
}

func TestForgedStoreEpochsFillNoMemory(t *testing.T) {
	a := authority(t)
	n := mint(t, a, kid, 32)
	for i := range 1000 {
		n[epochOff], n[epochOff+1] = byte(i), byte(i>>8)
		_, err := a.Check(n, kid)
		requireReason(t, err, reason.NonceForged)
	}
	require.Nil(t, a.lost.Load())
	for i := range 3 * maxLost {
		lost := authority(t, func(_ []byte, e *[4]byte, _ *string) { e[1] += byte(i + 1) })
		_, err := a.Check(mint(t, lost, kid, 32), kid)
		requireReason(t, err, reason.NonceStoreLost)
	}
	require.Len(t, *a.lost.Load(), maxLost)
}

func TestWrongLengthIsMalformed(t *testing.T) {
	a := authority(t)
	for _, n := range []int{0, 1, 12, 28, MinLen - 1, MaxLen + 1, 1 << 20} {
		_, err := a.Check(make([]byte, n), kid)
		requireReason(t, err, reason.NonceMalformed)
	}
}

func TestCutOrExtendedNonceIsForged(t *testing.T) {
	a := authority(t)
	n := mint(t, a, kid, 48)
	_, err := a.Check(n[:40], kid)
	requireReason(t, err, reason.NonceForged)
	_, err = a.Check(append(n, 0), kid)
	requireReason(t, err, reason.NonceForged)
}

func TestMistakesOfTheCallerAreErrors(t *testing.T) {
	_, err := NewAuthority(make([]byte, 31), epoch, audience)
	require.ErrorIs(t, err, ErrSecretTooShort)
	for _, aud := range []string{"", strings.Repeat("a", MaxAudienceLen+1)} {
		_, err = NewAuthority(secret(), epoch, aud)
		require.ErrorIs(t, err, ErrAudience)
	}
	a := authority(t)
	require.Equal(t, audience, a.Audience())
	full := func([]byte) error { return nil }
	_, err = a.Mint(nil, issued, 32, full)
	require.ErrorIs(t, err, ErrKID)
	_, err = a.Mint(make([]byte, MaxKIDLen+1), issued, 32, full)
	require.ErrorIs(t, err, ErrKID)
	for _, l := range []int{0, MinLen - 1, MaxLen + 1} {
		_, err = a.Mint(kid, issued, l, full)
		require.ErrorIs(t, err, ErrLength)
	}
	for _, at := range []time.Time{time.UnixMilli(-1), time.UnixMilli(1 << 48)} {
		_, err = a.Mint(kid, at, 32, full)
		require.ErrorIs(t, err, ErrTime)
	}
	dry := errors.New("no randomness")
	_, err = a.Mint(kid, issued, 32, func([]byte) error { return dry })
	require.ErrorIs(t, err, dry)
}

func TestSecretIsCopied(t *testing.T) {
	s := secret()
	a, err := NewAuthority(s, epoch, audience)
	require.NoError(t, err)
	other := authority(t, func(_ []byte, e *[4]byte, _ *string) { e[0]++ })
	n := mint(t, other, kid, 32)
	clear(s)
	_, err = a.Check(n, kid) // derives a key anew
	requireReason(t, err, reason.NonceStoreLost)
}

func TestConcurrentUse(t *testing.T) {
	a := authority(t)
	lost := authority(t, func(_ []byte, e *[4]byte, _ *string) { e[0]++ })
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if _, err := a.Check(mint(t, a, kid, 32), kid); err != nil {
					t.Error(err)
				}
				if _, err := a.Check(mint(t, lost, kid, 32), kid); reason.Of(err) != reason.NonceStoreLost {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// FuzzCheck: what passes for a key was minted for it, and is the same again
// when minted from its own parts.
func FuzzCheck(f *testing.F) {
	a, err := NewAuthority(secret(), epoch, audience)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, n, kid []byte) {
		at, err := a.Check(n, kid)
		if err != nil {
			require.Contains(t, []reason.Reason{
				reason.NonceMalformed, reason.NonceForeign, reason.NonceForged, reason.NonceStoreLost,
			}, reason.Of(err))
			return
		}
		again, err := a.Mint(kid, at, len(n), func(b []byte) error { copy(b, n[rndOff:]); return nil })
		require.NoError(t, err)
		require.Equal(t, n, again)
	})
}

func TestFuzzCorpusIsNotEmpty(t *testing.T) {
	files, err := os.ReadDir("testdata/fuzz/FuzzCheck")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(files), 5)
}

func BenchmarkCheck(b *testing.B) {
	a := authority(b)
	n := mint(b, a, kid, 32)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Check(n, kid); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCheckForgedStoreEpoch(b *testing.B) {
	a := authority(b)
	n := mint(b, a, kid, 32)
	n[epochOff]++
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Check(n, kid); err == nil {
			b.Fatal("forged nonce accepted")
		}
	}
}

func BenchmarkMint(b *testing.B) {
	a := authority(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Mint(kid, issued, 32, fixed("5a5a5a5a")); err != nil {
			b.Fatal(err)
		}
	}
}
