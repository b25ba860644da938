package daemon_test

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/daemon"
)

func TestExitCodeSaysWhoseFaultItIs(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
		says string
	}{
		{nil, daemon.ExitOK, ""},
		{daemon.Failed(nil), daemon.ExitOK, ""},
		{daemon.Failed(errors.New("disk is full")), daemon.ExitFailed, "exampled: disk is full\n"},
		{errors.New("--listen: wrong"), daemon.ExitUsage, "exampled: --listen: wrong\nRun 'exampled --help' for usage.\n"},
	} {
		var out bytes.Buffer
		cmd := &cobra.Command{Use: "exampled", SilenceErrors: true, SilenceUsage: true, RunE: func(*cobra.Command, []string) error { return c.err }}
		require.Equal(t, c.want, daemon.Run(cmd, []string{}, &out))
		require.Equal(t, c.says, out.String())
	}
}

func TestFlagComesBeforeItsVariable(t *testing.T) {
	vars := daemon.Variables{Prefix: "EXAMPLED_", Own: map[string]string{"data-path": "DATA_PATH"}}
	parse := func(args ...string) (*pflag.FlagSet, error) {
		fs := pflag.NewFlagSet("exampled", pflag.ContinueOnError)
		fs.String("data-path", "/mnt", "where data lies")
		fs.Int("max-calls", 1, "calls at once")
		vars.Document(fs)
		require.NoError(t, fs.Parse(args))
		return fs, vars.Apply(fs)
	}
	t.Setenv("DATA_PATH", "/data")
	t.Setenv("EXAMPLED_MAX_CALLS", "7")
	fs, err := parse("--max-calls=3")
	require.NoError(t, err)
	require.Equal(t, "/data", fs.Lookup("data-path").Value.String())
	require.Equal(t, "3", fs.Lookup("max-calls").Value.String())
	require.Equal(t, "where data lies [$DATA_PATH]", fs.Lookup("data-path").Usage)
	require.Equal(t, []string{"data-path", "max-calls"}, daemon.Names(fs))

	t.Setenv("EXAMPLED_MAX_CALLS", "hunter2")
	_, err = parse()
	require.EqualError(t, err, "$EXAMPLED_MAX_CALLS: not a value of --max-calls")
}

func TestSecretThatOthersReadIsNone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	_, err := daemon.Secret("token-file", file)
	require.ErrorContains(t, err, "--token-file")
	require.NoError(t, os.WriteFile(file, []byte(" hunter2\n"), 0o600))
	got, err := daemon.Secret("token-file", file)
	require.NoError(t, err)
	require.Equal(t, "hunter2", got)
	require.NoError(t, os.Chmod(file, 0o640))
	_, err = daemon.Secret("token-file", file)
	require.ErrorContains(t, err, "run chmod 600")
	require.NoError(t, os.Chmod(file, 0o600))
	require.NoError(t, os.WriteFile(file, bytes.Repeat([]byte(" "), 20<<10), 0o600))
	_, err = daemon.Secret("token-file", file)
	require.ErrorContains(t, err, "larger than")
	require.NoError(t, os.WriteFile(file, []byte("\n"), 0o600))
	_, err = daemon.Secret("token-file", file)
	require.ErrorContains(t, err, "is empty")
}

func TestAskToldWhatIsWrong(t *testing.T) {
	answer, status := `{"status":"ok"}`, http.StatusOK
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(answer + "\n"))
	}))
	defer s.Close()
	got, err := daemon.Ask(t.Context(), s.Client(), s.URL)
	require.NoError(t, err)
	require.Equal(t, answer, got)
	answer, status = `{"error":"not ready: store","reason":"store_unavailable"}`, http.StatusServiceUnavailable
	_, err = daemon.Ask(t.Context(), s.Client(), s.URL)
	require.ErrorContains(t, err, `503 Service Unavailable: "not ready: store"`)
	answer = "<html>"
	_, err = daemon.Ask(t.Context(), s.Client(), s.URL)
	require.ErrorContains(t, err, "503")
	require.NotContains(t, err.Error(), "html")
}

func TestLevelOfTheLog(t *testing.T) {
	_, err := daemon.NewLogger("loud")
	require.ErrorContains(t, err, "want debug, info, warn or error")
	log, err := daemon.NewLogger("warn")
	require.NoError(t, err)
	require.False(t, log.Core().Enabled(0))
	require.Equal(t, "v1.2.3", daemon.Version("v1.2.3"))
	require.NotEmpty(t, daemon.Version(""))
}
