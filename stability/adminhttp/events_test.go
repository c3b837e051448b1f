package adminhttp_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability/adminhttp"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// pipes is a listener in memory, whose connections keep virtual time.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if c, ok := <-p; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// hear serves h over pipes and opens streams.
func hear(t *testing.T, h http.Handler) (open func(header string) net.Conn) {
	l := make(pipes)
	srv := &http.Server{Handler: h}
	over := make(chan struct{})
	go func() { defer close(over); _ = srv.Serve(l) }()
	t.Cleanup(func() {
		close(l)
		<-over
		_ = srv.Close()
	})
	return func(header string) net.Conn {
		client, server := net.Pipe()
		l <- server
		t.Cleanup(func() { _ = client.Close() })
		_, err := io.WriteString(client, "GET /events HTTP/1.1\r\nHost: bot\r\n"+header+"\r\n\r\n")
		require.NoError(t, err)
		return client
	}
}

const withToken = adminhttp.TokenHeader + ": " + token

// heard counts what a stream tells until it ends.
type heard struct {
	changed, beats atomic.Int64
	last           atomic.Pointer[string]
	ended          chan struct{}
}

func listen(t *testing.T, c net.Conn) *heard {
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	require.NoError(t, err)
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
	x := &heard{ended: make(chan struct{})}
	go func() {
		defer close(x.ended)
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			line := lines.Text()
			switch {
			case line == "event: changed":
				x.changed.Add(1)
			case strings.HasPrefix(line, ":"):
				x.beats.Add(1)
			}
			if strings.HasPrefix(line, "event: ") {
				x.last.Store(&line)
			}
		}
	}()
	return x
}

func TestStreamTellsOfChangesAtABoundedRate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		x := listen(t, hear(t, p.h)(withToken))
		synctest.Wait()
		require.Zero(t, x.changed.Load())
		start := time.Now()
		p.run().pair()
		for range 50 {
			p.sim.Fault(wasim.FIN()).For(p.account.JID()).Now()
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		require.Positive(t, x.changed.Load())
		require.LessOrEqual(t, x.changed.Load(), int64(time.Since(start)/time.Second)+1)
		before := x.beats.Load()
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		require.GreaterOrEqual(t, x.beats.Load(), before+15, "a dead client would be noticed")

		p.stop()
		<-x.ended
		require.Equal(t, "event: over", *x.last.Load())
		require.Zero(t, p.h.Streams())
	})
}

func TestSlowReaderOfTheStreamIsDropped(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		open := hear(t, p.h)
		slow := open(withToken)
		_, err := http.ReadResponse(bufio.NewReaderSize(slow, 16), nil) // and then it reads no more
		require.NoError(t, err)
		quick := listen(t, open(withToken))
		synctest.Wait()
		require.Equal(t, 2, p.h.Streams())
		time.Sleep(21 * time.Second) // a heartbeat, and its deadline
		synctest.Wait()
		require.Equal(t, 1, p.h.Streams())
		time.Sleep(time.Minute)
		require.Positive(t, quick.beats.Load(), "others are not held up")
	})
}

func TestStreamEndsWithHandlerAndSignIn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		open := hear(t, p.h)
		b := p.browser()
		b.signIn(token)
		x := listen(t, open("Cookie: "+b.cookie.Name+"="+b.cookie.Value))
		y := listen(t, open(withToken))
		b.do("POST", "/sign-out", map[string][]string{"csrf": {value(b.page("/").id("sign-out-form"), "csrf")}})
		<-x.ended
		require.Equal(t, "event: signed-out", *x.last.Load())
		require.Equal(t, 1, p.h.Streams())
		require.NoError(t, p.h.Close())
		<-y.ended
		synctest.Wait()
		require.Zero(t, p.h.Streams())
		require.NoError(t, p.h.Close())
		require.Equal(t, 200, p.get("/").Code, "requests are still answered")
		resp, err := http.ReadResponse(bufio.NewReader(open("X: y")), nil)
		require.NoError(t, err)
		require.Equal(t, 401, resp.StatusCode)
	})
}

// A thousand open pages must not be what ends the process. Counted is what the
// server and the clients of this test hold together.
func TestThousandStreamsCostLittleAndMoreAreRefused(t *testing.T) {
	p := newPlace(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := &http.Server{Handler: p.h}
	over := make(chan struct{})
	go func() { defer close(over); _ = srv.Serve(l) }()
	defer func() { _ = srv.Close(); <-over }()
	used := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc + m.StackInuse)
	}
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	open := func() string {
		c, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		conns = append(conns, c)
		_, err = fmt.Fprintf(c, "GET /events HTTP/1.1\r\nHost: bot\r\n%s\r\n\r\n", withToken)
		require.NoError(t, err)
		var buf [12]byte
		_, err = io.ReadFull(c, buf[:])
		require.NoError(t, err)
		return string(buf[9:])
	}
	before := used()
	for range 1000 {
		require.Equal(t, "200", open())
	}
	require.Equal(t, 1000, p.h.Streams())
	cost := used() - before
	t.Logf("1,000 streams: %.1f MB", float64(cost)/1e6)
	require.Less(t, cost, int64(50_000_000))
	for range 24 {
		require.Equal(t, "200", open())
	}
	require.Equal(t, "503", open())
	require.NoError(t, p.h.Close())
	for p.h.Streams() > 0 {
		runtime.Gosched()
	}
}
