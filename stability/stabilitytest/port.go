package stabilitytest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"
)

// Ports are given in blocks to processes. They lie below those that a system gives to
// connections by itself, as Linux does from 32768 on.
const (
	firstPort     = 20000
	blocks        = 120
	portsPerBlock = 100
)

var ports struct {
	sync.Mutex
	block net.Listener // at the first port of this process' block, for as long as it lives
	first int
	given int
}

// FreePort is a TCP port that nobody listens at, for a process that must be told
// its port before it listens. No other process is given it for as long as this one
// lives, which goes around its 99 ports. Whoever can listen at port 0 need not ask.
func FreePort() (port string, err error) {
	ports.Lock()
	defer ports.Unlock()
	for tries := 0; ports.block == nil; tries++ {
		ports.first = firstPort + portsPerBlock*rand.N(blocks)
		ports.block, err = net.Listen("tcp", ":"+strconv.Itoa(ports.first))
		if err != nil && tries == 10*blocks {
			return "", fmt.Errorf("stabilitytest: looking for free ports: %w", err)
		}
	}
	for range portsPerBlock {
		ports.given++
		port = strconv.Itoa(ports.first + 1 + ports.given%(portsPerBlock-1))
		// Not by listening there: a process that is started meanwhile would listen, too.
		c, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", port), 100*time.Millisecond)
		if err != nil {
			return port, nil
		}
		_ = c.Close()
	}
	return "", fmt.Errorf("stabilitytest: all ports of %d to %d are taken", ports.first, ports.first+portsPerBlock-1)
}
