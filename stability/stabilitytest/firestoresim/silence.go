package firestoresim

import (
	"net"
	"sync"
)

// Silence makes every connection of clients of this name fall silent, as one
// does whose other end is gone without a word. Frames sent on it go nowhere,
// and nothing comes back. It stays open, and calls on it wait. Connections
// that are made later work: a client comes back once it gives up the silent
// one, for which it needs gRPC keepalives. It returns how many there were.
func (s *Server) Silence(client string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for c := range s.wires {
		if c.client == client && !c.silenced() {
			close(c.silent)
			n++
		}
	}
	return n
}

// Connections is how many connections clients of this name have made so far.
func (s *Server) Connections(client string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dials[client]
}

// wire is a client's end of a connection in memory, which can fall silent.
type wire struct {
	net.Conn
	s      *Server
	client string
	silent chan struct{}
	ended  chan struct{}
	end    sync.Once
}

func (s *Server) wire(client string, conn net.Conn) net.Conn {
	w := &wire{Conn: conn, s: s, client: client, silent: make(chan struct{}), ended: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wires[w] = struct{}{}
	s.dials[client]++
	return w
}

func (w *wire) silenced() bool {
	select {
	case <-w.silent:
		return true
	default:
		return false
	}
}

// Read drops what comes once the connection is silent, and waits for its end.
func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if !w.silenced() {
		return n, err
	}
	for err == nil {
		_, err = w.Conn.Read(p)
	}
	<-w.ended
	return 0, net.ErrClosed
}

func (w *wire) Write(p []byte) (int, error) {
	if w.silenced() {
		return len(p), nil
	}
	return w.Conn.Write(p)
}

func (w *wire) Close() error {
	w.end.Do(func() {
		close(w.ended)
		w.s.mu.Lock()
		defer w.s.mu.Unlock()
		delete(w.s.wires, w)
	})
	return w.Conn.Close()
}
