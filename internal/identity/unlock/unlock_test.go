package unlock_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/unlock"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func private(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func public(seed byte) ed25519.PublicKey { return private(seed).Public().(ed25519.PublicKey) }

func vm() unlock.Current {
	return unlock.Current{TLS: bytes.Repeat([]byte{7}, 32), Volume: [16]byte{1}, State: "owner_registered", Counter: 5}
}

// exchange is one request and what its owner knows.
type exchange struct {
	requests   unlock.Requests
	transcript *unlock.Transcript
	mine       unlock.Mine
	key        []byte
}

func begin(t *testing.T) *exchange {
	t.Helper()
	x := &exchange{key: unlock.NewKey()}
	c := vm()
	x.mine = unlock.Mine{Nonce: unlock.NewNonce(), Signer: private(1), TLS: c.TLS, Volume: &c.Volume, State: c.State, Counter: c.Counter}
	var err error
	x.transcript, err = x.requests.New(x.mine.Nonce, public(1), c, now)
	require.NoError(t, err)
	return x
}

func (x *exchange) wrap(t *testing.T) []byte {
	t.Helper()
	m, err := unlock.Wrap(x.transcript.ReportData(), x.transcript, x.mine, x.key)
	require.NoError(t, err)
	require.LessOrEqual(t, len(m), unlock.MaxMessage)
	return m
}

func refused(t *testing.T, want unlock.Reason, err error) {
	t.Helper()
	var e *unlock.Error
	require.True(t, errors.As(err, &e), "%v", err)
	require.Equal(t, want, e.Reason, "%v", err)
}

func TestOwnersKeyArrives(t *testing.T) {
	x := begin(t)
	m := x.wrap(t)
	require.NotContains(t, string(m), string(x.key))
	got, err := x.requests.Open(m, public(1), vm(), now)
	require.NoError(t, err)
	require.Equal(t, x.key, got)
}

func TestReplayedCiphertextIsRefused(t *testing.T) {
	x := begin(t)
	m := x.wrap(t)
	_, err := x.requests.Open(m, public(1), vm(), now)
	require.NoError(t, err)
	_, err = x.requests.Open(m, public(1), vm(), now)
	refused(t, unlock.Replayed, err)

	// After a restart nothing was asked.
	var restarted unlock.Requests
	_, err = restarted.Open(m, public(1), vm(), now)
	refused(t, unlock.RequestUnknown, err)
}

func TestRacedAnswersOpenOnce(t *testing.T) {
	x := begin(t)
	m := x.wrap(t)
	var wg sync.WaitGroup
	opened := make(chan struct{}, 50)
	for range cap(opened) {
		wg.Go(func() {
			if _, err := x.requests.Open(m, public(1), vm(), now); err == nil {
				opened <- struct{}{}
			}
		})
	}
	wg.Wait()
	require.Len(t, opened, 1)
}

func TestMessageForAnotherVMIsRefused(t *testing.T) {
	for _, c := range []struct {
		name  string
		want  unlock.Reason
		owner ed25519.PublicKey
		edit  func(*unlock.Current)
		at    time.Time
	}{
		{"VM of another owner", unlock.OtherOwner, public(2), func(*unlock.Current) {}, now},
		{"VM without an owner", unlock.OtherOwner, nil, func(*unlock.Current) {}, now},
		{"another volume", unlock.OtherVolume, public(1), func(c *unlock.Current) { c.Volume[0]++ }, now},
		{"another TLS key", unlock.TLSKeyMismatch, public(1), func(c *unlock.Current) { c.TLS = nil }, now},
		{"another state", unlock.StateMismatch, public(1), func(c *unlock.Current) { c.State = "exposed" }, now},
		{"another counter", unlock.StateRollback, public(1), func(c *unlock.Current) { c.Counter++ }, now},
		{"too late", unlock.RequestExpired, public(1), func(*unlock.Current) {}, now.Add(unlock.Lifetime + 1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := begin(t)
			current := vm()
			c.edit(&current)
			_, err := x.requests.Open(x.wrap(t), c.owner, current, c.at)
			refused(t, c.want, err)
		})
	}
}

// forge signs a transcript that the VM did not make, as an owner's tool that
// was lied to does: all of it fits but what edit changes.
func (x *exchange) forge(t *testing.T, edit func(*unlock.Transcript)) []byte {
	t.Helper()
	changed := *x.transcript
	edit(&changed)
	mine := unlock.Mine{Nonce: changed.OwnerNonce, Signer: private(1)}
	m, err := unlock.Wrap(changed.ReportData(), &changed, mine, x.key)
	require.NoError(t, err)
	return m
}

func TestChangedTranscriptIsRefused(t *testing.T) {
	x := begin(t)
	_, err := x.requests.Open(x.forge(t, func(c *unlock.Transcript) { c.OwnerNonce[0]++ }), public(1), vm(), now)
	refused(t, unlock.TranscriptChanged, err)

	other := begin(t)
	_, err = x.requests.Open(x.forge(t, func(c *unlock.Transcript) { c.HPKE = other.transcript.HPKE }), public(1), vm(), now)
	refused(t, unlock.RequestUnknown, err)

	// None of it used the request up.
	_, err = x.requests.Open(x.wrap(t), public(1), vm(), now)
	require.NoError(t, err)
}

func TestStrangersCannotUseUpARequest(t *testing.T) {
	x := begin(t)
	m := x.wrap(t)
	for i := range m {
		changed := bytes.Clone(m)
		changed[i] ^= 1
		_, err := x.requests.Open(changed, public(1), vm(), now)
		require.Error(t, err, "byte %d", i)
	}
	changed := bytes.Clone(m)
	changed[len(changed)-1] ^= 1
	_, err := x.requests.Open(changed, public(1), vm(), now)
	refused(t, unlock.SignatureInvalid, err)
	_, err = x.requests.Open(append(slices.Clip(m), 0), public(1), vm(), now)
	refused(t, unlock.Malformed, err)
	_, err = x.requests.Open(m, public(1), vm(), now)
	require.NoError(t, err)
}

func TestCiphertextOfTheOwnerThatDoesNotOpenIsRefused(t *testing.T) {
	x := begin(t)
	m := x.wrap(t)
	changed := bytes.Clone(m)
	changed[len(changed)-ed25519.SignatureSize-1] ^= 1
	signed := append([]byte("telemark-storage-sign-v1\x00"), changed[len("telemark-storage-key-v1\x00"):len(changed)-ed25519.SignatureSize]...)
	copy(changed[len(changed)-ed25519.SignatureSize:], ed25519.Sign(private(1), signed))
	_, err := x.requests.Open(changed, public(1), vm(), now)
	refused(t, unlock.CiphertextInvalid, err)
	_, err = x.requests.Open(m, public(1), vm(), now)
	refused(t, unlock.Replayed, err)
}

type wrongSigner struct{ crypto.Signer }

func (wrongSigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return make([]byte, ed25519.SignatureSize), nil
}

func TestOwnersToolRefusesToWrap(t *testing.T) {
	for _, c := range []struct {
		name string
		want unlock.Reason
		edit func(x *exchange, report *[64]byte)
	}{
		{"quote of another transcript", unlock.QuoteMismatch, func(_ *exchange, r *[64]byte) { r[63] ^= 1 }},
		{"old quote", unlock.NonceMismatch, func(x *exchange, _ *[64]byte) { x.mine.Nonce[0]++ }},
		{"VM of another owner", unlock.OtherOwner, func(x *exchange, _ *[64]byte) { x.mine.Signer = private(2) }},
		{"channel that ends elsewhere", unlock.TLSKeyMismatch, func(x *exchange, _ *[64]byte) { x.mine.TLS = make([]byte, 32) }},
		{"another volume", unlock.OtherVolume, func(x *exchange, _ *[64]byte) { x.mine.Volume = &[16]byte{9} }},
		{"another state", unlock.StateMismatch, func(x *exchange, _ *[64]byte) { x.mine.State = "fresh" }},
		{"disk from before", unlock.StateRollback, func(x *exchange, _ *[64]byte) { x.mine.Counter++ }},
		{"short key", unlock.KeyInvalid, func(x *exchange, _ *[64]byte) { x.key = x.key[1:] }},
		{"key of zeros", unlock.KeyInvalid, func(x *exchange, _ *[64]byte) { clear(x.key) }},
		{"no signer", unlock.SignerInvalid, func(x *exchange, _ *[64]byte) { x.mine.Signer = nil }},
		{"signer of another key", unlock.SignerInvalid, func(x *exchange, _ *[64]byte) { x.mine.Signer = wrongSigner{private(1)} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := begin(t)
			report := x.transcript.ReportData()
			c.edit(x, &report)
			_, err := unlock.Wrap(report, x.transcript, x.mine, x.key)
			refused(t, c.want, err)
		})
	}
}

func TestRequestsAreBounded(t *testing.T) {
	x := begin(t)
	m := x.wrap(t)
	for i := range unlock.MaxRequests - 1 {
		_, err := x.requests.New(unlock.NewNonce(), public(1), vm(), now.Add(time.Duration(i+1)*time.Second))
		require.NoError(t, err)
	}
	last, err := x.requests.New(x.mine.Nonce, public(1), vm(), now.Add(time.Minute))
	require.NoError(t, err)
	_, err = x.requests.Open(m, public(1), vm(), now)
	refused(t, unlock.RequestUnknown, err) // the oldest went
	m, err = unlock.Wrap(last.ReportData(), last, x.mine, x.key)
	require.NoError(t, err)
	_, err = x.requests.Open(m, public(1), vm(), now)
	require.NoError(t, err)
}

func TestMalformedTranscripts(t *testing.T) {
	good := begin(t).transcript
	parsed, err := unlock.ParseTranscript(good.Bytes())
	require.NoError(t, err)
	require.Equal(t, good, parsed)
	for i := range good.Bytes() {
		_, err := unlock.ParseTranscript(good.Bytes()[:i])
		refused(t, unlock.Malformed, err)
	}
	for name, edit := range map[string]func(*unlock.Transcript){
		"state":     func(x *unlock.Transcript) { x.State = "Fresh\n" },
		"no state":  func(x *unlock.Transcript) { x.State = "" },
		"TLS":       func(x *unlock.Transcript) { x.TLS = x.TLS[:31] },
		"owner":     func(x *unlock.Transcript) { x.Owner = x.Owner[:31] },
		"HPKE key":  func(x *unlock.Transcript) { x.HPKE = x.HPKE[:len(x.HPKE)-1] },
		"no HPKE":   func(x *unlock.Transcript) { x.HPKE = nil },
		"long HPKE": func(x *unlock.Transcript) { x.HPKE = make([]byte, 3000) },
	} {
		t.Run(name, func(t *testing.T) {
			changed := *good
			edit(&changed)
			_, err := unlock.ParseTranscript(changed.Bytes())
			var e *unlock.Error
			require.True(t, errors.As(err, &e), "%v", err)
		})
	}
	suite := *good
	suite.HPKE = append([]byte{0, 0x20}, suite.HPKE[2:]...) // DHKEM(X25519) instead
	_, err = unlock.ParseTranscript(suite.Bytes())
	refused(t, unlock.SuiteUnsupported, err)
}

// TestFrozenTranscript holds the layout to what docs/spec/storage-unlock.md
// says, where the hash was computed by other means.
func TestFrozenTranscript(t *testing.T) {
	x := unlock.Transcript{
		OwnerNonce: [32]byte(bytes.Repeat([]byte{0x11}, 32)), Owner: bytes.Repeat([]byte{0x22}, 32),
		HPKE: append([]byte{0x64, 0x7a, 0, 1, 0, 2}, bytes.Repeat([]byte{0x33}, 1216)...), TLS: bytes.Repeat([]byte{0x44}, 32),
		Volume: [16]byte(bytes.Repeat([]byte{0x55}, 16)), State: "owner_registered", Counter: 7,
	}
	require.Equal(t, x.HPKE[:6], begin(t).transcript.HPKE[:6])
	sum := x.ReportData()
	require.Equal(t, frozen, hex.EncodeToString(sum[:]))
}

const frozen = "aefb0a142a2046fab4ab1f0c5ade1efd967077e8cd8bbd69dedd1692e341a4997f06971af30e441441fa7d6850c3dc53a09b8e9e29e7133d420286df8161d8ae"
