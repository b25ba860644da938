package workload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// ServiceOptions say how to start a Podman service of one's own.
type ServiceOptions struct {
	// Socket to listen on. Its directory is made, for root only.
	Socket string
	// Root is where images and containers are kept. What lies there decides
	// what runs: on a host that is not trusted, put it into memory or the
	// encrypted volume. "" is the system's own, /var/lib/containers/storage.
	Root string
	// RunRoot and TmpDir hold what need not survive a reboot, in memory. "":
	// beside the socket, when Root is set. Images on their way in and out lie in
	// TmpDir too, where nobody can exchange them.
	RunRoot string
	TmpDir  string
	// Config is a containers.conf, "" the system's.
	Config string
	// Output takes what the service logs; nil: nothing does.
	Output io.Writer
}

// Service is a `podman system service` that was started here.
type Service struct {
	cmd    *exec.Cmd
	ended  chan struct{} // closed when it ended
	err    error         // how, valid after ended
	socket string
}

const startTime = 20 * time.Second

// StartService starts Podman's API and returns when it answers. Containers do
// not end with it.
func StartService(ctx context.Context, opts ServiceOptions) (*Service, error) {
	bin, err := exec.LookPath("podman")
	if err != nil {
		return nil, &Error{PodmanMissing, "podman is not installed: " + podmanHelp, err}
	}
	dir := filepath.Dir(opts.Socket)
	opts.complete(dir)
	for _, d := range []string{dir, opts.TmpDir} {
		if d == "" {
			continue
		}
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, &Error{PodmanFailed, "make podman's directory " + d, err}
		}
	}
	// Podman binds it anew; one that is left over would be in its way.
	if err := os.Remove(opts.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, &Error{PodmanFailed, "remove the earlier socket of podman", err}
	}
	s := &Service{cmd: exec.Command(bin, opts.args()...), ended: make(chan struct{}), socket: opts.Socket} //nolint:gosec // paths of the operator
	s.cmd.Stdout, s.cmd.Stderr = opts.Output, opts.Output
	s.cmd.Env = os.Environ()
	if opts.TmpDir != "" {
		s.cmd.Env = append(s.cmd.Env, "TMPDIR="+opts.TmpDir)
	}
	if opts.Config != "" {
		s.cmd.Env = append(s.cmd.Env, "CONTAINERS_CONF="+opts.Config)
	}
	// A signal from a terminal to us is not for Podman; our end is, however it
	// comes: one more service would be left by each crash.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	s.cmd.WaitDelay = time.Second
	if err := s.start(); err != nil {
		return nil, &Error{PodmanMissing, "start podman", err}
	}
	if err := s.ready(ctx); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Service) start() error {
	started := make(chan error)
	go func() {
		// The signal is sent when the starting thread ends: it stays here until
		// the service has.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := s.cmd.Start()
		started <- err
		if err == nil {
			s.err = s.cmd.Wait()
			close(s.ended)
		}
	}()
	return <-started
}

func (o *ServiceOptions) complete(dir string) {
	if o.Root == "" {
		return
	}
	if o.RunRoot == "" {
		o.RunRoot = filepath.Join(dir, "run")
	}
	if o.TmpDir == "" {
		o.TmpDir = filepath.Join(dir, "tmp")
	}
}

func (o *ServiceOptions) args() []string {
	var args []string
	if o.Root != "" {
		args = []string{"--root", o.Root, "--runroot", o.RunRoot, "--tmpdir", o.TmpDir}
	}
	return append(args, "system", "service", "--time=0", "unix://"+o.Socket)
}

// ready waits for the first answer.
func (s *Service) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		c, err := dial(ctx, s.socket)
		if err == nil {
			c.http.CloseIdleConnections()
			return nil
		}
		if ReasonOf(err) == PodmanUnsupported {
			return err
		}
		select {
		case <-s.ended:
			return &Error{PodmanFailed, "podman's service ended at once", s.err}
		case <-ctx.Done():
			return &Error{PodmanTimeout, "wait for podman's service", err}
		case <-time.After(pollTime):
		}
	}
}

// Ended is closed when the service ended, by itself or by Close.
func (s *Service) Ended() <-chan struct{} { return s.ended }

// Close ends the service. It may be called again.
func (s *Service) Close() error {
	select {
	case <-s.ended:
		return nil
	default:
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.ended:
	case <-time.After(5 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.ended
	}
	if err := os.Remove(s.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove podman's socket: %w", err)
	}
	return nil
}
