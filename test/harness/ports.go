package harness

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// Ports are taken below the range from which the kernel gives ports to
// outgoing connections (32768 and up, unless configured otherwise): a process
// that is killed and started again must find its port free.
const (
	lowestPort  = 10240
	highestPort = 32000
	portTries   = 1000
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
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		_ = l.Close()
		taken.ports[port] = true
		ports = append(ports, port)
	}
	return nil, errors.New("no free ports were found")
}
