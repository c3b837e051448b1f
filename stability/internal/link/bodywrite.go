package link

import (
	"fmt"
	"time"
)

func (b *body) Write(p []byte) (int, error) {
	closeCode, lost := -1, b.sent.bad
	b.sent.scan(p, func(h frameHeader) {
		switch h.opcode {
		case opText, opBinary:
			b.frames++
		case opClose:
			closeCode = clientCloseCode(p, h)
		}
	})
	if b.sent.bad {
		b.frames++ // each frame is one write
		if !lost {
			b.c.l.report(Frames, strangeFrames)
		}
	}
	if b.frames >= 2 {
		b.finishing.Store(true)
	}
	b.mu.Lock()
	answers := b.echo // to a close of the server's; the answer to ours may overtake the return of the write
	b.mu.Unlock()
	n, err := b.rwc.Write(p)
	if err == nil && b.sent.skip == 0 && closeCode < 0 {
		b.progress()
	}
	if closeCode >= 0 {
		b.leave(closeCode, answers)
	}
	return n, err
}

// progress notes how far the handshake has come; a frame has just gone out.
func (b *body) progress() {
	switch {
	case b.frames == 1 && !isClosed(b.helloSent):
		limit := b.c.l.cfg.HelloTimeout
		b.mu.Lock()
		if !isClosed(b.closed) && !b.inTime { // the answer may overtake the return of the write
			b.timer = time.AfterFunc(limit, func() {
				if b.some.Load() {
					b.c.l.suspectFrames()
				}
				b.c.Cut(&timeoutError{"server hello", limit})
			})
		}
		b.mu.Unlock()
		close(b.helloSent)
	case b.frames >= 2 && !isClosed(b.finishSent):
		close(b.finishSent)
		b.endTrial(true)
		if !b.c.owned {
			go b.c.awaitHostConnect()
		}
	}
}

// awaitHostConnect waits until a connect of the host's has returned. Its
// client finish is out, so it holds the socket lock only as long as it takes
// to start two goroutines.
func (c *Conn) awaitHostConnect() {
	c.l.mu.Lock()
	client := c.l.client
	c.l.mu.Unlock()
	if in, ok := any(client.DangerousInternals()).(interface{ GetSocketWaitChan() <-chan struct{} }); ok {
		in.GetSocketWaitChan()
	} else {
		lookAtSocket(client) // takes the same lock
	}
	c.settle(true)
}

// leave puts the connection down after a close frame of the client's. The
// websocket would wait up to 5 s for the answer, holding the socket lock.
// answers: the server closed first.
func (b *body) leave(code int, answers bool) {
	switch {
	case answers:
		b.c.shut(ErrServerClosed)
	case code == 1000 && b.c.l.resetting():
		b.c.shut(ErrReset)
	case code == 1000:
		b.c.shut(ErrDisconnected)
	default:
		b.c.shut(fmt.Errorf("%w: the client closed it with code %d", ErrProtocol, code))
	}
	b.leaving.Do(func() { close(b.local) })
}

// clientCloseCode reads the status code of a masked close frame, which is
// always written in one piece; 0 if there is none.
func clientCloseCode(p []byte, h frameHeader) int {
	if len(p) < 8 || h.length < 2 || p[0]&0x0f != opClose {
		return 0
	}
	return int(p[6]^p[2])<<8 | int(p[7]^p[3])
}
