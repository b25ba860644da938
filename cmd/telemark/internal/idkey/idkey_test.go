package idkey

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/telemark-otel/telemark/internal/tpm/private"
)

var message = []byte("telemark-request-v1\x00 and more")

func file(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(path, content, 0o600))
	return path
}

// signs checks that a key makes plain Ed25519 signatures.
func signs(t *testing.T, k *Key, public ed25519.PublicKey) {
	t.Helper()
	require.Equal(t, public, k.Bytes())
	s, err := k.Sign(rand.Reader, message, crypto.Hash(0))
	require.NoError(t, err)
	require.True(t, ed25519.Verify(public, message, s))
}

func TestKeysOfEveryFormatAreOpened(t *testing.T) {
	passphrase := func() ([]byte, error) { return []byte("open sesame"), nil }
	for _, c := range []struct {
		format Format
		words  string
	}{{OpenSSH, ""}, {OpenSSH, "open sesame"}, {PKCS8, ""}} {
		path := filepath.Join(t.TempDir(), "key")
		public, err := Create(path, c.format, "a comment", []byte(c.words))
		require.NoError(t, err)
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.EqualValues(t, 0o600, info.Mode().Perm())
		k, err := Open(Source{File: path, Passphrase: passphrase})
		require.NoError(t, err)
		signs(t, k, public)
		require.Equal(t, c.format == OpenSSH, k.File != "")
		require.NoError(t, k.Close())

		_, err = Create(path, c.format, "", nil)
		require.ErrorIs(t, err, os.ErrExist, "a key is never replaced")
	}
	seed := make([]byte, 32)
	seed[0] = 7
	k, err := Open(Source{File: file(t, []byte(hex.EncodeToString(seed)+"\n"))})
	require.NoError(t, err)
	signs(t, k, ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey))
}

func TestKeyThatOthersCanReadIsRefused(t *testing.T) {
	path := file(t, []byte(strings.Repeat("07", 32)))
	for _, mode := range []os.FileMode{0o644, 0o640, 0o604} {
		require.NoError(t, os.Chmod(path, mode))
		_, err := Open(Source{File: path})
		require.ErrorIs(t, err, private.ErrExposed)
	}
}

func TestWrongPassphraseAndNobodyToAsk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	// With one round where there are usually many, so that it is fast.
	out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-a", "1", "-N", "right", "-f", path).CombinedOutput()
	require.NoError(t, err, "%s", out)
	_, err = Open(Source{File: path})
	require.ErrorContains(t, err, "passphrase")
	_, err = Open(Source{File: path, Passphrase: func() ([]byte, error) { return []byte("wrong"), nil }})
	require.ErrorIs(t, err, x509.IncorrectPasswordError)
	_, err = Open(Source{File: path, Passphrase: func() ([]byte, error) { return nil, errors.New("no terminal") }})
	require.ErrorContains(t, err, "no terminal")
	_, err = Create(path+"2", PKCS8, "", []byte("right"))
	require.Error(t, err)
	_, err = Create(path+"2", "der", "", nil)
	require.Error(t, err)
	require.NoFileExists(t, path+"2")
}

func TestWhatIsNoEd25519KeyIsRefused(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(ec)
	require.NoError(t, err)
	block, err := ssh.MarshalPrivateKey(ec, "")
	require.NoError(t, err)
	good, err := ssh.MarshalPrivateKey(ed25519.NewKeyFromSeed(make([]byte, 32)), "")
	require.NoError(t, err)
	for name, content := range map[string][]byte{
		"empty":            nil,
		"text":             []byte("my key"),
		"short hex":        []byte(strings.Repeat("07", 31)),
		"long hex":         []byte(strings.Repeat("07", 33)),
		"PKCS#8 of P-256":  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		"PKCS#8 of ruins":  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der[:20]}),
		"OpenSSH of P-256": pem.EncodeToMemory(block),
		"two keys":         append(pem.EncodeToMemory(good), pem.EncodeToMemory(good)...),
		"certificate":      pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		"encrypted PKCS#8": pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der}),
		"too large":        []byte(strings.Repeat("07", maxKeyFile)),
	} {
		_, err := Open(Source{File: file(t, content)})
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), "my key")
	}
	_, err = Open(Source{})
	require.Error(t, err)
	_, err = Open(Source{File: "a", Agent: "b"})
	require.Error(t, err)
}

// serveAgent runs an agent of x/crypto's.
func serveAgent(t *testing.T, a agent.Agent) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(a, conn) }()
		}
	}()
	return path
}

func TestAgentSignsTheRawMessage(t *testing.T) {
	a := agent.NewKeyring()
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	require.NoError(t, a.Add(agent.AddedKey{PrivateKey: ec, Comment: "me@example"}))
	require.NoError(t, a.Add(agent.AddedKey{PrivateKey: key, Comment: "me@example"}))
	socket := serveAgent(t, a)
	_, fingerprint, err := Line(key.Public().(ed25519.PublicKey))
	require.NoError(t, err)
	for _, name := range []string{"me@example", fingerprint} {
		k, err := Open(Source{Agent: name, Socket: socket})
		require.NoError(t, err)
		signs(t, k, key.Public().(ed25519.PublicKey))
		_, err = k.Sign(rand.Reader, message, crypto.SHA512)
		require.Error(t, err)
		require.NoError(t, k.Close())
	}
	_, err = Open(Source{Agent: "nobody", Socket: socket})
	require.ErrorContains(t, err, "ssh-add -l")

	seed := make([]byte, 32)
	seed[0] = 1
	require.NoError(t, a.Add(agent.AddedKey{PrivateKey: ed25519.NewKeyFromSeed(seed), Comment: "me@example"}))
	_, err = Open(Source{Agent: "me@example", Socket: socket})
	require.ErrorContains(t, err, "several keys")
	_, err = Open(Source{Agent: "me@example"})
	require.ErrorContains(t, err, "SSH_AUTH_SOCK")
	_, err = Open(Source{Agent: "me@example", Socket: filepath.Join(t.TempDir(), "none")})
	require.Error(t, err)
}

// The agent that people run, and the files that they make.
func TestOpenSSHsOwnKeysAndAgent(t *testing.T) {
	dir := t.TempDir()
	path, socket := filepath.Join(dir, "k"), filepath.Join(dir, "s")
	out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "of ssh-keygen", "-f", path).CombinedOutput()
	require.NoError(t, err, "%s", out)
	line, err := os.ReadFile(path + ".pub")
	require.NoError(t, err)
	public, err := ParsePublic(line)
	require.NoError(t, err)
	k, err := Open(Source{File: path})
	require.NoError(t, err)
	signs(t, k, public)

	run := exec.Command("ssh-agent", "-D", "-a", socket)
	require.NoError(t, run.Start())
	t.Cleanup(func() { _ = run.Process.Kill(); _ = run.Wait() })
	require.Eventually(t, func() bool { _, err := os.Stat(socket); return err == nil }, 5e9, 1e7)
	add := exec.Command("ssh-add", path)
	add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
	out, err = add.CombinedOutput()
	require.NoError(t, err, "%s", out)
	k, err = Open(Source{Agent: "of ssh-keygen", Socket: socket})
	require.NoError(t, err)
	signs(t, k, public)
	require.NoError(t, k.Close())

	// And it reads what is made here.
	made := filepath.Join(dir, "made")
	public, err = Create(made, OpenSSH, "made here", nil)
	require.NoError(t, err)
	want, _, err := Line(public)
	require.NoError(t, err)
	out, err = exec.Command("ssh-keygen", "-y", "-f", made).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, want+" made here\n", string(out))
}

func TestPublicKeysOfEveryFormatAreRead(t *testing.T) {
	public := ed25519.NewKeyFromSeed(make([]byte, 32)).Public().(ed25519.PublicKey)
	line, _, err := Line(public)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(public)
	require.NoError(t, err)
	for _, text := range []string{
		hex.EncodeToString(public) + "\n", line, line + " me@example\n", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
	} {
		got, err := ParsePublic([]byte(text))
		require.NoError(t, err)
		require.Equal(t, public, got)
	}
	for _, text := range []string{"", "x", line + "\n" + line, strings.Repeat("0", 62), "ssh-rsa AAAA"} {
		_, err := ParsePublic([]byte(text))
		require.Error(t, err, text)
	}
}
