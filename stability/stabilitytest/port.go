package stabilitytest

import (
	"fmt"
	"math/rand/v2"
	"net"
)

// FreePort is a TCP port that nobody listens at, for a process that must be told
// its port before it listens. It lies below those that a system gives to connections
// by itself, as Linux does from 32768 on: one of them could have it before the process
// does. Whoever can listen at port 0 need not ask.
func FreePort() (port string, err error) {
	for range 100 {
		port = fmt.Sprint(20000 + rand.N(12000))
		var l net.Listener
		if l, err = net.Listen("tcp", ":"+port); err == nil {
			return port, l.Close()
		}
	}
	return "", fmt.Errorf("stabilitytest: looking for a free port: %w", err)
}
