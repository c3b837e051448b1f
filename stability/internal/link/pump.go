package link

import (
	"context"
	"reflect"
	"sync"
	"time"

	waLog "go.mau.fi/whatsmeow/util/log"
)

// whatsmeow's read pump hands each frame to a consumer and waits until it is
// taken. A host's own Disconnect or Logout, and a context that the host cancels,
// stop the consumer first, and the pump waits for ever with the frame that it
// has. Both ends of the pump are told to the client's logger, together with the
// socket, whose channel of frames is exported: once that socket is closed, what
// the pump still has is taken off its hands until it ends.

// whatsmeow's words at the two ends of its read pump, and the module whose
// logger hears them.
const (
	pumpModule = "Socket"
	pumpStarts = "Frame websocket read pump starting %p"
	pumpEnds   = "Frame websocket read pump exiting %p"
)

// pumpGrace bounds the taking: a pump whose socket is closed has one message of
// the websocket left at most, and its next read fails.
const pumpGrace = 10 * time.Second

// pumps are the read pumps that have started and not ended.
type pumps struct {
	mu      sync.Mutex
	running map[any]*pump // by socket
}

type pump struct {
	ended   chan struct{} // closed when it has ended
	waiting func() bool   // stops the wait for its socket's end
}

func (p *pumps) starts(socket any) {
	frames, over, ok := socketOf(socket)
	if !ok {
		return
	}
	n := &pump{ended: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == nil {
		p.running = make(map[any]*pump)
	}
	p.running[socket] = n
	n.waiting = context.AfterFunc(over, func() { takeAll(frames, n.ended) })
}

func (p *pumps) ends(socket any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := p.running[socket]; n != nil {
		n.waiting()
		close(n.ended)
		delete(p.running, socket)
	}
}

// takeAll takes frames that nobody else takes any more.
func takeAll(frames <-chan []byte, ended <-chan struct{}) {
	grace := time.NewTimer(pumpGrace)
	defer grace.Stop()
	for {
		select {
		case <-frames:
		case <-ended:
			return
		case <-grace.C:
			return
		}
	}
}

// socketOf looks at what the logger was given, by shape: its frames, and a
// context that ends when it is closed.
func socketOf(socket any) (frames <-chan []byte, over context.Context, ok bool) {
	v := reflect.ValueOf(socket)
	closes, ok := socket.(interface{ Context() context.Context })
	if !ok || v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return nil, nil, false
	}
	f := v.Elem().FieldByName("Frames")
	if !f.IsValid() || f.Type() != reflect.TypeFor[chan []byte]() {
		return nil, nil, false
	}
	over = closes.Context()
	return f.Interface().(chan []byte), over, over != nil
}

// pumpLogger is the logger of the client's sockets, listening for their pumps.
type pumpLogger struct {
	waLog.Logger
	pumps *pumps
}

func (g *pumpLogger) Debugf(msg string, args ...any) {
	if len(args) == 1 {
		switch msg {
		case pumpStarts:
			g.pumps.starts(args[0])
		case pumpEnds:
			g.pumps.ends(args[0])
		}
	}
	g.Logger.Debugf(msg, args...)
}
