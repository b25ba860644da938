package podmantest

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// Podmans of several processes write one set of iptables chains and do not wait
// for one another: a port is then published that leads nowhere. So one process at
// a time has installations; within it tests are in each other's sight.
var turn struct {
	sync.Mutex
	users int
	file  *os.File
}

// take waits for this process's turn, and keeps it until the last give.
func take() error {
	turn.Lock()
	defer turn.Unlock()
	if turn.users == 0 {
		file, err := os.OpenFile(filepath.Join(os.TempDir(), "telemark-podmantest.lock"), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		for {
			err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX)
			if !errors.Is(err, syscall.EINTR) {
				break
			}
		}
		if err != nil {
			return errors.Join(err, file.Close())
		}
		turn.file = file
	}
	turn.users++
	return nil
}

// give lets go; the end of the process does too.
func give() error {
	turn.Lock()
	defer turn.Unlock()
	turn.users--
	if turn.users > 0 {
		return nil
	}
	err := turn.file.Close()
	turn.file = nil
	return err
}
