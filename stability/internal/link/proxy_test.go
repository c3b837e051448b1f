package link

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/stabilitytest"
)

// through makes an attempt through a proxy and returns what its end means.
func through(t *testing.T, proxy string, tr *http.Transport, cfg Config) reconnect.Cause {
	t.Helper()
	at, err := url.Parse(proxy)
	require.NoError(t, err)
	at.User = url.UserPassword("somebody", "hunter2")
	tr.Proxy = http.ProxyURL(at)
	cfg.Transport = tr
	l := New(cfg)
	resp, err := (&http.Client{Transport: attemptTripper{l}}).Do(httpRequest(t))
	if err == nil {
		require.NoError(t, resp.Body.Close())
		return reconnect.Cause{}
	}
	require.NotContains(t, err.Error(), "hunter2")
	c, ends := reconnect.Classify(err)
	require.True(t, ends)
	return c
}

func TestProxyThatRefusesIsNamedWithItsAnswer(t *testing.T) {
	answers := func(code int, line string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if code != 0 {
				w.WriteHeader(code)
				return
			}
			c, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = c.Write([]byte(line))
				c.Close()
			}
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	gone, err := stabilitytest.FreePort()
	require.NoError(t, err)
	socks, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer socks.Close()
	go func() {
		for {
			c, err := socks.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 16)
			_, _ = c.Read(buf)
			_, _ = c.Write([]byte{5, 0xff}) // none of these ways to sign in
			c.Close()
		}
	}()
	for name, c := range map[string]struct {
		proxy  string
		reason reconnect.Reason
		code   int
		says   string
	}{
		"wants a password": {answers(407, ""), reconnect.ReasonNetworkUnreachable, 407, "answered 407 Proxy Authentication Required"},
		"forbids":          {answers(403, ""), reconnect.ReasonNetworkUnreachable, 403, "answered 403 Forbidden"},
		"odd answer":       {answers(0, "HTTP/1.1 799 <b>4915200000001</b>\r\nContent-Length: 0\r\n\r\n"), reconnect.ReasonNetworkUnreachable, 799, "answered 799"},
		"hangs up":         {answers(0, ""), reconnect.ReasonNetworkUnreachable, 0, "ended the connection without an answer"},
		"not there":        {"http://127.0.0.1:" + gone, reconnect.ReasonNetworkUnreachable, 0, "cannot be reached: the connection was refused"},
		"silent":           {"http://" + silent.Addr().String(), reconnect.ReasonTimedOut, 0, "did not answer in time"},
		"socks":            {"socks5://" + socks.Addr().String(), reconnect.ReasonNetworkUnreachable, 0, "refused the connection"},
	} {
		t.Run(name, func(t *testing.T) {
			at, err := url.Parse(c.proxy)
			require.NoError(t, err)
			cfg := Config{}
			if name == "silent" {
				cfg.UpgradeTimeout = 200 * time.Millisecond
			}
			cause := through(t, c.proxy, &http.Transport{}, cfg)
			require.Equal(t, c.reason, cause.Reason)
			require.Equal(t, c.code, cause.Code)
			require.Contains(t, cause.Detail, "the proxy "+at.Host+" "+c.says)
			require.NotContains(t, cause.Detail, "49152")
			require.True(t, cause.OfInstance(), "another instance may have another proxy")
		})
	}
}

func TestProxyIsNotBlamedForWhatLiesBehindIt(t *testing.T) {
	behind := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\n\r\n")) // and then no TLS
			c.Close()
		}
	}))
	defer behind.Close()
	cause := through(t, behind.URL, &http.Transport{}, Config{})
	require.NotEmpty(t, cause.Reason)
	require.NotContains(t, cause.Detail, "proxy")

	// Neither is it for an attempt that this side has cut.
	var l *Link
	tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		l.Cut(net.ErrClosed)
		return nil, net.ErrClosed
	}}
	at, err := url.Parse("http://proxy.invalid:3128")
	require.NoError(t, err)
	tr.Proxy = http.ProxyURL(at)
	l = New(Config{Transport: tr})
	resp, err := (&http.Client{Transport: attemptTripper{l}}).Do(httpRequest(t))
	if err == nil {
		resp.Body.Close()
	}
	require.ErrorIs(t, err, net.ErrClosed)
	require.NotContains(t, err.Error(), "proxy.invalid")
}
