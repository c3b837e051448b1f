package link

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.mau.fi/whatsmeow"
	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/types"
)

const pollInterval = time.Millisecond

// End runs the whole procedure of the package documentation and returns when
// the client may be used again. It is idempotent; concurrent calls wait for
// the same run. Never call it from a whatsmeow handler: it waits for them.
//
// ctx bounds it, for a stuck handler can make the drain long. When ctx ends
// first, End returns an error, the connection is cut all the same, and the
// client must not be used again unless a later End succeeds.
func (c *Conn) End(ctx context.Context) error {
	c.Cut(ErrEnded) // step 1, whoever is running the rest
	select {
	case c.endSem <- struct{}{}:
		defer func() { <-c.endSem }()
	case <-ctx.Done():
		return fmt.Errorf("link: ending connection %d: %w", c.gen, context.Cause(ctx))
	}
	if c.ended.Load() {
		return nil
	}
	alone := c.l.beginEnd(c)
	defer c.l.lookOnceMore()
	defer c.l.finishEnd(c)
	if err := c.end(ctx, alone); err != nil {
		return fmt.Errorf("link: ending connection %d: %w", c.gen, err)
	}
	c.ended.Store(true)
	return nil
}

// beginEnd keeps further dials away; alone is false if there is a newer
// attempt already (the host connected without ending this one), whose socket
// is not ours to touch.
func (l *Link) beginEnd(c *Conn) (alone bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current != c {
		return false
	}
	l.ending = c
	return true
}

func (l *Link) finishEnd(c *Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ending == c {
		l.ending = nil
	}
}

func (c *Conn) end(ctx context.Context, alone bool) error {
	// 2. The one who connects holds the socket lock.
	select {
	case <-c.outcome:
	case <-ctx.Done():
		return fmt.Errorf("waiting for connect to return: %w", context.Cause(ctx))
	}
	c.mu.Lock()
	b, established := c.body, c.established
	c.mu.Unlock()

	// 3.
	if b != nil {
		if err := b.pumpEnded(ctx); err != nil {
			return fmt.Errorf("waiting for the read pump: %w", err)
		}
	}
	clean := established && alone
	if clean {
		if c.isForeign() { // there is no raw connection whose end would do it
			select {
			case <-c.parted:
			case <-ctx.Done():
				return fmt.Errorf("waiting for whatsmeow to disconnect: %w", context.Cause(ctx))
			}
		}
		// 4. and 5.
		if err := c.l.awaitDisconnected(ctx); err != nil {
			return fmt.Errorf("waiting for whatsmeow to disconnect: %w", err)
		}
		c.l.client.Disconnect()
	}
	// 6.
	if c.cancelConn != nil {
		c.cancelConn()
	}
	if clean {
		// 7.
		if err := c.l.drain(ctx, c); err != nil {
			return fmt.Errorf("draining the queue: %w", err)
		}
	}
	return nil
}

// awaitDisconnected polls until the client has no socket.
func (l *Link) awaitDisconnected(ctx context.Context) error {
	for {
		if errors.Is(l.lookAtSocket(), whatsmeow.ErrNotConnected) {
			return nil
		}
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// lookAtSocket is a send with a dead context. It looks at the socket under its
// lock, which nobody holds for long now, and touches nothing unsynchronised, as
// IsConnected would.
func (l *Link) lookAtSocket() error {
	n := l.inside.nodes
	if n == nil {
		return lookAtSocket(l.client)
	}
	dead, cancel := context.WithCancel(context.Background())
	cancel()
	return n.SendNode(dead, waBinary.Node{Tag: "link-check"})
}

// lookAtSocket is a send with a dead context by a call that every version of
// whatsmeow has: a receipt for a newsletter, which needs no query before it.
func lookAtSocket(c *whatsmeow.Client) error {
	dead, cancel := context.WithCancel(context.Background())
	cancel()
	return c.MarkRead(dead, []types.MessageID{"link-check"}, time.Now(), types.NewJID("0", types.NewsletterServer), types.EmptyJID)
}
