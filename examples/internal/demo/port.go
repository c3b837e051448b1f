package demo

import (
	"fmt"
	"math/rand/v2"
	"net"
)

// FreePort is a port for a replica's admin page that nobody listens at. It lies below
// those that a system gives to connections by itself, as Linux does from 32768 on: one
// of them could have it before the replica does.
func FreePort() (port string, err error) {
	for range 100 {
		port = fmt.Sprint(20000 + rand.N(12000))
		var l net.Listener
		if l, err = net.Listen("tcp", ":"+port); err == nil {
			return port, l.Close()
		}
	}
	return "", fmt.Errorf("looking for a free port: %w", err)
}
