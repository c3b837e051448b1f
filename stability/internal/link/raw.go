package link

import (
	"net"
	"sync"
	"time"
)

// rawConn is the network connection of one attempt, under TLS: it counts,
// asks the wire fence, and is what a cut ends.
type rawConn struct {
	net.Conn
	c *Conn

	mu      sync.Mutex // never held across I/O or a callback
	dead    bool
	writers int
	idle    chan struct{} // closed when dead and no Write is in progress
}

func (r *rawConn) Read(p []byte) (int, error) {
	if r.isDead() {
		return 0, r.downErr()
	}
	n, err := r.Conn.Read(p)
	if r.isDead() {
		return 0, r.downErr() // bytes that came in after the cut are nobody's
	}
	if n > 0 {
		r.c.read.Add(uint64(n))
		r.c.lastRead.Store(max(1, int64(time.Since(r.c.start))))
	}
	if err != nil && r.c.upgraded.Load() {
		r.c.shut(err) // before, net/http sees to it, and says more
	}
	return n, err
}

func (r *rawConn) Write(p []byte) (int, error) {
	if err := r.c.l.cfg.Gate(); err != nil {
		r.c.Cut(err)
		return 0, err
	}
	r.mu.Lock()
	if r.dead {
		r.mu.Unlock()
		return 0, r.downErr()
	}
	r.writers++
	r.mu.Unlock()

	// A failed Write does not put the connection down: the next Read fails
	// too, after it has returned what the server said before it went.
	n, err := r.Conn.Write(p)
	r.c.written.Add(uint64(max(0, n)))

	r.mu.Lock()
	r.writers--
	if r.dead && r.writers == 0 {
		close(r.idle)
	}
	r.mu.Unlock()
	return n, err
}

// Close is called by net/http, below whatsmeow.
func (r *rawConn) Close() error {
	if r.c.upgraded.Load() {
		r.c.shut(ErrClosed)
	} else {
		r.cut() // the attempt ends with net/http's error
	}
	return nil
}

// cut makes the connection dead; a Write in progress fails.
func (r *rawConn) cut() {
	r.mu.Lock()
	if !r.dead {
		r.dead = true
		if r.writers == 0 {
			close(r.idle)
		}
	}
	r.mu.Unlock()

	// Close the innermost connection first: closing a TLS connection would
	// send an alert.
	inner := innermost(r.Conn)
	if lc, ok := inner.(interface{ SetLinger(sec int) error }); ok {
		_ = lc.SetLinger(0) // else the kernel goes on sending what it has buffered
	}
	_ = inner.Close()
	if inner != r.Conn {
		_ = r.Conn.Close()
	}
}

func (r *rawConn) isDead() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dead
}

func (r *rawConn) downErr() error {
	if err := r.c.isDown(); err != nil {
		return err
	}
	return net.ErrClosed
}

func innermost(c net.Conn) net.Conn {
	for {
		w, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return c
		}
		n := w.NetConn()
		if n == nil {
			return c
		}
		c = n
	}
}
