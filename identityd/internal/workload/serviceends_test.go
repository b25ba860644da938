package workload

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/telemark-otel/telemark/internal/podmantest"
)

const envService = "WORKLOAD_TEST_SERVICE" // root, runroot, tmpdir, config, socket

func TestMain(m *testing.M) {
	if where := os.Getenv(envService); where != "" {
		serve(strings.Split(where, ":"))
		return
	}
	os.Exit(m.Run())
}

// serve is a process that has a service and is killed.
func serve(at []string) {
	s, err := StartService(context.Background(), ServiceOptions{Root: at[0], RunRoot: at[1], TmpDir: at[2], Config: at[3], Socket: at[4]})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(s.cmd.Process.Pid)
	<-s.Ended()
}

func TestServiceDoesNotOutliveACrash(t *testing.T) {
	p := podmantest.New(t)
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), envService+"="+strings.Join([]string{p.Root, p.Run, p.Tmp, p.Config, filepath.Join(p.Dir, "own.sock")}, ":"))
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	require.NoError(t, err, line)
	service, err := unix.PidfdOpen(pid, 0)
	require.NoError(t, err)
	defer func() { _ = unix.Close(service) }()
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	ended := func() bool {
		poll := []unix.PollFd{{Fd: int32(service), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 100)
		return err == nil && n == 1
	}
	require.Eventually(t, ended, 10*time.Second, 10*time.Millisecond)
}
