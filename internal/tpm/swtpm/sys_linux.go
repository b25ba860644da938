package swtpm

import "syscall"

// childAttributes make the child end when the thread that started it does,
// with SIGTERM, so that swtpm finishes the command under way. The process
// group of its own keeps a terminal's ^C from it: the parent has last commands to send.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
}

func socketPair() ([2]int, error) {
	return syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
}
