package wasim

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// memBuffer is how much one direction of an in-memory connection holds, like
// a socket's send buffer. net.Pipe holds nothing, so that a TLS close or a
// failing handshake blocks both of its ends for ever.
const memBuffer = 64 << 10

// memPipe returns the two ends of an in-memory connection that behaves like
// TCP: buffered, half-closable, with deadlines, FIN and RST.
func memPipe(client, server net.Addr) (*memConn, *memConn) {
	up, down := newHalf(), newHalf()
	c := &memConn{in: down, out: up, local: client, remote: server}
	s := &memConn{in: up, out: down, local: server, remote: client}
	return c, s
}

// half is one direction.
type half struct {
	mu       sync.Mutex
	cond     sync.Cond
	buf      []byte
	fin      bool // the writer is done: the reader gets what is left, then EOF
	readDone bool // the reader is done: writes fail
	rst      bool // both fail at once, what was buffered is lost
	readBy   deadline
	writeBy  deadline
	rclosed  bool // closed by the reader itself
	wclosed  bool // closed by the writer itself
	capacity int
}

type deadline struct {
	at    time.Time
	timer *time.Timer
}

func newHalf() *half {
	h := &half{capacity: memBuffer}
	h.cond.L = &h.mu
	return h
}

func (h *half) set(d *deadline, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = t
	// A time that has passed needs no timer. (One of no length runs in a bubble at once,
	// beside the bubble's others, and crashes the race detector.)
	if left := time.Until(t); !t.IsZero() && left > 0 {
		d.timer = time.AfterFunc(left, func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.cond.Broadcast()
		})
	}
	h.cond.Broadcast()
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
	}
}

func (h *half) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.rclosed:
			return 0, net.ErrClosed
		case h.rst:
			return 0, os.NewSyscallError("read", syscall.ECONNRESET)
		case h.readBy.passed():
			return 0, os.ErrDeadlineExceeded
		case len(h.buf) > 0:
			n := copy(p, h.buf)
			if h.buf = h.buf[n:]; len(h.buf) == 0 {
				h.buf = nil
			}
			h.cond.Broadcast()
			return n, nil
		case h.fin:
			return 0, io.EOF
		case len(p) == 0:
			return 0, nil
		}
		h.cond.Wait()
	}
}

func (h *half) write(p []byte) (n int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.wclosed:
			return n, net.ErrClosed
		case h.rst:
			return n, os.NewSyscallError("write", syscall.ECONNRESET)
		case h.fin, h.readDone:
			return n, os.NewSyscallError("write", syscall.EPIPE)
		case h.writeBy.passed():
			return n, os.ErrDeadlineExceeded
		case len(p) == 0:
			return n, nil
		}
		if room := h.capacity - len(h.buf); room > 0 {
			k := min(room, len(p))
			h.buf = append(h.buf, p[:k]...)
			p, n = p[k:], n+k
			h.cond.Broadcast()
			continue
		}
		h.cond.Wait()
	}
}

func (h *half) update(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
	h.cond.Broadcast()
}

// memConn is one end. It has what tests and dialers use of *net.TCPConn:
// CloseWrite, SetLinger, SetKeepAlive and the deadlines.
type memConn struct {
	in, out       *half
	local, remote net.Addr
	mu            sync.Mutex
	linger0       bool
	closed        bool
}

func (c *memConn) opErr(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: "wasim", Source: c.local, Addr: c.remote, Err: err}
}

func (c *memConn) Read(p []byte) (int, error) {
	n, err := c.in.read(p)
	return n, c.opErr("read", err)
}

func (c *memConn) Write(p []byte) (int, error) {
	n, err := c.out.write(p)
	return n, c.opErr("write", err)
}

// Close sends FIN behind what was written; after SetLinger(0) it sends RST
// and what was written is lost.
func (c *memConn) Close() error {
	c.mu.Lock()
	rst := c.linger0
	if c.closed {
		c.mu.Unlock()
		return c.opErr("close", net.ErrClosed)
	}
	c.closed = true
	c.mu.Unlock()
	c.out.update(func() {
		c.out.fin, c.out.wclosed = true, true
		c.out.writeBy.stop()
		if rst {
			c.out.rst, c.out.buf = true, nil
		}
	})
	c.in.update(func() {
		c.in.readDone, c.in.rclosed, c.in.buf = true, true, nil
		c.in.readBy.stop()
		c.in.rst = c.in.rst || rst
	})
	return nil
}

// CloseWrite sends FIN; reading goes on.
func (c *memConn) CloseWrite() error {
	c.out.update(func() { c.out.fin, c.out.wclosed = true, true })
	return nil
}

// SetLinger(0) makes Close reset the connection, as on TCP.
func (c *memConn) SetLinger(sec int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.linger0 = sec == 0
	return nil
}

func (c *memConn) SetKeepAlive(bool) error                        { return nil }
func (c *memConn) SetKeepAlivePeriod(time.Duration) error         { return nil }
func (c *memConn) SetKeepAliveConfig(_ net.KeepAliveConfig) error { return nil }
func (c *memConn) SetNoDelay(bool) error                          { return nil }

func (c *memConn) LocalAddr() net.Addr  { return c.local }
func (c *memConn) RemoteAddr() net.Addr { return c.remote }

func (c *memConn) SetDeadline(t time.Time) error {
	c.in.set(&c.in.readBy, t)
	c.out.set(&c.out.writeBy, t)
	return nil
}

func (c *memConn) SetReadDeadline(t time.Time) error {
	c.in.set(&c.in.readBy, t)
	return nil
}

func (c *memConn) SetWriteDeadline(t time.Time) error {
	c.out.set(&c.out.writeBy, t)
	return nil
}

// memAddr is the address of an in-memory end.
type memAddr string

func (memAddr) Network() string  { return "wasim" }
func (a memAddr) String() string { return string(a) }
