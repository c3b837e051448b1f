package wasim_test

import (
	"context"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// stallConn is a client's end of a connection whose process gets no processor
// for a while: what came meanwhile is all there at once when it goes on.
type stallConn struct {
	net.Conn
	mu    sync.Mutex
	armed bool // the next write begins it
	until time.Time
}

func (c *stallConn) arm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed = true
}

func (c *stallConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	if c.armed {
		c.armed, c.until = false, time.Now().Add(time.Second)
	}
	c.mu.Unlock()
	return c.Conn.Write(p)
}

func (c *stallConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	wait := time.Until(c.until)
	c.mu.Unlock()
	time.Sleep(wait)
	return n, err
}

// A client that finds the last stanza and the end of the connection at the same
// time may miss the stanza: whatsmeow's queue loop ends with the connection, and
// leaves what is queued. On a loaded machine any delay may be too short for it.
func TestAClientThatIsHeldUpStillHearsTheLastStanza(t *testing.T) {
	inBubble(t, func(t *testing.T, s *wasim.Service) {
		acct := s.NewAccount("491700000001")
		for i := range 10 {
			h := newHost(s, wasim.NewMemoryDevice())
			var link *stallConn
			tr := s.Transport()
			dial := tr.DialContext
			tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				c, err := dial(ctx, network, addr)
				link = &stallConn{Conn: c}
				return link, err
			}
			h.cli.SetPreLoginHTTPClient(&http.Client{Transport: tr})
			require.NoError(t, h.connect())
			eventually(t, "QR codes", func() bool { return len(got[*events.QR](h)) == 1 })
			link.arm() // the client's next word is its signature, and 515 the answer
			require.NoError(t, acct.Phone().Scan(h.code()))
			eventually(t, "the service closed", func() bool { return !h.up() })
			require.NoError(t, acct.PairingError())
			require.Len(t, acct.Devices(), i+1)
			require.Len(t, got[*events.ManualLoginReconnect](h), 1, "the last stanza")
			h.cli.Disconnect()
			h.cancel()
		}
	})
}
