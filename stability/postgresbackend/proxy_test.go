package postgresbackend

import (
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// proxy carries connections to a server, and cuts some of them: before a piece
// of a request or of an answer is passed on, or behind it.
type proxy struct {
	listener net.Listener
	target   string
	chance   float64       // of a cut, for each piece
	cuts     *atomic.Int64 // counts them
	wg       sync.WaitGroup
}

func newProxy(t *testing.T, target string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{listener: l, target: target}
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.carry(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

func (p *proxy) carry(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	done := make(chan struct{}, 2)
	pass := func(dst, src net.Conn) {
		defer func() { done <- struct{}{} }()
		buf := make([]byte, 32<<10)
		for {
			n, err := src.Read(buf)
			lose := rand.Float64() < p.chance
			if lose {
				p.cuts.Add(1)
			}
			if lose && rand.N(2) == 0 {
				return
			}
			if n > 0 {
				if _, err := dst.Write(buf[:n]); err != nil {
					return
				}
			}
			if err != nil || lose {
				return
			}
		}
	}
	go pass(server, client)
	go pass(client, server)
	<-done
	_ = client.Close()
	_ = server.Close()
	<-done
}
