package link

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"pgregory.net/rapid"

	"github.com/wastability/wastability/stability/stabilitytest"
)

// pipeListener gives an HTTP server the server ends of pipes.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { close(l.done); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// compressing dials a server that accepts permessage-deflate, through a Link,
// as a client that offers it does. In a bubble.
func compressing(t *testing.T, serve func(ctx context.Context, c *websocket.Conn)) (*Conn, *websocket.Conn) {
	t.Helper()
	lis := &pipeListener{make(chan net.Conn), make(chan struct{})}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionContextTakeover, CompressionThreshold: 1})
		if err != nil {
			t.Errorf("accept: %v", err)
			return
		}
		defer c.CloseNow()
		serve(context.Background(), c)
	})}
	go func() { _ = srv.Serve(lis) }()
	t.Cleanup(func() { _ = srv.Close() })

	l := New(Config{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		client, server := newPipe()
		lis.conns <- server
		return client, nil
	}}})
	require.NoError(t, l.Install(whatsmeow.NewClient(newDevice(), nil)))
	ws, resp, err := websocket.Dial(t.Context(), "ws://server/ws", &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: attemptTripper{l}}, CompressionMode: websocket.CompressionContextTakeover, CompressionThreshold: 1,
	})
	require.NoError(t, err)
	require.Contains(t, resp.Header.Get("Sec-WebSocket-Extensions"), "permessage-deflate")
	t.Cleanup(func() { _ = ws.CloseNow() })
	return l.Current(), ws
}

// bigHello is long enough to be worth compressing.
func bigHello() []byte { return waFrame(bytes.Repeat([]byte("server hello "), 40)) }

func TestCompressedHelloComesAlone(t *testing.T) {
	again := bytes.Repeat([]byte("server hello once more "), 30) // refers to what came before
	for name, messages := range map[string][][]byte{
		"in a message of its own":       {bigHello(), again},
		"with more in the same message": {append(bigHello(), waFrame([]byte("more of it"))...), again},
		"in two messages":               {bigHello()[:100], bigHello()[100:], again},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c, ws := compressing(t, func(ctx context.Context, s *websocket.Conn) {
					_, _, _ = s.Read(ctx) // the client hello
					for _, m := range messages {
						_ = s.Write(ctx, websocket.MessageBinary, m)
					}
					for {
						_, m, err := s.Read(ctx)
						if err != nil {
							return
						}
						_ = s.Write(ctx, websocket.MessageBinary, m)
					}
				})
				require.NoError(t, ws.Write(t.Context(), websocket.MessageBinary, waFrame([]byte("client hello"))))
				_, got, err := ws.Read(t.Context())
				require.NoError(t, err)
				require.Equal(t, bigHello(), got, "nothing behind the hello yet")

				require.NoError(t, ws.Write(t.Context(), websocket.MessageBinary, waFrame([]byte("client finish"))))
				want := bytes.Join(messages, nil)[len(bigHello()):]
				var rest []byte
				for len(rest) < len(want) {
					_, got, err = ws.Read(t.Context())
					require.NoError(t, err)
					rest = append(rest, got...)
				}
				require.Equal(t, want, rest)
				_, got, err = ws.Read(t.Context())
				require.NoError(t, err)
				require.Equal(t, waFrame([]byte("client finish")), got)

				for range stabilitytest.Pick(50, 200) {
					m := bytes.Repeat(fmt.Appendf(nil, "round %d ", rand.IntN(10)), 1+rand.IntN(2000))
					require.NoError(t, ws.Write(t.Context(), websocket.MessageBinary, m))
					_, got, err := ws.Read(t.Context())
					require.NoError(t, err)
					require.Equal(t, m, got)
				}
				require.True(t, c.Up())
				_ = ws.Close(websocket.StatusNormalClosure, "") // the link does not wait for the answer
				require.ErrorIs(t, c.Err(), ErrDisconnected)
			})
		})
	}
}

func TestCompressedAttemptThatDiesFailsAtOnce(t *testing.T) {
	for name, serve := range map[string]func(ctx context.Context, s *websocket.Conn){
		"closed instead of hello": func(ctx context.Context, s *websocket.Conn) { _ = s.CloseNow() },
		"half of the hello": func(ctx context.Context, s *websocket.Conn) {
			_ = s.Write(ctx, websocket.MessageBinary, bigHello()[:200])
			_ = s.CloseNow()
		},
		"nothing": func(ctx context.Context, s *websocket.Conn) { _, _, _ = s.Read(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c, ws := compressing(t, func(ctx context.Context, s *websocket.Conn) {
					_, _, _ = s.Read(ctx)
					serve(ctx, s)
				})
				began := time.Now()
				require.NoError(t, ws.Write(t.Context(), websocket.MessageBinary, waFrame([]byte("client hello"))))
				_, got, err := ws.Read(t.Context())
				require.NoError(t, err)
				require.Equal(t, []byte{0, 0, 0}, got, "a hello with its parts missing")
				require.LessOrEqual(t, time.Since(began), c.l.cfg.HelloTimeout)
				require.True(t, isClosed(c.down))
			})
		})
	}
}

func TestStoredMessageInflatesToItself(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom([]int{0, 1, 125, 65534, 65535, 65536, 200_000}).Draw(t, "size")
		want := bytes.Repeat([]byte{rapid.Byte().Draw(t, "byte")}, size)
		frame := appendStored(nil, want)
		h, ok, valid := parseHeader(frame, rsvDeflate)
		require.True(t, ok && valid)
		require.EqualValues(t, rsvDeflate, h.rsv)
		got, err := inflate(frame[h.size:], nil, len(want))
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got))
		if size > 0 {
			_, err = inflate(frame[h.size:], nil, size-1)
			require.Error(t, err)
		}
	})
}

func TestReservedBitsAreThoseOfTheExtension(t *testing.T) {
	frame := appendStored(nil, []byte("x"))
	for ext, want := range map[string]byte{
		"": rsvNone, "permessage-deflate": rsvDeflate, "permessage-deflate; client_max_window_bits=15": rsvDeflate,
		"permessage-x": rsvAny, "permessage-deflate, permessage-x": rsvAny,
	} {
		require.Equal(t, want, reservedBits(ext), ext)
		_, _, valid := parseHeader(frame, reservedBits(ext))
		require.Equal(t, ext != "", valid, "a compressed frame must have been negotiated")
	}
	for _, op := range []byte{opContinuation, opPing, opClose} {
		_, _, valid := parseHeader([]byte{0x80 | rsvDeflate | op, 0}, rsvDeflate)
		require.False(t, valid, "only the first frame of a message says that it is compressed")
	}
}
