package storage

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// killOrphans ends every gocryptfs that serves cipher at point, and returns how
// many. The caller holds the lock on STORAGE_PATH, so no other identityd watches
// over them: two that write to one cipher directory destroy it.
func killOrphans(cipher, point string) (int, error) {
	found := 0
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		alive, err := orphans(cipher, point)
		if err != nil {
			return found, because(RecoverFailed, err, "look for gocryptfs")
		}
		if len(alive) == 0 {
			return found, nil
		}
		found = max(found, len(alive))
		if time.Now().After(deadline) {
			return found, refuse(RecoverFailed, "gocryptfs (%d) from before does not end", alive[0])
		}
		for _, pid := range alive {
			p, err := os.FindProcess(pid)
			if err != nil {
				continue
			}
			if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
				return found, because(RecoverFailed, err, "end gocryptfs (%d)", pid)
			}
			_ = p.Release()
		}
	}
}

func orphans(cipher, point string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// Empty for a process that has ended and was not waited for.
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && serves(line, cipher, point) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// serves reports whether a command line (arguments, each with a NUL) is of a
// gocryptfs for these directories.
func serves(line []byte, cipher, point string) bool {
	args := bytes.Split(bytes.TrimSuffix(line, []byte{0}), []byte{0})
	n := len(args)
	return n >= 3 && filepath.Base(string(args[0])) == "gocryptfs" &&
		slices.Equal([]string{string(args[n-2]), string(args[n-1])}, []string{cipher, point})
}
