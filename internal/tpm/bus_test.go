package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/tpm/tpmtest"
)

// tap relays to a unix socket and keeps all that crosses it.
type tap struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (b *tap) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

func (b *tap) contains(secret []byte) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Contains(b.all.Bytes(), secret)
}

func tapped(t *testing.T, device string) (*tap, string) {
	t.Helper()
	b := new(tap)
	socket := filepath.Join(tpmtest.Dir(t), "bus")
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("unix", strings.TrimPrefix(device, "unix:"))
			if err != nil {
				_ = near.Close()
				continue
			}
			pipe := func(to, from net.Conn) {
				_, _ = io.Copy(to, io.TeeReader(from, b))
				_ = to.Close()
			}
			go pipe(far, near)
			go pipe(near, far)
		}
	}()
	return b, "unix:" + socket
}

func TestAuthValueAndDigestsDoNotCrossTheBus(t *testing.T) {
	t.Parallel()
	bus, device := tapped(t, tpmtest.New(t))
	dir := filepath.Join(t.TempDir(), "key")
	digest := sha256.Sum256([]byte("telemetry"))
	var k *Key
	for range 2 { // when the key is made, and when it is loaded
		d := openDevice(t, device, Options{})
		k = openKey(t, d, KeyOptions{Dir: dir})
		sig, err := k.Sign(t.Context(), digest[:])
		require.NoError(t, err)
		requireSignature(t, k.PublicKey(), digest, sig)
		activate(t, d, EKECCP256) // its secret is checked below
		require.NoError(t, k.Close())
		require.NoError(t, d.Close())
	}
	require.True(t, bus.contains(k.KID()), "the tap works")
	require.False(t, bus.contains(k.rec.Auth))
	require.False(t, bus.contains(k.rec.Auth[:16]))
	require.False(t, bus.contains(digest[:]))
	require.False(t, bus.contains([]byte("0123456789abcdef")), "an activated credential")
}

func TestSignatureThatDoesNotVerifyIsNotReturned(t *testing.T) {
	t.Parallel()
	_, k := fixture(t)
	right := k.rec.pub
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	k.rec.pub = &other.PublicKey
	sig, err := k.Sign(t.Context(), make([]byte, 32))
	require.ErrorIs(t, err, ErrBadSignature)
	require.Nil(t, sig)
	require.Equal(t, Gone, Classify(err))
	k.rec.pub = right
	requireSigns(t, k, right)
}
