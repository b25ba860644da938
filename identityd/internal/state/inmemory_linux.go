package state

import (
	"os"
	"syscall"
)

// isInMemory reports whether a directory lies on a file system that has no disk
// (linux/magic.h).
func isInMemory(dir *os.File) (bool, error) {
	const tmpfs, ramfs = 0x01021994, 0x858458f6
	var s syscall.Statfs_t
	if err := syscall.Fstatfs(int(dir.Fd()), &s); err != nil {
		return false, os.NewSyscallError("fstatfs", err)
	}
	kind := uint32(s.Type)
	return kind == tmpfs || kind == ramfs, nil
}
