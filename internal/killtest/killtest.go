// Package killtest kills a process at its n-th durable write, for tests of what a
// crash leaves behind: with ptrace(2), so that the process is the real one and
// knows nothing of it. What counts are the calls of all its threads, and none of its
// children's, that change names on a disk: just before a rename, when everything
// that was to be done first is done, and just after one, when nothing of what
// follows is; and just after a name was made or removed. Syncs are not among them:
// what a killed process wrote is there. Linux only.
package killtest

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// renames count twice.
var renames = map[uint64]string{unix.SYS_RENAMEAT: "renameat", unix.SYS_RENAMEAT2: "renameat2"}

var others = map[uint64]string{unix.SYS_MKDIRAT: "mkdirat", unix.SYS_UNLINKAT: "unlinkat"}

// Process is one under observation.
type Process struct {
	Pid int

	ended chan struct{} // closed when it has ended
	state syscall.WaitStatus
	err   error // of watching it; read both once ended is closed

	mu     sync.Mutex
	writes []string // since Start or Arm
	at     int      // kill at this one; 0: never
	killed bool

	calls map[int]uint64 // of the tracer: the call that a thread is in
}

// Start starts cmd, to be killed at its durable write n, or never with 0. What
// is left of it is killed when the test ends.
func Start(tb testing.TB, cmd *exec.Cmd, n int) *Process {
	tb.Helper()
	p := &Process{ended: make(chan struct{}), at: n, calls: map[int]uint64{}}
	started := make(chan error)
	go p.watch(cmd, started)
	if err := <-started; err != nil {
		tb.Fatalf("start %s: %v", cmd.Path, err)
	}
	tb.Cleanup(func() {
		_ = syscall.Kill(p.Pid, syscall.SIGKILL)
		<-p.ended
		if p.err != nil {
			tb.Errorf("watch %s: %v", cmd.Path, p.err)
		}
	})
	return p
}

// Arm counts from now on, and kills the process at durable write n, or never with
// 0.
func (p *Process) Arm(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writes, p.at = nil, n
}

// Writes are the durable writes that were counted, in order; at the last one the
// process was killed, if it was.
func (p *Process) Writes() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.writes...)
}

// Killed reports whether the process was killed at its write.
func (p *Process) Killed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.killed
}

// Ended is closed when the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Wait waits for its end and returns the exit code, -1 for a signal.
func (p *Process) Wait() int {
	<-p.ended
	return p.state.ExitStatus()
}

// Signal sends it a signal.
func (p *Process) Signal(s syscall.Signal) error { return syscall.Kill(p.Pid, s) }

// watch is the tracer: the kernel knows it by its thread.
func (p *Process) watch(cmd *exec.Cmd, started chan<- error) {
	runtime.LockOSThread() // and never unlocked: the thread ends with this
	defer close(p.ended)
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	// In a group of its own: this thread may have started others before, which are
	// somebody else's to wait for.
	cmd.SysProcAttr.Ptrace, cmd.SysProcAttr.Setpgid = true, true
	if err := cmd.Start(); err != nil {
		started <- err
		return
	}
	p.Pid = cmd.Process.Pid
	defer cmd.Wait() //nolint:errcheck // waited for below; this ends the copying of its output
	err := p.begin()
	started <- err
	if err == nil {
		p.err = p.follow()
	}
}

func (p *Process) begin() error {
	var status syscall.WaitStatus
	if _, err := wait(p.Pid, &status); err != nil {
		return err
	}
	const options = unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_EXITKILL
	if err := syscall.PtraceSetOptions(p.Pid, options); err != nil {
		return fmt.Errorf("ptrace: %w", err)
	}
	return syscall.PtraceSyscall(p.Pid, 0)
}

// wait waits for tracees of this thread only.
func wait(pid int, status *syscall.WaitStatus) (int, error) {
	for {
		tid, err := syscall.Wait4(pid, status, unix.WALL|unix.WNOTHREAD, nil)
		if !errors.Is(err, syscall.EINTR) {
			return tid, err
		}
	}
}

const sysgood = syscall.SIGTRAP | 0x80

func (p *Process) follow() error {
	for {
		var status syscall.WaitStatus
		tid, err := wait(-p.Pid, &status)
		if err != nil {
			return err
		}
		if status.Exited() || status.Signaled() {
			if tid == p.Pid {
				p.state = status
				return nil
			}
			continue
		}
		pass := 0
		switch s := status.StopSignal(); s {
		case sysgood:
			p.call(tid)
		case syscall.SIGTRAP, syscall.SIGSTOP: // of a clone, and of a thread's beginning
		default:
			pass = int(s)
		}
		// ESRCH: killed meanwhile.
		if err := syscall.PtraceSyscall(tid, pass); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
}

// info is struct ptrace_syscall_info (ptrace(2)):
//
//	u8 op | 3 bytes | u32 arch | u64 instruction pointer | u64 stack pointer
//	entry: u64 number | u64 arguments[6]        exit: s64 result | u8 is error
type info struct {
	op     uint8
	_      [3]byte
	_      uint32
	_      [2]uint64
	number uint64
	error  uint8
	_      [47]byte
}

const (
	getSyscallInfo = 0x420e
	entry, exit    = 1, 2
)

func (p *Process) call(tid int) {
	var i info
	_, _, errno := syscall.Syscall6(syscall.SYS_PTRACE, getSyscallInfo, uintptr(tid), unsafe.Sizeof(i), uintptr(unsafe.Pointer(&i)), 0, 0) //nolint:gosec // how the kernel is given a place
	switch {
	case errno != 0:
	case i.op == entry:
		p.calls[tid] = i.number
		if name, is := renames[i.number]; is {
			p.write("before " + name)
		}
	case i.op == exit:
		number := p.calls[tid]
		name, is := renames[number]
		if !is {
			name, is = others[number]
		}
		if is && i.error == 0 {
			p.write("after " + name)
		}
	}
}

func (p *Process) write(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.killed {
		return
	}
	p.writes = append(p.writes, what)
	if len(p.writes) == p.at {
		p.killed = true
		_ = syscall.Kill(p.Pid, syscall.SIGKILL) // it stands still: nothing comes of what it was to do
	}
}
