package wasim

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// link wraps the raw server side of a connection, under TLS, and gives what
// can go wrong with a line: a black hole, a slow line, FIN and RST. It counts
// bytes on the way.
type link struct {
	net.Conn
	in, out atomic.Int64

	mu      sync.Mutex
	hole    chan struct{} // closed when the black hole is healed; nil: none
	rate    int           // bytes per second in each direction; 0: unlimited
	latency time.Duration // added to each read and write

	peeked []byte // read before TLS, to be read again; only used before TLS starts
	done   chan struct{}
	once   sync.Once
}

func newLink(raw net.Conn) *link { return &link{Conn: raw, done: make(chan struct{})} }

func (l *link) Read(p []byte) (int, error) {
	if len(l.peeked) > 0 && len(p) > 0 {
		n := copy(p, l.peeked)
		l.peeked = l.peeked[n:]
		l.in.Add(int64(n))
		return n, nil
	}
	n, err := l.Conn.Read(p)
	l.in.Add(int64(n))
	l.pass(n) // what arrived inside a black hole is seen when it is healed
	return n, err
}

func (l *link) Write(p []byte) (int, error) {
	l.pass(len(p))
	n, err := l.Conn.Write(p)
	l.out.Add(int64(n))
	return n, err
}

// pass waits while the link is a black hole, then for as long as n bytes
// take. Closing the link ends the wait.
func (l *link) pass(n int) {
	for {
		l.mu.Lock()
		hole, wait := l.hole, l.latency
		if l.rate > 0 {
			wait += time.Duration(n) * time.Second / time.Duration(l.rate)
		}
		l.mu.Unlock()
		if hole == nil {
			l.sleep(wait)
			return
		}
		select {
		case <-hole:
		case <-l.done:
			return
		}
	}
}

func (l *link) sleep(d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-l.done:
	}
}

// blackHole stops all bytes in both directions while the connection stays up.
func (l *link) blackHole() (heal func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hole == nil {
		l.hole = make(chan struct{})
	}
	hole := l.hole
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.hole == hole {
			close(hole)
			l.hole = nil
		}
	}
}

func (l *link) slow(rate int, latency time.Duration) (heal func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rate, l.latency = rate, latency
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.rate, l.latency = 0, 0
	}
}

// Close closes both directions at once.
func (l *link) Close() error {
	err := net.ErrClosed
	l.once.Do(func() {
		close(l.done)
		err = l.Conn.Close()
	})
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// fin ends our direction as TCP does: the peer reads what was sent, then EOF.
func (l *link) fin() {
	if hc, ok := l.Conn.(interface{ CloseWrite() error }); ok {
		_ = hc.CloseWrite()
		return
	}
	_ = l.Close()
}

// reset drops the connection: the peer's next read and write fail.
func (l *link) reset() {
	if lc, ok := l.Conn.(interface{ SetLinger(int) error }); ok {
		_ = lc.SetLinger(0)
	}
	_ = l.Close()
}
