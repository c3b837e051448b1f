package link

import (
	"context"
	"runtime/debug"
	"sync"
	"time"

	waBinary "go.mau.fi/whatsmeow/binary"
)

// work counts the stanzas of one connection, from the moment they were read to
// the end of their handlers.
type work struct {
	mu       sync.Mutex
	received uint64               // read and put into the queue
	begun    uint64               // taken out of it
	running  map[uint64]time.Time // by number, those that have not ended; since when
	waits    []time.Time          // when those were received that have not begun, oldest first
	changed  chan struct{}        // closed and replaced at each change somebody waits for
}

func (w *work) update(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// begin notes that a handler was called and returns what ends it.
func (w *work) begin() (end func()) {
	var n uint64
	w.update(func() {
		w.begun++
		n = w.begun
		if len(w.waits) > 0 {
			w.waits = w.waits[1:]
		}
		if w.running == nil {
			w.running = make(map[uint64]time.Time, 1)
		}
		w.running[n] = time.Now()
	})
	return func() { w.update(func() { delete(w.running, n) }) }
}

// seen is how many stanzas were received; 0 when nobody counts them, or not
// all of them.
func (w *work) seen() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.received < w.begun {
		return 0
	}
	return w.received
}

// left reports whether stanzas were received and never handled.
func (w *work) left() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.begun < w.received
}

// Work is what a connection has to do.
type Work struct {
	// Seen says that handlers are seen when they begin and end. Else nothing of
	// this is known.
	Seen    bool
	Running time.Time // since when the handler runs that has been running for longest; zero if none is
	Handled uint64    // stanzas whose handlers have ended
	Waiting int       // stanzas that were received and are not with a handler yet; 0 if nobody calls Received
	Oldest  time.Time // when the oldest of them was received
}

// Work says what the connection has to do now.
func (c *Conn) Work() Work {
	w := &c.work
	w.mu.Lock()
	defer w.mu.Unlock()
	out := Work{Seen: c.l.inside.tags != nil, Handled: w.begun - uint64(len(w.running)), Waiting: len(w.waits)}
	for _, since := range w.running {
		if out.Running.IsZero() || since.Before(out.Running) {
			out.Running = since
		}
	}
	if len(w.waits) > 0 {
		out.Oldest = w.waits[0]
	}
	return out
}

// wait returns when the first n stanzas have been handled. n = 0: when no
// handler is running and none begins for calm.
func (w *work) wait(ctx context.Context, n uint64, calm time.Duration) error {
	for {
		w.mu.Lock()
		done := n == 0 && len(w.running) == 0
		if n > 0 {
			done = w.begun >= n
			for i := range w.running {
				done = done && i > n
			}
		}
		if done && n > 0 {
			w.mu.Unlock()
			return nil
		}
		if w.changed == nil {
			w.changed = make(chan struct{})
		}
		changed := w.changed
		w.mu.Unlock()
		var quiet <-chan time.Time
		if done {
			quiet = time.After(calm)
		}
		select {
		case <-changed:
		case <-quiet:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// counted is put around a handler of received stanzas.
func (l *Link) counted(h nodeHandler) nodeHandler {
	return func(ctx context.Context, n *waBinary.Node) {
		c, _ := ctx.Value(connKey{}).(*Conn) // whose queue it was in, if the attempt was ours
		if c == nil || c.l != l {
			c = l.Current()
		}
		if c == nil || n == nil || !queued(n.Tag, attrText(n, "type")) {
			h(ctx, n)
			return
		}
		defer c.work.begin()()
		if l.inside.dispatcher != nil {
			l.ensureHandler() // else what follows would be handled, and we not hear of it
		}
		if IsMessage(n.Tag) {
			handling, end, ok := l.admit(ctx, c, n)
			if !ok {
				return
			}
			defer end()
			if l.cfg.Malformed != nil {
				defer func() {
					if p := recover(); p != nil {
						l.cfg.Malformed(attrText(n, "id"), n, p, string(debug.Stack()))
					}
				}()
			}
			ctx = handling
		}
		h(ctx, n)
	}
}

// admit says whether a message may be handled. One that is left alone is not
// acknowledged, and the server delivers it again on the next connection. On a
// connection that is down that is so in any case: decrypting it there would be
// work for nothing, and a long backlog of it would hold up the next connection.
func (l *Link) admit(ctx context.Context, c *Conn, n *waBinary.Node) (handling context.Context, end func(), ok bool) {
	if isClosed(c.down) {
		return ctx, nil, false
	}
	if l.cfg.Admit == nil {
		return ctx, func() {}, true
	}
	return l.cfg.Admit(ctx, n)
}

// IsMessage reports whether a stanza with that tag is a message: whatsmeow decrypts it, and
// gives it to the handlers.
func IsMessage(tag string) bool { return tag == "message" || tag == "appdata" }

// queued reports whether a stanza goes through the queue for sure. The answer
// to a query does not, unless nobody waits for it any more.
func queued(tag, typ string) bool {
	return tag != "iq" || typ == "get" || typ == "set"
}

func attrText(n *waBinary.Node, name string) string {
	s, _ := n.Attrs[name].(string)
	return s
}

// Received notes a stanza that was just read, in the goroutine that reads,
// before whatsmeow queues it: its tag and the attribute type. The one that sees
// all received stanzas calls it, so that Quiesce knows what it waits for. It never
// blocks.
func (l *Link) Received(tag, typ string) {
	if !l.inside.tags[tag] || !queued(tag, typ) {
		return
	}
	if c := l.Current(); c != nil {
		c.work.update(func() {
			c.work.received++
			c.work.waits = append(c.work.waits, time.Now())
		})
	}
}
