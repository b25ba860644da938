package workload

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

const kill = unix.SIGKILL

var errEnded = errors.New("the process has ended")

// Signal sends a signal to the process and its group.
func (p *Process) Signal(ctx context.Context, s unix.Signal) error {
	err := p.signal(ctx, s)
	if errors.Is(err, errEnded) {
		return nil
	}
	return err
}

// signal goes around Podman, whose API cannot signal such a process. The
// process id may have been given to somebody else since Podman wrote it down;
// so it is pinned by a pidfd, and Podman asked again: if it says that the
// process runs now, then the pidfd is of that process. The runtime makes it the
// leader of a session and a group of its own.
func (p *Process) signal(ctx context.Context, s unix.Signal) error {
	for {
		now, err := p.inspect(ctx)
		if notFound(err) {
			return errEnded
		}
		if err != nil {
			return err
		}
		if !now.Running {
			return errEnded
		}
		if now.Pid > 1 {
			return p.signalPid(ctx, now.Pid, s)
		}
		// Between start and the note of its id.
		select {
		case <-ctx.Done():
			return &Error{PodmanTimeout, "find a process in the container", ctx.Err()}
		case <-time.After(pollTime):
		}
	}
}

func (p *Process) signalPid(ctx context.Context, pid int, s unix.Signal) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return errEnded
	}
	if err != nil {
		return &Error{PodmanFailed, "open a process in the container", err}
	}
	defer func() { _ = unix.Close(fd) }()
	now, err := p.inspect(ctx)
	if err != nil {
		return err
	}
	if !now.Running || now.Pid != pid {
		return errEnded
	}
	// While the leader is there, the group's number is its own.
	if unix.PidfdSendSignal(fd, 0, nil, 0) == nil {
		if group, err := unix.Getpgid(pid); err == nil && group == pid {
			_ = unix.Kill(-pid, s)
		}
	}
	if err := unix.PidfdSendSignal(fd, s, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return &Error{PodmanFailed, "signal a process in the container", err}
	}
	return nil
}
