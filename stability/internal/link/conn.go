package link

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Conn is one attempt and, if it succeeds, one connection. Safe for
// concurrent use.
type Conn struct {
	l     *Link
	gen   uint64
	owned bool // begun by Link.Connect
	start time.Time

	dialCtx    context.Context // ends with the cut
	cancelDial context.CancelCauseFunc
	cancelConn context.CancelFunc // of the context given to ConnectContext; nil unless owned

	down    chan struct{} // closed when the raw connection is dead
	outcome chan struct{} // closed when whatsmeow's connect is known to be over
	endSem  chan struct{} // semaphore: one End at a time

	lastRead atomic.Int64 // since start; 0 = never
	read     atomic.Uint64
	written  atomic.Uint64
	upgraded atomic.Bool
	ended    atomic.Bool
	work     work
	proxy    proxied

	mu          sync.Mutex // never held across I/O or a callback
	dialed      bool       // a RoundTrip was seen
	cause       error      // why it is down; nil = not down
	raw         *rawConn
	body        *body
	foreign     bool          // made past our dialer
	parted      chan struct{} // of a foreign one: closed when whatsmeow has disconnected
	settled     bool
	established bool // whatsmeow's connect succeeded
}

// newConn makes the connection of a new attempt. With mu held.
func (l *Link) newConn(owned bool) *Conn {
	l.gen++
	c := &Conn{
		l: l, gen: l.gen, owned: owned, start: time.Now(),
		down:    make(chan struct{}),
		outcome: make(chan struct{}),
		endSem:  make(chan struct{}, 1),
	}
	c.dialCtx, c.cancelDial = context.WithCancelCause(context.Background())
	return c
}

// Generation numbers the attempts of a Link, from 1.
func (c *Conn) Generation() uint64 { return c.gen }

// Owned reports whether the attempt was begun by Link.Connect, rather than by
// a Connect of the host's.
func (c *Conn) Owned() bool { return c.owned }

// Foreign reports whether the client made the connection past our dialer.
func (c *Conn) Foreign() bool { return c.isForeign() }

// Down is closed when the raw connection is known to be dead: a read failed,
// whatsmeow closed it, it was cut, or the attempt failed.
func (c *Conn) Down() <-chan struct{} { return c.down }

// Up reports whether the connection is upgraded to a websocket and not down.
func (c *Conn) Up() bool {
	if !c.upgraded.Load() {
		return false
	}
	select {
	case <-c.down:
		return false
	default:
		return true
	}
}

// Err is why the connection went down, nil while it is not: the raw error,
// the cause of the cut, or one of this package's errors.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// LastRead is when bytes last arrived; zero if never. It carries a monotonic
// clock reading.
func (c *Conn) LastRead() time.Time {
	if d := c.lastRead.Load(); d != 0 {
		return c.start.Add(time.Duration(d))
	}
	return time.Time{}
}

// BytesRead counts the bytes that arrived on the raw connection, TLS included.
func (c *Conn) BytesRead() uint64 { return c.read.Load() }

// BytesWritten counts the bytes handed to the raw connection, TLS included.
func (c *Conn) BytesWritten() uint64 { return c.written.Load() }

// Cut cuts the connection: when it returns nothing more goes out. It is
// idempotent, does not wait for the network, and may be called from anywhere,
// whatsmeow's handlers and store calls included. It is step 1 of End; the
// client may not be used again before End.
func (c *Conn) Cut(cause error) {
	if cause == nil {
		cause = ErrCut
	}
	if raw := c.shut(cause); raw != nil {
		<-raw.idle
	}
}

// shut puts the connection down, once; every call returns when that is done.
// It does not wait for a Write in progress, which its callers may be behind.
func (c *Conn) shut(cause error) *rawConn {
	c.mu.Lock()
	first := c.cause == nil
	if first {
		c.cause = cause
	}
	raw, foreign := c.raw, c.foreign
	c.mu.Unlock()
	if !first {
		<-c.down
		return raw
	}
	if foreign {
		go c.part()
	}
	c.cancelDial(cause)
	if raw != nil {
		raw.cut()
	}
	close(c.down)
	return raw
}

// adopt takes a fresh network connection, unless the attempt is down.
func (c *Conn) adopt(nc net.Conn) (*rawConn, error) {
	raw := &rawConn{Conn: nc, c: c, idle: make(chan struct{})}
	c.mu.Lock()
	err := c.cause
	if err == nil && c.raw != nil {
		err = errSecondDial
	}
	if err == nil {
		c.raw = raw
	}
	c.mu.Unlock()
	if err != nil {
		raw.cut()
		return nil, err
	}
	return raw, nil
}

// settle records the outcome of whatsmeow's connect, once.
func (c *Conn) settle(established bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.settled {
		return
	}
	c.settled, c.established = true, established
	if established {
		c.l.loops.expect()
	}
	close(c.outcome)
}

func (c *Conn) isDown() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// over reports whether the client may connect again as far as this
// connection is concerned.
func (c *Conn) over() bool {
	if c.ended.Load() {
		return true
	}
	// An attempt of the host's that failed left nothing behind.
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.owned && c.settled && !c.established
}
