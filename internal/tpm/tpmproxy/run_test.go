package tpmproxy_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/tpm"
	"github.com/telemark-otel/telemark/internal/tpm/tpmproxy"
	"github.com/telemark-otel/telemark/internal/tpm/tpmtest"
)

func TestFaultsFollowTheFile(t *testing.T) {
	t.Parallel()
	dir := tpmtest.Dir(t)
	socket, file := filepath.Join(dir, "p"), filepath.Join(dir, "faults.json")
	set := func(json string) {
		require.NoError(t, os.WriteFile(file+".new", []byte(json), 0o600))
		require.NoError(t, os.Rename(file+".new", file))
	}
	set("[]")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	out, w := io.Pipe()
	go func() {
		done <- tpmproxy.Run(ctx, []string{"-listen", socket, "-device", tpmtest.New(t), "-faults", file, "-delay", "1ms"}, w)
	}()
	line := make([]byte, 100)
	n, err := out.Read(line)
	require.NoError(t, err)
	require.Equal(t, "listening on unix:"+socket+"\n", string(line[:n]))
	go io.Copy(io.Discard, out) //nolint:errcheck // ends with the pipe

	d, err := tpm.Open(t.Context(), "unix:"+socket, tpm.Options{RetryFor: -1})
	require.NoError(t, err)
	k, err := d.OpenKey(t.Context(), tpm.KeyOptions{Dir: filepath.Join(t.TempDir(), "key")})
	require.NoError(t, err)
	class := func() tpm.Class {
		_, err := k.Sign(t.Context(), make([]byte, 32))
		return tpm.Classify(err)
	}
	require.Equal(t, tpm.OK, class())
	for json, want := range map[string]tpm.Class{
		`[{"action": "code", "code": 2337}]`:                 tpm.Lockout,
		`[{"action": "code", "code": 2338, "command": 349}]`: tpm.Transient, // TPM_RC_RETRY to TPM2_Sign
		`[{"delay": "1ms", "action": "drop"}]`:               tpm.Gone,
	} {
		set(json)
		require.Eventually(t, func() bool { return class() == want }, 5*time.Second, 10*time.Millisecond, json)
	}
	set("[")
	set("[]")
	require.Eventually(t, func() bool { return class() == tpm.OK }, 5*time.Second, 10*time.Millisecond)
	require.NoError(t, k.Close())
	require.NoError(t, d.Close())
	cancel()
	require.NoError(t, <-done)
}

func TestRunSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	dir := tpmtest.Dir(t)
	socket := filepath.Join(dir, "p")
	for why, args := range map[string][]string{
		"-listen and -device are required": nil,
		"accepted are":                     {"-listen", socket, "-device", "nonsense"},
		"does not start swtpm":             {"-listen", socket, "-device", "swtpm:" + dir},
		"no such file":                     {"-listen", socket, "-device", "unix:/x", "-faults", filepath.Join(dir, "none")},
		"flag provided but not defined":    {"-nonsense"},
	} {
		err := tpmproxy.Run(t.Context(), args, &bytes.Buffer{})
		require.ErrorContains(t, err, why)
	}
}

func TestFaultsStrikeWhenTheyShould(t *testing.T) {
	t.Parallel()
	sign := uint32(tpm2.TPMCCSign)
	proxy := tpmtest.Proxy(t, tpmtest.New(t))
	d, err := tpm.Open(t.Context(), proxy.Device(), tpm.Options{RetryFor: -1})
	require.NoError(t, err)
	defer func() { _ = d.Close() }()
	k, err := d.OpenKey(t.Context(), tpm.KeyOptions{Dir: filepath.Join(t.TempDir(), "key")})
	require.NoError(t, err)
	defer func() { _ = k.Close() }()
	proxy.Set(tpmproxy.Fault{Command: sign, Skip: 2, Times: 2, Action: tpmproxy.Code, Code: uint32(tpm2.TPMRCRetry)})
	var got strings.Builder
	for range 6 {
		_, err := k.Sign(t.Context(), make([]byte, 32))
		got.WriteString(map[bool]string{true: "+", false: "-"}[err == nil])
	}
	require.Equal(t, "++--++", got.String())
	require.Equal(t, 6, proxy.Commands(sign))
	require.Equal(t, 2, proxy.Struck())

	proxy.Set(tpmproxy.Fault{Delay: tpmproxy.Duration(60 * time.Millisecond)})
	begun := time.Now()
	_, err = k.Sign(t.Context(), make([]byte, 32))
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(begun), 60*time.Millisecond)
}
