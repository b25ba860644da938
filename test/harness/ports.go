package harness

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
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

var taken struct {
	sync.Mutex
	ports map[int]bool
}

// FreePorts returns n TCP ports of the loopback address that were free a
// moment ago. It gives none out twice.
func FreePorts(n int) ([]int, error) {
	taken.Lock()
	defer taken.Unlock()
	if taken.ports == nil {
		taken.ports = map[int]bool{}
	}
	var ports []int
	for range portTries {
		if len(ports) == n {
			return ports, nil
		}
		port := lowestPort + rand.IntN(highestPort-lowestPort)
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
