package link

import (
	"context"
	"errors"
	"fmt"

	"go.mau.fi/whatsmeow"
)

// A foreign connection is one that the client made past our dialer: its proxy
// or HTTP client was set after Install. There is no raw connection to cut, so
// a cut asks whatsmeow to disconnect and does not wait for it; no fence stands
// in front of what is sent; a loss is known when whatsmeow says so.

const foreignEffect = "a connection did not go through this library's dialer, so no fence stands in front of it, " +
	"a cut takes effect late, and a loss is noticed late: pass proxies to WithTransport, not to the client"

// adoptForeign takes care of a connection that the dialer has not seen.
func (l *Link) adoptForeign(c *Conn) {
	c.mu.Lock()
	c.foreign, c.parted = true, make(chan struct{})
	down := c.cause != nil
	c.mu.Unlock()
	l.report(Dialer, foreignEffect)
	if down { // cut while it was being made
		go c.part()
		return
	}
	c.upgraded.Store(true)
	l.mu.Lock()
	l.current = c
	callbacks := l.onConn
	l.mu.Unlock()
	for _, f := range callbacks {
		f(c)
	}
}

// lookForForeign is called when the client says that it is connected. A host
// that connected by itself, past our dialer, is found out here. The client is
// not asked: it may be in the middle of a Disconnect, which holds its locks.
func (l *Link) lookForForeign() {
	l.mu.Lock()
	known := l.pending != nil || l.ending != nil || l.current != nil && !isClosed(l.current.down)
	l.lookAgain = l.ending != nil
	l.mu.Unlock()
	if known || !l.bypassed() {
		return
	}
	l.mu.Lock()
	c := l.newConn(false)
	l.mu.Unlock()
	c.settle(true)
	l.adoptForeign(c)
}

// lookOnceMore is lookForForeign for a client that said so while an earlier
// connection was being ended.
func (l *Link) lookOnceMore() {
	l.mu.Lock()
	again := l.lookAgain && l.ending == nil
	l.lookAgain = l.lookAgain && !again
	l.mu.Unlock()
	if again && l.bypassed() && !errors.Is(l.lookAtSocket(), whatsmeow.ErrNotConnected) {
		l.lookForForeign()
	}
}

// Abandon ends a connection past our dialer of a client that is given up.
// Nobody has seen it, because the host removed our event handler. The account
// has another client next, and each would end the other's connection. An
// attempt that is on its way, or a Disconnect, may hold the client's locks for
// longer than ctx: that is an error, and it is ended behind that all the same.
func (l *Link) Abandon(ctx context.Context) error {
	if !l.bypassed() {
		return nil
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if !errors.Is(l.lookAtSocket(), whatsmeow.ErrNotConnected) {
			l.client.Disconnect()
		}
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("link: ending a connection past the dialer: %w", context.Cause(ctx))
	}
}

// strangerConnected reports whether a client that says that it is connected is so
// by a way that nobody has seen.
func (l *Link) strangerConnected() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current == nil || isClosed(l.current.down)
}

// lost notes that whatsmeow said that its connection is gone.
func (l *Link) lost() {
	if c := l.Current(); c != nil && c.isForeign() {
		c.shut(ErrClosed)
	}
}

// part asks whatsmeow to disconnect, once: while one Disconnect waits for the
// other side, a second would wait for its lock.
func (c *Conn) part() {
	c.l.client.Disconnect()
	close(c.parted)
}

func (c *Conn) isForeign() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.foreign
}

// unseen reports whether the dialer has not seen the attempt.
func (c *Conn) unseen() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.dialed
}
