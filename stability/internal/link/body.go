package link

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.mau.fi/whatsmeow/socket"
)

// phase is how much the read pump may see of the websocket, see "The handshake" in the
// package documentation.
type phase int

const (
	phaseHello  phase = iota // gathering the server hello
	phaseHold                // hello handed over, whatsmeow's connect still running
	phaseOpen                // connected
	phaseDoomed              // the attempt is lost, whatsmeow is being told
)

// maxHello bounds the server hello; a real one has a few hundred bytes.
const maxHello = 1 << 20

// body is the upgraded connection between whatsmeow's websocket and TLS. Read
// is called by the read pump only (or by a websocket Close, which excludes
// the pump), Write under the websocket's write lock.
type body struct {
	c   *Conn
	rwc io.ReadWriteCloser

	closed     chan struct{} // the websocket closed us
	local      chan struct{} // the client sent a close frame of its own accord
	helloSent  chan struct{} // the client hello is out: whatsmeow waits for an answer
	finishSent chan struct{} // the client finish is out: connect is about to succeed
	finishing  atomic.Bool   // it is on its way: bytes that come now may answer it
	readFailed chan struct{} // the pump has been given an error
	closing    sync.Once
	leaving    sync.Once
	failing    sync.Once

	some atomic.Bool // data came that is no hello yet

	// Reader's state.
	phase  phase
	rsv    byte        // reserved bits of frames that were negotiated
	chose  byte        // rsv, if this is no trial
	text   messageForm // of a message of text that is not over yet
	window []byte      // what was unpacked so far
	handed time.Time   // when the pump got the hello
	in     []byte      // raw bytes not parsed yet
	wa     []byte      // payload of the messages so far: WhatsApp's frames
	deflt  []byte      // the compressed message they come in, as far as it is there
	form   messageForm
	out    []byte // for the pump, now
	held   []byte // for the pump, once connected
	heads  scanner

	// Writer's state.
	sent   scanner
	frames int // data frames begun

	mu     sync.Mutex // guards what follows; never held across I/O or a callback
	timer  *time.Timer
	inTime bool   // the hello is there, or nobody waits for it: no timer any more
	echo   bool   // the server sent a close frame: ours is the answer
	trial  []byte // a trial without looking: what came so far, as the read pump got it
}

// messageForm is the form of the messages in which the hello comes.
type messageForm int

const (
	formUnknown messageForm = iota
	formPlain
	formDeflated
)

// newBody wraps an upgraded connection. extensions is what the server chose of
// the extensions that the client offered.
func newBody(c *Conn, rwc io.ReadWriteCloser, extensions string) *body {
	chose := reservedBits(extensions)
	rsv := chose
	if c.l.frames.Load() != framesKnown || c.l.cfg.without(Frames) {
		rsv = rsvAny
	}
	return &body{
		c: c, rwc: rwc, rsv: rsv, chose: chose, heads: scanner{rsv: rsv}, sent: scanner{rsv: rsv},
		closed:     make(chan struct{}),
		local:      make(chan struct{}),
		helloSent:  make(chan struct{}),
		finishSent: make(chan struct{}),
		readFailed: make(chan struct{}),
	}
}

// reservedBits says which reserved bits the frames of a connection may have.
// With an extension that nobody here knows it may be any.
func reservedBits(extensions string) byte {
	name, _, _ := strings.Cut(extensions, ";")
	switch name = strings.TrimSpace(name); {
	case extensions == "":
		return rsvNone
	case strings.EqualFold(name, "permessage-deflate") && !strings.Contains(extensions, ","):
		return rsvDeflate
	}
	return rsvAny
}

func (b *body) Read(p []byte) (int, error) {
	for {
		if len(b.out) > 0 {
			n := copy(p, b.out)
			b.out = b.out[n:]
			return n, nil
		}
		var err error
		switch b.phase {
		case phaseHello:
			err = b.awaitHello()
		case phaseHold:
			err = b.awaitConnected()
		case phaseDoomed:
			<-b.closed
			err = b.c.isDown()
		case phaseOpen:
			if err = b.c.isDown(); err != nil {
				break
			}
			if len(b.held) > 0 {
				b.out, b.held = b.held, nil
				b.scanRead(b.out)
				continue
			}
			n, err := b.rwc.Read(p)
			b.scanRead(p[:n])
			if err != nil {
				return n, b.fail(err)
			}
			return n, nil
		}
		if err != nil {
			return 0, b.fail(err)
		}
	}
}

// lossDelay is how long after the last Write the pump hears of a loss.
// whatsmeow closes its socket then, without regard to a send that has just
// picked it up; by that time such a send has failed, in good order. An uneven
// number, so that in a bubble it coincides with nobody's milliseconds.
const lossDelay = 1137 * time.Microsecond

// fail puts the connection down and lets the pump go.
func (b *body) fail(err error) error {
	raw := b.c.shut(err)
	if b.phase == phaseOpen && raw != nil {
		select {
		case <-raw.idle:
			t := time.NewTimer(lossDelay)
			defer t.Stop()
			select {
			case <-t.C:
			case <-b.local: // Disconnect waits for the pump, holding locks
			case <-b.closed:
			}
		case <-b.local:
		case <-b.closed:
		}
	}
	b.failing.Do(func() { close(b.readFailed) })
	return err
}

func (b *body) scanRead(p []byte) {
	b.keepTrial(p)
	lost := b.heads.bad
	b.heads.scan(p, func(h frameHeader) {
		if h.opcode == opClose {
			b.mu.Lock()
			b.echo = true
			b.mu.Unlock()
		}
	})
	if b.heads.bad && !lost {
		b.c.l.report(Frames, strangeFrames)
	}
}

// awaitHello gathers bytes until the server hello is complete, and hands over
// exactly that. If it cannot come any more, it dooms the attempt.
func (b *body) awaitHello() error {
	buf := make([]byte, 4096)
	for {
		done, err := b.parse()
		if err != nil {
			return b.doom(err)
		}
		if done {
			return nil
		}
		n, err := b.rwc.Read(buf)
		b.in = append(b.in, buf[:n]...)
		if n == 0 && err != nil {
			return b.doom(err)
		}
	}
}

// parse takes whole frames off b.in; done is true when there is something for
// the pump.
func (b *body) parse() (done bool, err error) {
	for {
		h, ok, valid := parseHeader(b.in, b.rsv)
		if b.rsv == rsvAny {
			b.passAll(b.whyBlind())
			return true, nil
		}
		if !valid || h.masked || h.length > maxHello {
			return false, fmt.Errorf("%w before its hello", ErrProtocol)
		}
		if !ok || uint64(len(b.in)) < uint64(h.size)+h.length {
			return false, nil
		}
		frame := b.in[:uint64(h.size)+h.length]
		b.in = b.in[len(frame):]
		payload := frame[h.size:]
		switch h.opcode {
		case opPing, opPong:
			b.out = append(b.out, frame...)
			return true, nil
		case opClose:
			if len(payload) >= 2 {
				return false, fmt.Errorf("%w before its hello, code %d", ErrServerClosed, binary.BigEndian.Uint16(payload))
			}
			return false, fmt.Errorf("%w before its hello", ErrServerClosed)
		}
		// A message of text is not for us, nor for whatsmeow, which lets it pass.
		if h.opcode == opText || h.opcode == opContinuation && b.text != formUnknown {
			b.out = append(b.out, frame...)
			if !b.passText(h, payload) {
				b.passAll(strangeHello)
			}
			return true, nil
		}
		whole, err := b.gather(h, payload)
		if err != nil {
			return false, err
		}
		if !whole {
			continue
		}
		size, ok := b.c.l.helloSize(b.wa)
		if !ok {
			b.some.Store(true)
			continue
		}
		// The hello alone in a frame of its own: data behind it, in the same message
		// or after it, has to wait until we are connected.
		wrap, rest := appendFrame, b.wa[size:]
		if b.form == formDeflated {
			wrap = appendStored
		}
		b.out = wrap(b.out, b.wa[:size])
		if len(rest) > 0 || !h.fin {
			b.held = wrap(nil, rest)
			if !h.fin {
				b.held[0] &^= 0x80
			}
		}
		b.held = append(b.held, b.in...)
		b.in, b.wa = nil, nil
		b.phase, b.handed = phaseHold, time.Now()
		b.stopTimer()
		return true, nil
	}
}

// gather takes the payload of a data frame; whole is false while more of it
// must come before it can be looked at.
func (b *body) gather(h frameHeader, payload []byte) (whole bool, err error) {
	form := formPlain
	if h.rsv == rsvDeflate {
		form = formDeflated
	}
	switch {
	case h.opcode == opContinuation:
	case b.form == formUnknown:
		b.form = form
	case b.form != form:
		return false, fmt.Errorf("%w: the hello came in two forms", ErrProtocol)
	}
	if b.form == formDeflated {
		b.deflt = append(b.deflt, payload...)
		if payload = nil; h.fin {
			payload, err = inflate(b.deflt, b.window, maxHello)
			b.deflt, b.window = nil, append(b.window, payload...)
		}
		if err != nil {
			return false, fmt.Errorf("%w: a hello that cannot be unpacked: %w", ErrProtocol, err)
		}
	}
	b.wa = append(b.wa, payload...)
	if len(b.wa)+len(b.deflt) > maxHello {
		return false, fmt.Errorf("%w: hello too long", ErrProtocol)
	}
	return len(b.deflt) == 0, nil
}

// passText notes what a message of text leaves in the window in which the hello
// is unpacked; false if that cannot be known.
func (b *body) passText(h frameHeader, payload []byte) (known bool) {
	if h.opcode == opText {
		b.text = formPlain
		if h.rsv == rsvDeflate {
			b.text = formDeflated
		}
	}
	form := b.text
	if h.fin {
		b.text = formUnknown
	}
	if form == formPlain {
		return true
	}
	b.deflt = append(b.deflt, payload...)
	if !h.fin {
		return len(b.deflt) <= maxHello
	}
	plain, err := inflate(b.deflt, b.window, maxHello)
	b.deflt, b.window = nil, append(b.window, plain...)
	return err == nil && len(b.window) <= maxHello
}

// passAll gives up to look into the websocket. The pump sees everything from
// here on; an attempt that dies while whatsmeow waits for the hello takes
// whatsmeow's time to fail. Without an effect nobody is told.
func (b *body) passAll(effect string) {
	if effect != "" {
		b.c.l.report(Frames, effect)
	}
	b.held = append(b.held, b.in...)
	b.in = nil
	b.phase = phaseOpen
	b.stopTimer()
}

// doom ends an attempt that waits for the server hello: the pump sees one
// empty frame, which whatsmeow takes for a hello with its parts missing.
func (b *body) doom(err error) error {
	b.c.shut(err)
	select {
	case <-b.closed:
		return err
	default:
	}
	select {
	case <-b.helloSent:
		b.out = append(b.out[:0], 0x80|opBinary, socket.FrameLengthSize, 0, 0, 0)
		b.phase = phaseDoomed
		return nil
	case <-b.closed:
		return err
	}
}

// Close is called by the websocket, on every way out of it.
func (b *body) Close() error {
	var err error
	b.closing.Do(func() {
		b.stopTimer()
		b.mu.Lock()
		close(b.closed)
		b.mu.Unlock()
		if !isClosed(b.finishSent) {
			b.endTrial(false)
		}
		b.c.shut(ErrClosed) // first, or TLS would wait to send an alert
		err = b.rwc.Close()
		if !b.c.owned && !isClosed(b.finishSent) {
			b.c.settle(false)
		}
	})
	return err
}

func (b *body) stopTimer() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inTime = true
	if b.timer != nil {
		b.timer.Stop()
	}
}

// pumpEnded waits until the read pump cannot be in the way any more.
func (b *body) pumpEnded(ctx context.Context) error {
	select {
	case <-b.readFailed:
	case <-b.closed:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

func isClosed(ch chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// awaitConnected holds back what comes after the hello until whatsmeow's
// connect has returned, or has failed and closed us.
func (b *body) awaitConnected() error {
	select {
	case <-b.c.outcome:
		b.phase = phaseOpen
		return nil
	case <-b.local: // Disconnect runs, so connect has returned
	case <-b.closed:
	}
	if len(b.held) > 0 && time.Since(b.handed) >= b.c.l.cfg.HelloTimeout && !isClosed(b.finishSent) {
		b.c.l.suspectFrames() // whatsmeow still waited, for what is behind what we took for the hello
	}
	b.c.shut(ErrClosed) // unless there is a cause already
	return b.c.isDown()
}
