package link

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/wastability/wastability/reconnect"
)

// proxied is what is known of the proxy that an attempt goes through.
type proxied struct {
	url    atomic.Pointer[url.URL] // nil without a proxy; only its scheme and host may be told
	passed atomic.Bool             // it let the attempt through
}

// proxyError says that an attempt came no further than the host's own proxy.
type proxyError struct{ cause reconnect.Cause }

func (e *proxyError) Error() string { return e.cause.Error() }
func (e *proxyError) Unwrap() error { return e.cause }

// watchProxy notes in c which proxy a transport uses, and what it answers:
// net/http tells the text of the answer alone.
func (c *Conn) watchProxy(t *http.Transport) {
	choose, answered := t.Proxy, t.OnProxyConnectResponse
	if choose == nil {
		return
	}
	t.Proxy = func(r *http.Request) (*url.URL, error) {
		u, err := choose(r)
		if err == nil && u != nil {
			c.proxy.url.Store(u)
		}
		return u, err
	}
	t.OnProxyConnectResponse = func(ctx context.Context, u *url.URL, req *http.Request, resp *http.Response) error {
		if answered != nil {
			if err := answered(ctx, u, req, resp); err != nil {
				return err
			}
		}
		if resp.StatusCode != http.StatusOK {
			return &proxyError{reconnect.Cause{
				Reason: reconnect.ReasonNetworkUnreachable, Source: reconnect.SourceError, Code: resp.StatusCode,
				Detail: "the proxy " + u.Host + " answered " + strings.TrimSpace(strconv.Itoa(resp.StatusCode)+" "+http.StatusText(resp.StatusCode)),
			}}
		}
		c.proxy.passed.Store(true)
		return nil
	}
}

// blame says of an attempt that failed for err whether it came no further than
// the proxy. A failure behind a SOCKS proxy that let it through is not the
// proxy's doing, and net/http tells of such a proxy only when it fails.
func (c *Conn) blame(err error) error {
	proxy := c.proxy.url.Load()
	if proxy == nil || c.proxy.passed.Load() || c.isDown() != nil || errors.Is(err, context.Canceled) {
		return err
	}
	if _, ok := errors.AsType[*proxyError](err); ok {
		return err
	}
	op, _ := errors.AsType[*net.OpError](err)
	reached, _ := reconnect.Classify(err)
	cause := reconnect.Cause{Reason: reconnect.ReasonNetworkUnreachable, Source: reconnect.SourceError, Err: err}
	failed := "refused the connection"
	switch {
	case op != nil && op.Op == "proxyconnect":
		failed = "cannot be reached"
		if reached.Reason == reconnect.ReasonNetworkUnreachable && reached.Detail != "" {
			failed += ": " + reached.Detail
		}
	case op != nil && strings.HasPrefix(op.Op, "socks"):
		if op.Err != nil {
			failed += ": " + op.Err.Error()
		}
	case strings.HasPrefix(proxy.Scheme, "http"):
		failed = "ended the connection without an answer"
	default:
		return err
	}
	if reached.Reason == reconnect.ReasonTimedOut {
		cause.Reason, failed = reconnect.ReasonTimedOut, "did not answer in time"
	}
	cause.Detail = "the proxy " + proxy.Host + " " + failed
	return &proxyError{cause}
}

// limit ends an attempt whose websocket is not open in time.
func (c *Conn) limit(d time.Duration) {
	c.Cut(c.blame(&timeoutError{"websocket upgrade", d}))
}
