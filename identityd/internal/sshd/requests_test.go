package sshd

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

func mkfifo(t *testing.T, name string) {
	t.Helper()
	require.NoError(t, unix.Mkfifo(name, 0o600))
	_, err := os.Lstat(name)
	require.NoError(t, err)
}

type ptyRequest struct {
	Term                      string
	Cols, Rows, Width, Height uint32
	Modes                     string
}

func TestRequestsAreRead(t *testing.T) {
	term, size, ok := parsePty(ssh.Marshal(ptyRequest{"xterm", 80, 24, 0, 0, "\x00"}))
	require.True(t, ok)
	require.Equal(t, "xterm", term)
	require.Equal(t, Size{80, 24}, size)
	_, size, ok = parsePty(ssh.Marshal(ptyRequest{"xterm", 1 << 31, 1 << 16, 0, 0, ""}))
	require.True(t, ok)
	require.Equal(t, Size{maxSide, maxSide}, size)
	term, _, ok = parsePty(ssh.Marshal(ptyRequest{"x\x00\n=", 80, 24, 0, 0, ""}))
	require.True(t, ok)
	require.Equal(t, "dumb", term)
}

func TestHostileRequestsAreRefused(t *testing.T) {
	good := ssh.Marshal(ptyRequest{"xterm", 80, 24, 0, 0, "\x00"})
	for i := range good {
		_, _, ok := parsePty(good[:i])
		require.False(t, ok, i)
	}
	_, _, ok := parsePty(append(good, 0))
	require.False(t, ok)
	for name, payload := range map[string]any{
		"preload":       struct{ N, V string }{"LD_PRELOAD", "x"},
		"path":          struct{ N, V string }{"PATH", "/data"},
		"not a locale":  struct{ N, V string }{"LC_", "x"},
		"equals in it":  struct{ N, V string }{"LC_A=B", "x"},
		"newline":       struct{ N, V string }{"LANG", "x\ny"},
		"zero byte":     struct{ N, V string }{"LANG", "x\x00y"},
		"long":          struct{ N, V string }{"LANG", strings.Repeat("x", maxValue+1)},
		"one field":     struct{ N string }{"LANG"},
		"trailing data": struct{ N, V, W string }{"LANG", "C", ""},
	} {
		_, ok := parseEnv(ssh.Marshal(payload))
		require.False(t, ok, name)
	}
	_, ok = parseText(ssh.Marshal(struct{ S string }{"a\x00b"}), 16)
	require.False(t, ok)
	_, ok = parseText(ssh.Marshal(struct{ S string }{strings.Repeat("a", 17)}), 16)
	require.False(t, ok)
	_, ok = parseText([]byte{0xff, 0xff, 0xff, 0xff, 'a'}, 16)
	require.False(t, ok)
}

// What is taken is what was sent: encoded again it is the same bytes.
func FuzzRequests(f *testing.F) {
	f.Add(ssh.Marshal(ptyRequest{"xterm", 80, 24, 640, 480, "\x00"}))
	f.Add(ssh.Marshal(struct{ N, V string }{"LC_ALL", "C.UTF-8"}))
	f.Add(ssh.Marshal(struct{ S string }{"sftp"}))
	f.Add(ssh.Marshal(struct{ A, B, C, D uint32 }{132, 50, 0, 0}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, payload []byte) {
		if s, ok := parseText(payload, maxCommand); ok {
			require.Equal(t, payload, ssh.Marshal(struct{ S string }{s}))
		}
		if v, ok := parseEnv(payload); ok {
			name, value, _ := strings.Cut(v, "=")
			require.Equal(t, payload, ssh.Marshal(struct{ N, V string }{name, value}))
		}
		if size, ok := parseWindow(payload); ok {
			require.Len(t, payload, 16)
			require.LessOrEqual(t, max(size.Cols, size.Rows), uint16(maxSide))
		}
		if term, size, ok := parsePty(payload); ok {
			require.LessOrEqual(t, len(term), maxTerm)
			require.LessOrEqual(t, max(size.Cols, size.Rows), uint16(maxSide))
		}
	})
}
