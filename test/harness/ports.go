package harness

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Ports are taken below the range from which the kernel gives ports to
// outgoing connections (32768 and up, unless configured otherwise): a process
// that is killed and started again must find its port free.
const (
	lowestPort  = 10240
	highestPort = 32000
	portTries   = 1000

	throughAfter = time.Second // a call on loopback takes microseconds
)

// The range is shared out among test processes: a port that one of them has found
// free must not be taken by another before it is listened on.
const slots = 8

var taken struct {
	sync.Mutex
	ports  map[int]bool
	lowest int
	count  int
	file   *os.File // its lock lasts as long as the process
}

// takeSlot takes a part of the range that no other process has, or the whole of
// it when all are taken.
func takeSlot() {
	taken.ports, taken.lowest, taken.count = map[int]bool{}, lowestPort, highestPort-lowestPort
	for slot := range slots {
		name := filepath.Join(os.TempDir(), fmt.Sprintf("telemark-ports-%d.lock", slot))
		file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			continue
		}
		if syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
			_ = file.Close()
			continue
		}
		taken.file = file
		taken.count /= slots
		taken.lowest += slot * taken.count
		return
	}
}

// FreePorts returns n TCP ports of the loopback address that were free a
// moment ago. It gives none out twice.
func FreePorts(n int) ([]int, error) {
	taken.Lock()
	defer taken.Unlock()
	if taken.ports == nil {
		takeSlot()
	}
	var ports []int
	for range portTries {
		if len(ports) == n {
			return ports, nil
		}
		port := taken.lowest + rand.IntN(taken.count)
		if taken.ports[port] {
			continue
		}
		if !free(port) {
			continue
		}
		taken.ports[port] = true
		ports = append(ports, port)
	}
	return nil, errors.New("no free ports were found")
}

// free tells whether a port can be listened on, and whether who calls it then is
// put through: a rule of the firewall may lead elsewhere, as those of a container do
// that published the port, and after it was killed.
func free(port int) bool {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return false
	}
	defer func() { _ = l.Close() }()
	out, err := net.DialTimeout("tcp", l.Addr().String(), throughAfter)
	if err != nil {
		return false
	}
	defer func() { _ = out.Close() }()
	_ = l.(*net.TCPListener).SetDeadline(time.Now().Add(throughAfter))
	in, err := l.Accept()
	if err != nil {
		return false
	}
	defer func() { _ = in.Close() }()
	return in.RemoteAddr().String() == out.LocalAddr().String()
}
