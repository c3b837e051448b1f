package link

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
)

// tcpPair is a connection over loopback: the attempt's end and its peer.
func tcpPair(t *testing.T, c *Conn) (*rawConn, net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	nc, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	peer, err := ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _ = peer.Close() })
	raw, err := c.adopt(nc)
	require.NoError(t, err)
	return raw, peer
}

func TestACutFreesABlockedWriteAndDropsWhatTheKernelHolds(t *testing.T) {
	l := New(Config{})
	c := l.newConn(true)
	raw, peer := tcpPair(t, c)

	// Fill both ends' buffers; the peer reads nothing. They are full when a
	// fresh deadline passes twice without one byte taken.
	chunk := make([]byte, 1<<20)
	for full := 0; full < 2; {
		require.NoError(t, raw.SetWriteDeadline(time.Now().Add(100*time.Millisecond)))
		if n, err := raw.Write(chunk); err == nil || n > 0 {
			full = 0
		} else {
			full++
		}
	}
	require.NoError(t, raw.SetWriteDeadline(time.Time{}))
	require.NoError(t, c.Err(), "a Write that failed is not a loss yet")
	blocked := make(chan error, 1)
	go func() {
		_, err := raw.Write(chunk)
		blocked <- err
	}()

	cause := errors.New("lease over")
	c.Cut(cause)
	require.Error(t, <-blocked)
	require.ErrorIs(t, c.Err(), cause)
	_, err := raw.Write([]byte("x"))
	require.ErrorIs(t, err, cause)
	_, err = raw.Read(make([]byte, 1))
	require.ErrorIs(t, err, cause)

	arrived, err := io.Copy(io.Discard, peer)
	require.Error(t, err, "a reset, not an orderly end behind everything that was buffered")
	require.Less(t, uint64(arrived), c.BytesWritten())
}

func TestCutsFromEverywhereAtOnceAreOneCut(t *testing.T) {
	for range 100 {
		l := New(Config{})
		c := l.newConn(true)
		raw, peer := tcpPair(t, c)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { c.Cut(nil) })
			wg.Go(func() { _, _ = raw.Write([]byte("hello")) })
			wg.Go(func() { _, _ = raw.Read(make([]byte, 8)) })
		}
		wg.Go(func() { _, _ = peer.Write([]byte("hello")); _ = peer.Close() })
		wg.Wait()
		require.True(t, isClosed(c.down))
		require.Error(t, c.Err())
		c.Cut(errors.New("later"))
		require.ErrorIs(t, c.Err(), ErrCut)
	}
}

// forbidding is a TLS server that refuses every websocket with 403.
func forbidding(t *testing.T) (*httptest.Server, *http.Transport, *[]int) {
	t.Helper()
	var protos []int
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		protos = append(protos, r.ProtoMajor)
		w.WriteHeader(http.StatusForbidden)
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	tr := http.DefaultTransport.(*http.Transport).Clone()
	tr.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	tr.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, s.Listener.Addr().String())
	}
	return s, tr, &protos
}

func connectTo(t *testing.T, tr *http.Transport) *Conn {
	t.Helper()
	l := New(Config{Transport: tr})
	client := whatsmeow.NewClient(newDevice(), nil)
	require.NoError(t, l.Install(client))
	_, err := l.Connect(t.Context())
	require.ErrorContains(t, err, "got 403")
	require.ErrorIs(t, l.Current().Err(), ErrStatus)
	return l.Current()
}

func TestTheWebsocketNeverSpeaksHTTP2(t *testing.T) {
	_, tr, protos := forbidding(t)
	tr.TLSClientConfig.NextProtos = []string{"h2", "http/1.1"} // as after a first use
	tr.ForceAttemptHTTP2 = true
	connectTo(t, tr)
	require.Equal(t, []int{1}, *protos)
	require.Equal(t, []string{"h2", "http/1.1"}, tr.TLSClientConfig.NextProtos, "the host's own stays as it is")
}

func TestATLSDialerOfTheHostsIsUsedAndFenced(t *testing.T) {
	s, tr, _ := forbidding(t)
	tr.DialContext = nil
	tr.DialTLSContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(ctx, network, s.Listener.Addr().String())
	}
	c := connectTo(t, tr)
	require.NotZero(t, c.BytesRead())
	require.NotZero(t, c.BytesWritten())
}

func TestAProxyIsKept(t *testing.T) {
	target, tr, _ := forbidding(t)
	var asked string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.Method + " " + r.Host
		up, err := net.Dial("tcp", target.Listener.Addr().String())
		if err != nil {
			return
		}
		defer up.Close()
		down, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer down.Close()
		_, _ = down.Write([]byte("HTTP/1.1 200 OK\r\n\r\n"))
		go func() { _, _ = io.Copy(up, down); _ = up.Close() }()
		_, _ = io.Copy(down, up)
	}))
	defer proxy.Close()
	at, err := url.Parse(proxy.URL)
	require.NoError(t, err)
	tr.Proxy = http.ProxyURL(at)
	tr.DialContext = nil
	c := connectTo(t, tr)
	require.Equal(t, "CONNECT web.whatsapp.com:443", asked)
	require.False(t, c.LastRead().IsZero())
}

func TestMediaUsesTheSameTransportAndAsksTheGate(t *testing.T) {
	_, tr, _ := forbidding(t)
	fenced := errors.New("term over")
	var gate error
	l := New(Config{Transport: tr, Gate: func() error { return gate }})
	media := &http.Client{Transport: mediaTripper{l}}
	defer media.CloseIdleConnections()
	resp, err := media.Do(httpRequest(t))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusForbidden, resp.StatusCode)
	gate = fenced
	_, err = media.Do(httpRequest(t))
	require.ErrorIs(t, err, fenced)
}

func TestTheDefaultTransportIsNotTouched(t *testing.T) {
	def := http.DefaultTransport.(*http.Transport)
	before := def.DialContext != nil
	l := New(Config{})
	require.Equal(t, before, def.DialContext != nil)
	require.NotSame(t, def, l.base)
	require.Equal(t, 10*time.Second, l.base.TLSHandshakeTimeout)
	require.NotNil(t, l.base.Proxy, "HTTPS_PROXY is obeyed")
}
