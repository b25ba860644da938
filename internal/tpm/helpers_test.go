package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"math/big"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/tpm/tpmtest"
)

// events collects what a Device reports.
type events struct {
	mu  sync.Mutex
	all []Event
}

func (e *events) report(ev Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, ev)
}

func (e *events) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.all)
}

func openDevice(t testing.TB, device string, opts Options) *Device {
	t.Helper()
	d, err := Open(t.Context(), device, opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

func openKey(t testing.TB, d *Device, opts KeyOptions) *Key {
	t.Helper()
	if opts.Dir == "" {
		opts.Dir = filepath.Join(t.TempDir(), "key")
	}
	k, err := d.OpenKey(t.Context(), opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, k.Close()) })
	return k
}

// fixture is an open key on an swtpm of the test's own.
func fixture(t testing.TB) (*Device, *Key) {
	t.Helper()
	d := openDevice(t, tpmtest.New(t), Options{})
	return d, openKey(t, d, KeyOptions{})
}

// requireSigns signs something and verifies it with the key that was expected.
func requireSigns(t testing.TB, k *Key, pub crypto.PublicKey) {
	t.Helper()
	h := suites[k.Algorithm()].hash.New()
	h.Write([]byte(t.Name()))
	digest := h.Sum(nil)
	sig, err := k.Sign(t.Context(), digest)
	require.NoError(t, err)
	if k.Algorithm() == PS256 {
		require.NoError(t, rsa.VerifyPSS(pub.(*rsa.PublicKey), crypto.SHA256, digest, sig, nil))
		return
	}
	requireECDSA(t, pub, digest, sig)
}

// requireSignature is for P-256.
func requireSignature(t testing.TB, pub crypto.PublicKey, digest [32]byte, sig []byte) {
	t.Helper()
	require.Len(t, sig, 64)
	requireECDSA(t, pub, digest[:], sig)
}

func requireECDSA(t testing.TB, pub crypto.PublicKey, digest, sig []byte) {
	t.Helper()
	half := len(sig) / 2
	r, s := new(big.Int).SetBytes(sig[:half]), new(big.Int).SetBytes(sig[half:])
	require.True(t, ecdsa.Verify(pub.(*ecdsa.PublicKey), digest, r, s))
}

// held counts the transient objects and loaded sessions in the TPM.
func held(t testing.TB, d *Device) (objects, sessions int) {
	t.Helper()
	n, err := ask(t.Context(), d, "counting", func(l *link) ([2]int, error) {
		o, err := l.handles(tpm2.TPMHTTransient)
		if err != nil {
			return [2]int{}, err
		}
		s, err := l.handles(tpm2.TPMHTLoadedSession)
		return [2]int{len(o), len(s)}, err
	})
	require.NoError(t, err)
	return n[0], n[1]
}

// impatient is for tests in which something does not answer.
var impatient = Options{
	CommandTimeout: time.Second,
	CreateTimeout:  5 * time.Second,
	RetryFor:       100 * time.Millisecond,
}
