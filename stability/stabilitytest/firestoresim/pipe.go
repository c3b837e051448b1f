package firestoresim

import (
	"context"
	"net"
	"sync"
)

// pipes is a listener in memory. It makes no timer that is due at once, as
// gRPC's bufconn does for each connection: two of these at the same time in one
// testing/synctest bubble crash the race detector (Go 1.26, runtime.(*timer).modify).
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	end    sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (l *pipes) Dial(ctx context.Context) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case l.conns <- there:
		return here, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error {
	l.end.Do(func() { close(l.closed) })
	return nil
}

func (l *pipes) Addr() net.Addr { return address{} }

type address struct{}

func (address) Network() string { return "pipe" }
func (address) String() string  { return "firestoresim" }
