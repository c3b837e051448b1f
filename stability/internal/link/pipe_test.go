package link

import (
	"io"
	"net"
	"sync"
	"time"
)

// pipeConn is one end of an in-memory connection with a buffer, FIN and RST.
// Its waits are durable blocks in a bubble.
type pipeConn struct {
	in, out *pipeHalf
	linger0 bool // guarded by out.mu
}

type pipeHalf struct {
	mu     sync.Mutex
	cond   sync.Cond
	buf    []byte
	closed bool // by either side
	reset  bool
	taken  int // bytes that the reader got or could still get
}

func newPipe() (client, server *pipeConn) {
	a, b := &pipeHalf{}, &pipeHalf{}
	a.cond.L, b.cond.L = &a.mu, &b.mu
	return &pipeConn{in: a, out: b}, &pipeConn{in: b, out: a}
}

func (c *pipeConn) Read(p []byte) (int, error) {
	h := c.in
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.buf) == 0 && !h.closed {
		h.cond.Wait()
	}
	if h.reset || len(h.buf) == 0 {
		return 0, io.EOF
	}
	n := copy(p, h.buf)
	h.buf = h.buf[n:]
	h.cond.Broadcast()
	return n, nil
}

func (c *pipeConn) Write(p []byte) (n int, err error) {
	h := c.out
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(p) > 0 {
		for len(h.buf) >= 64<<10 && !h.closed {
			h.cond.Wait()
		}
		if h.closed {
			return n, io.ErrClosedPipe
		}
		k := min(len(p), 64<<10-len(h.buf))
		h.buf = append(h.buf, p[:k]...)
		h.taken += k
		p, n = p[k:], n+k
		h.cond.Broadcast()
	}
	return n, nil
}

func (c *pipeConn) Close() error {
	c.out.mu.Lock()
	reset := c.linger0
	c.out.mu.Unlock()
	for _, h := range []*pipeHalf{c.in, c.out} {
		h.mu.Lock()
		if !h.closed {
			h.closed = true
			if reset {
				h.reset = true
				h.taken -= len(h.buf)
				h.buf = nil
			}
		}
		h.cond.Broadcast()
		h.mu.Unlock()
	}
	return nil
}

func (c *pipeConn) SetLinger(sec int) error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.linger0 = sec == 0
	return nil
}

// received is what this end got from its peer or could still read.
func (c *pipeConn) received() int {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	return c.in.taken
}

func (c *pipeConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *pipeConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *pipeConn) SetDeadline(time.Time) error      { return nil }
func (c *pipeConn) SetReadDeadline(time.Time) error  { return nil }
func (c *pipeConn) SetWriteDeadline(time.Time) error { return nil }
