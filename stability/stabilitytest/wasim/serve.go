package wasim

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// serve runs one raw connection from TLS to its end.
func (s *Service) serve(raw net.Conn, label string, tcp bool) {
	l := newLink(raw)
	c := &conn{s: s, link: l, from: label, out: newOutbox()}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		_ = l.Close()
		return
	}
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	defer c.finish()

	if tcp {
		label, remote, err := l.readPreamble()
		if err != nil {
			return
		}
		c.from = label
		if remote && !c.remoteDial() {
			return
		}
	}
	err := c.run()
	s.opt.log.Debug("connection ended", "from", c.from, "device", c.deviceID(), "error", err)
}

// remoteDial does for a dial of another process what Service.dial does for
// ours; false ends the connection.
func (c *conn) remoteDial() bool {
	c.s.mu.Lock()
	c.s.seen.dial(c.from)
	f := c.s.take(stageDial, c, c.from)
	c.s.mu.Unlock()
	switch {
	case f == nil:
		return true
	case f.hang:
		_ = c.hang()
	default:
		c.link.reset()
	}
	return false
}

func (c *conn) run() error {
	wrong := false
	if f := c.take(stageTLS); f != nil {
		if f.hang {
			return c.hang()
		}
		wrong = true
	}
	tc := tls.Server(c.link, c.s.tlsConfig(wrong))
	if err := tc.Handshake(); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	br := bufio.NewReader(tc)
	req, err := http.ReadRequest(br)
	if err != nil {
		return fmt.Errorf("reading the request: %w", err)
	}
	w := &response{conn: tc, br: br, header: http.Header{}}
	if !strings.EqualFold(req.Header.Get("Upgrade"), "websocket") || req.URL.Path != "/ws/chat" {
		return c.plain(w, req)
	}
	if f := c.take(stageUpgrade); f != nil {
		if f.hang {
			return c.hang()
		}
		http.Error(w, http.StatusText(f.status), f.status)
		return w.end(fmt.Errorf("upgrade answered with %d", f.status))
	}
	accept := &websocket.AcceptOptions{InsecureSkipVerify: true}
	if c.s.opt.compress {
		accept.CompressionMode, accept.CompressionThreshold = websocket.CompressionContextTakeover, 1
	}
	ws, err := websocket.Accept(w, req, accept)
	if err != nil {
		return w.end(err)
	}
	c.countCompression(req.Header, w.header)
	defer func() { _ = ws.CloseNow() }()
	ws.SetReadLimit(-1)
	c.setWS(ws)
	return c.session()
}

func (c *conn) countCompression(offer, answer http.Header) {
	const extensions, deflate = "Sec-WebSocket-Extensions", "permessage-deflate"
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.s.seen.upgrade(strings.Contains(offer.Get(extensions), deflate), strings.Contains(answer.Get(extensions), deflate))
}

// session is everything after the upgrade.
func (c *conn) session() error {
	chain := c.s.chain
	if f := c.take(stageCert); f != nil {
		chain = f.chain(c.s)
	}
	err := c.handshake(chain, func() bool {
		f := c.take(stageHello)
		if f == nil {
			return true
		}
		if f.hang {
			c.link.sleep(f.delay)
			return true
		}
		if f.text != "" {
			return c.frames.ws.Write(context.Background(), websocket.MessageText, []byte(f.text)) == nil
		}
		c.link.fin()
		return false
	})
	if err != nil {
		if errors.Is(err, errFaulted) {
			return c.hang()
		}
		return fmt.Errorf("noise handshake: %w", err)
	}
	if !c.s.spawn(c.writeLoop) {
		return errors.New("service closed")
	}
	c.login()
	return c.readLoop()
}

// hang keeps the connection and answers nothing until the other side ends it.
func (c *conn) hang() error {
	_, err := io.Copy(io.Discard, c.link)
	return fmt.Errorf("fault: no answer: %w", err)
}

func (c *conn) plain(w *response, req *http.Request) error {
	_, _ = io.Copy(io.Discard, req.Body)
	if c.s.opt.http != nil {
		c.s.opt.http.ServeHTTP(w, req)
	} else {
		http.NotFound(w, req)
	}
	return w.end(fmt.Errorf("%s %s answered", req.Method, req.URL.Path))
}

// response is a http.ResponseWriter for one answer, after which the connection
// is closed, or for the upgrade. net/http's server would add goroutines and
// timers of its own to every connection.
type response struct {
	conn   *tls.Conn
	br     *bufio.Reader
	header http.Header
	wrote  bool
}

func (w *response) Header() http.Header { return w.header }

func (w *response) WriteHeader(code int) {
	if w.wrote {
		return
	}
	w.wrote = true
	if code != http.StatusSwitchingProtocols {
		w.header.Set("Connection", "close")
		w.header.Del("Content-Length")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 %03d %s\r\n", code, http.StatusText(code))
	_ = w.header.Write(&b)
	b.WriteString("\r\n")
	_, _ = io.WriteString(w.conn, b.String())
}

func (w *response) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.conn.Write(p)
}

func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.conn, bufio.NewReadWriter(w.br, bufio.NewWriter(w.conn)), nil
}

// end closes our side and waits for the client to close its own.
func (w *response) end(err error) error {
	_ = w.conn.CloseWrite()
	_ = w.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, _ = io.Copy(io.Discard, w.conn)
	return err
}
