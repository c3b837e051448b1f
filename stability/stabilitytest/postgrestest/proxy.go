package postgrestest

import (
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Proxy is a way to a server that has a length: it delays what goes over it, and
// counts round trips. Safe for concurrent use.
type Proxy struct {
	listener net.Listener
	target   string
	oneWay   atomic.Int64 // ns
	trips    atomic.Int64
	open     atomic.Int64
	most     atomic.Int64

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	over  bool
	wg    sync.WaitGroup
}

// NewProxy opens a way to a server's Addr. The test's end closes it, and every
// connection over it.
func NewProxy(t testing.TB, addr string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: l, target: addr, conns: make(map[net.Conn]struct{})}
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
		p.mu.Lock()
		p.over = true
		for c := range p.conns {
			_ = c.Close()
		}
		p.mu.Unlock()
		p.wg.Wait()
	})
	return p
}

// DSN is a connection string for the superuser, over the proxy and without TLS,
// which would hide what is counted.
func (p *Proxy) DSN() string {
	return "postgres://postgres@" + p.listener.Addr().String() + "/postgres?sslmode=disable"
}

// SetRoundTrip sets how long a question and its answer are on the way.
func (p *Proxy) SetRoundTrip(d time.Duration) { p.oneWay.Store(int64(d / 2)) }

// Trips counts the answers that the server has finished, each of which a client
// may have waited for. The beginning of a connection is not counted.
func (p *Proxy) Trips() int { return int(p.trips.Load()) }

// MostConnections is how many were open at once, at most, since the last call.
func (p *Proxy) MostConnections() int { return int(p.most.Swap(p.open.Load())) }

// keep notes c, so that the end of the test closes it.
func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over {
		p.conns[c] = struct{}{}
	}
	return !p.over
}

func (p *Proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	_ = c.Close()
}

func (p *Proxy) carry(client net.Conn) {
	defer p.drop(client)
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer p.drop(server)
	if !p.keep(client) || !p.keep(server) {
		return
	}
	for n := p.open.Add(1); ; {
		most := p.most.Load()
		if n <= most || p.most.CompareAndSwap(most, n) {
			break
		}
	}
	defer p.open.Add(-1)
	var both sync.WaitGroup
	both.Go(func() { p.pass(server, client, nil) })
	both.Go(func() { p.pass(client, server, &answers{trips: &p.trips}) })
	both.Wait()
}

// pass sends on what it reads, later. It ends both ways when one has ended.
func (p *Proxy) pass(dst, src net.Conn, count *answers) {
	type piece struct {
		due time.Time
		b   []byte
	}
	way := make(chan piece, 1024)
	var read sync.WaitGroup
	read.Go(func() {
		defer close(way)
		for {
			buf := make([]byte, 32<<10)
			n, err := src.Read(buf)
			if n > 0 {
				if count != nil {
					count.see(buf[:n])
				}
				way <- piece{time.Now().Add(time.Duration(p.oneWay.Load())), buf[:n]}
			}
			if err != nil {
				return
			}
		}
	})
	for next := range way {
		time.Sleep(time.Until(next.due))
		if _, err := dst.Write(next.b); err != nil {
			break
		}
	}
	_ = src.Close()
	_ = dst.Close()
	for range way {
	}
	read.Wait()
}

// answers finds in a server's stream where an answer is finished: ReadyForQuery,
// a message of type 'Z'. The first one ends the beginning of the connection.
type answers struct {
	trips *atomic.Int64
	begun bool
	head  []byte // of a message, as far as it has come
	skip  int    // bytes of its body that are still to come
}

func (a *answers) see(b []byte) {
	for len(b) > 0 {
		if a.skip > 0 {
			n := min(a.skip, len(b))
			a.skip -= n
			b = b[n:]
			continue
		}
		a.head = append(a.head, b[0])
		b = b[1:]
		if len(a.head) < 5 {
			continue
		}
		if a.head[0] == 'Z' {
			if a.begun {
				a.trips.Add(1)
			}
			a.begun = true
		}
		a.skip = int(binary.BigEndian.Uint32(a.head[1:])) - 4
		a.head = a.head[:0]
	}
}
