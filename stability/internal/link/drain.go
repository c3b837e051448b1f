package link

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"
	waLog "go.mau.fi/whatsmeow/util/log"
)

const (
	// markerBase keeps our markers apart from counts of the service's.
	markerBase = -(1 << 30)
	// settleTime is for events that whatsmeow dispatches by go.
	settleTime = 10 * time.Millisecond
	// calmTime without a handler running means that nothing waits for one. The
	// queue loop goes from one stanza to the next in microseconds.
	calmTime = 100 * time.Millisecond
)

// handlerCheck is an event of our own, to see whether the permanent handler
// is still there. Nobody else sees it if ours is the first.
type handlerCheck struct {
	l     *Link
	there bool
}

// handle is the permanent event handler. It stops our own events from
// reaching the handlers behind it.
func (l *Link) handle(evt any) bool {
	switch evt := evt.(type) {
	case *events.Connected, *events.QR:
		l.lookForForeign()
	case *events.Disconnected:
		l.lost()
	case *events.OfflineSyncCompleted:
		if evt.Count <= markerBase {
			l.mu.Lock()
			defer l.mu.Unlock()
			if seen := l.markers[evt.Count]; seen != nil {
				close(seen)
				delete(l.markers, evt.Count)
			}
			return false
		}
	case *handlerCheck:
		if evt.l != l {
			return true
		}
		evt.there = true
		return false
	}
	return l.cfg.Handle == nil || l.cfg.Handle(evt)
}

// drain empties the client's queue of received stanzas. When it returns nil,
// no stanza of the ended connection will be handled any more.
func (l *Link) drain(ctx context.Context, c *Conn) error {
	// A drain that was given up may still sit in a stuck handler.
	select {
	case l.drainSem <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	l.draining.Store(true)

	result := make(chan error, 1)
	runCtx, cancel := context.WithCancelCause(ctx)
	go func() {
		defer func() { <-l.drainSem }()
		defer cancel(nil)
		err := l.runDrain(runCtx, c)
		if err == nil {
			l.draining.Store(false)
		}
		result <- err
	}()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *Link) runDrain(ctx context.Context, c *Conn) error {
	// The connection's own loop first. While it sits in a slow handler it
	// does not look at its context, and would take stanzas of the next
	// connection afterwards.
	if err := l.loops.wait(ctx); err != nil {
		return fmt.Errorf("a handler is still running: %w", err)
	}
	if l.inside.shared == nil {
		return l.forget(ctx, c)
	}
	l.ensureHandler()

	dead, cancel := context.WithCancel(context.Background())
	cancel()
	loopCtx, stop := context.WithCancel(ctx)
	defer stop()
	stopped := make(chan struct{})
	l.loops.expect()
	go func() {
		defer close(stopped)
		l.inside.shared.HandlerQueueLoop(dead, loopCtx)
	}()

	err := l.sendMarker(ctx)
	if err == nil {
		// Goroutines that waited for room in the queue have it now.
		select {
		case <-time.After(settleTime):
			err = l.sendMarker(ctx)
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	stop()
	<-stopped
	l.loops.forgive()
	return err
}

// errLeftOver reports stanzas that nobody here can clear away. The client must
// not be used again: it may handle them on its next connection.
var errLeftOver = errors.New("link: stanzas of this connection are left in a queue of an unknown kind: make a new client")

// forget is the drain where each connection has a queue of its own, which goes
// with it: only what is running has to end, and what it dispatches by go.
func (l *Link) forget(ctx context.Context, c *Conn) error {
	if err := c.work.wait(ctx, 0, settleTime); err != nil {
		return fmt.Errorf("a handler is still running: %w", err)
	}
	if l.inside.dispatcher == nil {
		l.ensureHandler() // else before each stanza
	}
	if !l.inside.own && c.work.left() {
		return errLeftOver
	}
	return nil
}

// sendMarker puts a stanza of our own behind all others and waits for it.
func (l *Link) sendMarker(ctx context.Context) error {
	seen := make(chan struct{})
	l.mu.Lock()
	l.marker++
	count := markerBase - l.marker
	l.markers[count] = seen
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.markers, count)
	}()
	data, err := waBinary.Marshal(waBinary.Node{Tag: "ib", Content: []waBinary.Node{{
		Tag: "offline", Attrs: waBinary.Attrs{"count": strconv.Itoa(count)},
	}}})
	if err != nil {
		return fmt.Errorf("encoding the marker: %w", err)
	}
	l.inside.shared.HandleFrame(ctx, data)
	select {
	case <-seen:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Quiesce waits until everything received so far has been handled, on a
// connection that is still up: answers of the handlers can still be sent. It
// returns nil at once on a connection that is not up, and when it goes down
// meanwhile. Like End, never call it from a handler.
func (c *Conn) Quiesce(ctx context.Context) error {
	c.mu.Lock()
	established := c.established
	c.mu.Unlock()
	if !established || !c.Up() {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stopped := make(chan struct{})
	defer func() { <-stopped }()
	defer cancel(nil)
	go func() {
		defer close(stopped)
		select {
		case <-c.down:
			cancel(errWentDown)
		case <-ctx.Done():
		}
	}()
	err := c.handled(ctx)
	if err == nil {
		select { // acknowledgements leave in goroutines of their own
		case <-time.After(settleTime):
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	if err != nil && !errors.Is(err, errWentDown) {
		return fmt.Errorf("link: waiting for handlers: %w", err)
	}
	return nil
}

// handled waits until what was received so far has been handled. A marker
// behind it in the queue knows, where there is a way into the queue. Else the
// stanzas are counted in and out. If nobody counts them in, the queue counts
// as empty when no handler has been running for a while.
func (c *Conn) handled(ctx context.Context) error {
	if c.l.inside.shared != nil {
		return c.l.sendMarker(ctx)
	}
	return c.work.wait(ctx, c.work.seen(), calmTime)
}

var errWentDown = errors.New("link: connection went down")

// ensureHandler puts the permanent handler back if the host removed all
// handlers.
func (l *Link) ensureHandler() {
	if l.looking.Swap(true) {
		return
	}
	defer l.looking.Store(false)
	if l.inside.dispatcher == nil {
		// Nobody can look. Added anew it is there, though not the first any more.
		l.client.RemoveEventHandler(l.id)
		l.id = l.client.AddEventHandlerWithSuccessStatus(l.handle)
		return
	}
	check := &handlerCheck{l: l}
	l.inside.dispatcher.DispatchEvent(check)
	if check.there {
		return
	}
	l.cfg.Logger.Debug("the Manager's event handler was removed; it is added again")
	l.id = l.client.AddEventHandlerWithSuccessStatus(l.handle)
}

// whatsmeow's words at the two ends of its queue loop.
const (
	loopStarts = "Starting handler queue loop"
	loopEnds   = "Closing handler queue loop"
)

// loopGrace is how long a queue loop may take to say that it started before
// we conclude that its words do not reach us.
const loopGrace = 100 * time.Millisecond

// loopLogger is the client's logger, listening for the queue loops. There is
// no other sign of a loop's end.
type loopLogger struct {
	waLog.Logger
	l *Link
}

// Sub gives the sockets a logger that listens for their read pumps.
func (g *loopLogger) Sub(module string) waLog.Logger {
	sub := g.Logger.Sub(module)
	if module == pumpModule {
		return &pumpLogger{sub, &g.l.pumps}
	}
	return sub
}

func (g *loopLogger) Debugf(msg string, args ...any) {
	switch msg {
	case loopStarts:
		g.l.loops.note(&g.l.loops.started)
	case loopEnds:
		g.l.loops.note(&g.l.loops.closed)
	}
	g.Logger.Debugf(msg, args...)
}

// whatsmeow's words about the handlers of a message. It recovers from a panic of
// one, says so, and goes on as if the message had been handled.
const (
	wordsPanicked = "Event handler panicked while handling a %T: %v\n%s"
	wordsRefused  = "Handler for %s failed"
	// and about one that it can give to no handler, before it acknowledges it
	wordsUndecryptable = "Error decrypting message %s from %s: %v"
	wordsUnavailable   = "Unavailable message %s from %s (type: %q)"
	wordsMalformed     = "Message decryption for %s panicked: %v\n%s" // newer versions
)

func (g *loopLogger) Errorf(msg string, args ...any) {
	if msg == wordsPanicked && len(args) == 3 && g.l.cfg.Panicked != nil {
		stack, _ := args[2].([]byte)
		g.l.cfg.Panicked(args[0], args[1], string(stack))
	}
	if id, ok := first(args).(types.MessageID); ok && msg == wordsMalformed && len(args) == 3 && g.l.cfg.Malformed != nil {
		stack, _ := args[2].([]byte)
		g.l.cfg.Malformed(id, nil, args[1], string(stack))
	}
	g.Logger.Errorf(msg, args...)
}

func first(args []any) any {
	if len(args) == 0 {
		return nil
	}
	return args[0]
}

func (g *loopLogger) Warnf(msg string, args ...any) {
	if id, ok := first(args).(types.MessageID); ok {
		switch {
		case msg == wordsRefused && len(args) == 1 && g.l.cfg.Refused != nil:
			g.l.cfg.Refused(id)
		case msg == wordsUndecryptable && len(args) == 3 && g.l.cfg.Undecryptable != nil:
			if err, ok := args[2].(error); ok {
				g.l.cfg.Undecryptable(id, err)
			}
		case msg == wordsUnavailable && len(args) == 3 && g.l.cfg.Undecryptable != nil:
			g.l.cfg.Undecryptable(id, nil)
		}
	}
	g.Logger.Warnf(msg, args...)
}

// loopCounter knows how many queue loops must have started, did, and ended.
type loopCounter struct {
	mu       sync.Mutex
	expected int
	started  int
	closed   int
	changed  chan struct{} // closed and replaced at each change
	report   func(problem string)
}

func (n *loopCounter) init(report func(problem string)) {
	n.changed, n.report = make(chan struct{}), report
}

func (n *loopCounter) expect() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.expected++
}

// forgive expects no more than was heard of: every loop that was to start has.
func (n *loopCounter) forgive() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.expected = min(n.expected, n.started)
}

func (n *loopCounter) note(counter *int) {
	n.mu.Lock()
	*counter++
	first := counter == &n.started && *counter == 1
	close(n.changed)
	n.changed = make(chan struct{})
	n.mu.Unlock()
	if first {
		n.report("")
	}
}

// wait returns when every loop that must have started has ended. A client
// whose words do not reach us costs loopGrace each time, and is believed.
func (n *loopCounter) wait(ctx context.Context) error {
	grace := time.NewTimer(loopGrace)
	defer grace.Stop()
	expired := false
	for {
		n.mu.Lock()
		unheard := n.started < n.expected && expired
		if unheard {
			n.expected = n.started // the host replaced Client.Log
		}
		done := n.started >= n.expected && n.closed >= n.started
		changed := n.changed
		n.mu.Unlock()
		if unheard {
			n.report("the client's logger does not hear its queue loop start and end: each end of a connection takes a little longer and is less exact")
		}
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-grace.C:
			expired = true
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
