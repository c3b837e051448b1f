package link

import (
	"context"
	"reflect"
	"sync/atomic"

	"go.mau.fi/whatsmeow"
	waBinary "go.mau.fi/whatsmeow/binary"
)

// Reliance names a part of whatsmeow's inside that is used where it is found.
// None of them is a requirement: a missing one makes something slower or less
// exact, and is reported to Config.Compat.
type Reliance string

// The reliances of this package.
const (
	// QueueLoop: DangerousInternals has a queue loop of a shape that is known,
	// so that the stanzas of an ended connection cannot be left for the next.
	QueueLoop Reliance = "queue_loop"
	// LoopWords: the client's logger is told when its queue loop starts and
	// ends, so that an end knows when the last stanza was handled.
	LoopWords Reliance = "queue_loop_log"
	// HandlerTable: the client has a table of handlers by tag, so that each
	// received stanza is seen before and after it is handled. On it depend: no
	// message is handled on a connection that is down, none while its handler
	// still runs from an earlier connection, and what waits can be counted.
	HandlerTable Reliance = "handler_table"
	// HandlerList: the client has a list of event handlers, so that a message
	// that no handler of the host's would hear of is left at the service.
	HandlerList Reliance = "handler_list"
	// SendInside, DispatchInside: methods of DangerousInternals.
	SendInside     Reliance = "send_node"
	DispatchInside Reliance = "dispatch_event"
	// Dialer: the client dials through this package.
	Dialer Reliance = "dialer"
	// Frames: the arriving data are websocket frames of a known kind.
	Frames Reliance = "frames"
)

// Shapes of whatsmeow's inside. A method whose signature changed is missing:
// nothing here fails to compile for it.
type (
	// sharedQueue: the client has one queue of received stanzas for all its
	// connections.
	sharedQueue interface {
		HandlerQueueLoop(evtCtx, connCtx context.Context)
		HandleFrame(ctx context.Context, data []byte)
	}
	// ownQueue: each connection has a queue of its own, which goes with it.
	ownQueue interface {
		HandlerQueueLoop(evtCtx, connCtx context.Context, queue chan *waBinary.Node)
	}
	nodeSender interface {
		SendNode(ctx context.Context, node waBinary.Node) error
	}
	dispatcher interface {
		DispatchEvent(evt any) bool
	}
	// expecter: whatsmeow's own reconnecting ends when it is told that a
	// disconnect is expected.
	expecter interface{ ExpectDisconnect() }
)

// inside is what was found of a client's inside; nil where it was not.
type inside struct {
	shared     sharedQueue
	own        bool // each connection has a queue of its own
	nodes      nodeSender
	dispatcher dispatcher
	expecter   expecter
	list       bool            // the client's event handlers can be counted
	tags       map[string]bool // of the stanzas that are queued; nil: handlers are not counted
}

// findInside looks for the shapes in what DangerousInternals returns.
func findInside(in any, without func(Reliance) bool) (x inside) {
	if !without(QueueLoop) {
		x.shared, _ = in.(sharedQueue)
		_, x.own = in.(ownQueue)
	}
	if !without(SendInside) {
		x.nodes, _ = in.(nodeSender)
	}
	if !without(DispatchInside) {
		x.dispatcher, _ = in.(dispatcher)
	}
	x.expecter, _ = in.(expecter)
	return x
}

// missing reports what was not found.
func (x inside) missing(report func(Reliance, string)) {
	tell := func(r Reliance, there bool, text string) {
		if there {
			text = ""
		}
		report(r, text)
	}
	tell(QueueLoop, x.shared != nil || x.own,
		"whatsmeow's queue loop has an unknown shape: stanzas left over from an ended connection cannot be cleared away")
	tell(SendInside, x.nodes != nil, "whatsmeow's SendNode is missing: the end of a connection is found by MarkRead, which may take longer")
	tell(DispatchInside, x.dispatcher != nil,
		"whatsmeow's DispatchEvent is missing: an event handler that the host removed is put back only when a connection ends")
	tell(HandlerList, x.list, "whatsmeow's list of event handlers is missing: a message that comes before the program has registered a handler, or after it removed the last one, is acknowledged and heard by nobody")
	handedOver := "" // what a marker in the queue tells is not needed
	if x.shared == nil {
		handedOver = "; a hand-over knows less exactly when the last one was handled"
	}
	tell(HandlerTable, x.tags != nil,
		"whatsmeow's table of handlers is missing: received messages are decrypted although their connection is down, "+
			"which takes time, and a message that comes again while its handler still runs is handled a second time at once; "+
			"a backlog cannot be counted"+handedOver)
}

// resetting reports whether whatsmeow is closing its socket in order to come
// back. It looks at a private flag, since nothing else tells that apart from a
// Disconnect in time. Versions without the flag have no ResetConnection.
func (l *Link) resetting() bool {
	l.mu.Lock()
	c := l.client
	l.mu.Unlock()
	return c != nil && flagged(reflect.ValueOf(c), "forceAutoReconnect")
}

func flagged(client reflect.Value, name string) bool {
	f := client.Elem().FieldByName(name)
	if !f.IsValid() || f.Type() != reflect.TypeFor[atomic.Bool]() {
		return false
	}
	return (*atomic.Bool)(f.Addr().UnsafePointer()).Load()
}

// HostHandlers is how many event handlers the client has beside the permanent
// one; false where that cannot be seen. It is to be called from an event handler:
// whatsmeow holds the lock of its list then.
func (l *Link) HostHandlers() (int, bool) {
	l.mu.Lock()
	c := l.client
	l.mu.Unlock()
	if c == nil || l.cfg.without(HandlerList) {
		return 0, false
	}
	list, ok := handlerList(c)
	if !ok {
		return 0, false
	}
	return max(0, list.Len()-1), true
}

func handlerList(c *whatsmeow.Client) (reflect.Value, bool) {
	list := reflect.ValueOf(c).Elem().FieldByName("eventHandlers")
	return list, list.IsValid() && list.Kind() == reflect.Slice
}

type nodeHandler = func(ctx context.Context, node *waBinary.Node)

// countHandlers puts a counter around each of the client's handlers of
// received stanzas, before it connects for the first time, and returns their
// tags. If each connection has a queue of its own, nothing else tells when a
// stanza was handled. The table is a private field: nil when it is not there,
// or not of this type.
func countHandlers(c *whatsmeow.Client, around func(nodeHandler) nodeHandler) map[string]bool {
	return wrapTable(reflect.ValueOf(c), "nodeHandlers", around)
}

func wrapTable(client reflect.Value, name string, around func(nodeHandler) nodeHandler) map[string]bool {
	plain := reflect.TypeFor[nodeHandler]()
	f := client.Elem().FieldByName(name)
	if !f.IsValid() || f.Kind() != reflect.Map || f.Type().Key().Kind() != reflect.String || !f.Type().Elem().ConvertibleTo(plain) || f.Len() == 0 {
		return nil
	}
	table := reflect.NewAt(f.Type(), f.Addr().UnsafePointer()).Elem()
	tags := make(map[string]bool, table.Len())
	for _, tag := range table.MapKeys() {
		h := table.MapIndex(tag)
		if h.IsNil() {
			continue
		}
		counted := around(h.Convert(plain).Interface().(nodeHandler))
		table.SetMapIndex(tag, reflect.ValueOf(counted).Convert(f.Type().Elem()))
		tags[tag.String()] = true
	}
	return tags
}
