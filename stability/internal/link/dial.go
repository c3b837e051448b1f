package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

var errSecondDial = errors.New("link: a second dial within one attempt")

// timeoutError is a net.Error that says what took too long.
type timeoutError struct {
	what string
	d    time.Duration
}

func (e *timeoutError) Error() string   { return fmt.Sprintf("link: no %s within %s", e.what, e.d) }
func (e *timeoutError) Timeout() bool   { return true }
func (e *timeoutError) Temporary() bool { return true }
func (e *timeoutError) Is(target error) bool {
	return target == context.DeadlineExceeded || target == os.ErrDeadlineExceeded
}

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// baseTransport is the template of all transports: the host's, with a dialer
// in place and timeouts where it has none.
func baseTransport(cfg Config) *http.Transport {
	t := cfg.Transport
	if t != nil {
		t = t.Clone()
	} else {
		if def, ok := http.DefaultTransport.(*http.Transport); ok {
			t = def.Clone()
		} else {
			t = &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true}
		}
		t.DialContext = nil
	}
	if t.DialContext == nil {
		if dial := t.Dial; dial != nil { //nolint:staticcheck // a host may still use it
			t.DialContext = func(_ context.Context, network, addr string) (net.Conn, error) { return dial(network, addr) }
		} else {
			t.DialContext = (&net.Dialer{KeepAliveConfig: cfg.KeepAlive}).DialContext
		}
	}
	if dial := t.DialTLS; dial != nil && t.DialTLSContext == nil { //nolint:staticcheck // as above
		t.DialTLSContext = func(_ context.Context, network, addr string) (net.Conn, error) { return dial(network, addr) }
	}
	t.Dial, t.DialTLS = nil, nil //nolint:staticcheck // as above
	if t.TLSHandshakeTimeout <= 0 {
		t.TLSHandshakeTimeout = cfg.TLSHandshakeTimeout
	}
	return t
}

// attemptTransport makes the transport of one attempt. One of its own, so
// that the one dial it makes is known to belong to the attempt: net/http
// detaches dials from the request.
func (c *Conn) attemptTransport() *http.Transport {
	t := c.l.base.Clone()
	t.DisableKeepAlives = true
	t.ForceAttemptHTTP2 = false
	t.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP1(true)
	if t.TLSClientConfig != nil {
		// A transport that was used before it was cloned offers h2 here.
		t.TLSClientConfig.NextProtos = nil
	}
	c.watchProxy(t)
	t.DialContext = c.dialer(t.DialContext, c.l.cfg.DialTimeout)
	if t.DialTLSContext != nil {
		t.DialTLSContext = c.dialer(t.DialTLSContext, c.l.cfg.DialTimeout+t.TLSHandshakeTimeout)
	}
	return t
}

func (c *Conn) dialer(dial dialFunc, timeout time.Duration) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		defer context.AfterFunc(c.dialCtx, cancel)()
		nc, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		if tc, ok := innermost(nc).(*net.TCPConn); ok {
			_ = tc.SetKeepAliveConfig(c.l.cfg.KeepAlive)
		}
		raw, err := c.adopt(nc)
		if err != nil {
			return nil, fmt.Errorf("link: dialing: %w", err)
		}
		return raw, nil
	}
}

// attemptTripper is the Transport of the websocket clients: one RoundTrip is
// one attempt.
type attemptTripper struct{ l *Link }

func (t attemptTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	c, callbacks, err := t.l.dialing(req.Context())
	if err != nil {
		return nil, err
	}
	if !c.owned { // the host's own call, in whose goroutine this is
		t.l.Restore()
	}
	for _, f := range callbacks {
		f(c)
	}
	resp, err := c.upgrade(req)
	if err != nil {
		c.shut(err)
		if !c.owned {
			c.settle(false)
		}
		if cause := c.isDown(); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("link: attempt ended: %w", cause)
		}
		return nil, err
	}
	return resp, nil
}

// dialing finds or makes the attempt to which a dial belongs.
func (l *Link) dialing(ctx context.Context) (*Conn, []func(*Conn), error) {
	if err := l.open(); err != nil {
		return nil, nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut != nil {
		return nil, nil, fmt.Errorf("link: cut: %w", l.cut)
	}
	if l.ending != nil {
		return nil, nil, ErrEnding
	}
	c, ok := ctx.Value(connKey{}).(*Conn)
	if !ok || c.l != l {
		c = l.newConn(false)
	}
	if !c.claim() {
		return nil, nil, errSecondDial
	}
	l.current = c
	return c, l.onConn, nil
}

// claim marks the attempt as dialed; false if it was before.
func (c *Conn) claim() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.dialed
	c.dialed = true
	return !was
}

// upgrade makes the request, bounded by cut and timeout, and wraps the body.
func (c *Conn) upgrade(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	defer cancel(nil)
	defer context.AfterFunc(c.dialCtx, func() { cancel(context.Cause(c.dialCtx)) })()
	limit := c.l.cfg.UpgradeTimeout
	defer time.AfterFunc(limit, func() { c.limit(limit) }).Stop()

	t := c.attemptTransport()
	defer t.CloseIdleConnections()
	resp, err := t.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return nil, c.blame(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		// Nobody needs the text, and reading it could block.
		c.shut(fmt.Errorf("%w: status %d", ErrStatus, resp.StatusCode))
		_ = resp.Body.Close()
		resp.Body = http.NoBody
		if !c.owned {
			c.settle(false)
		}
		return resp, nil
	}
	rwc, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("link: upgraded body is a %T, which cannot be written", resp.Body)
	}
	b := newBody(c, rwc, strings.Join(resp.Header.Values("Sec-WebSocket-Extensions"), ","))
	c.mu.Lock()
	c.body = b
	c.mu.Unlock()
	resp.Body = b
	c.upgraded.Store(true)
	c.l.report(Dialer, "")
	return resp, nil
}

// mediaTransport carries uploads and downloads: the same settings, new
// connections only while something may go out.
func (l *Link) mediaTransport() *http.Transport {
	t := l.base.Clone()
	gated := func(dial dialFunc) dialFunc {
		if dial == nil {
			return nil
		}
		return func(ctx context.Context, network, addr string) (net.Conn, error) {
			if err := l.open(); err != nil {
				return nil, err
			}
			return dial(ctx, network, addr)
		}
	}
	t.DialContext = gated(t.DialContext)
	t.DialTLSContext = gated(t.DialTLSContext)
	return t
}

type mediaTripper struct{ l *Link }

func (t mediaTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := t.l.open(); err != nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, err
	}
	return t.l.media.RoundTrip(req)
}

// CloseIdleConnections lets http.Client.CloseIdleConnections reach the
// media connections.
func (t mediaTripper) CloseIdleConnections() { t.l.media.CloseIdleConnections() }
