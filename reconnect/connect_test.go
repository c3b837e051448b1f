package reconnect_test

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/proto/waCert"
	"go.mau.fi/whatsmeow/proto/waWa6"
	"go.mau.fi/whatsmeow/socket"
	"go.mau.fi/whatsmeow/store"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/stabilitytest"
)

// connect lets the real client connect through dial, in place of the network,
// and classifies what it says.
func connect(t *testing.T, transport *http.Transport, timeout time.Duration) reconnect.Cause {
	client := whatsmeow.NewClient(store.NoopDevice, nil)
	hc := &http.Client{Transport: transport, Timeout: timeout}
	client.SetPreLoginHTTPClient(hc)
	client.SetWebsocketHTTPClient(hc)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := client.ConnectContext(ctx)
	defer client.Disconnect()
	require.Error(t, err)
	c, ends := reconnect.Classify(err)
	require.True(t, ends)
	require.Equal(t, reconnect.SourceError, c.Source)
	require.ErrorIs(t, c, err)
	operatorText(t, c.Detail)
	t.Logf("%s %q <- %v", c.Reason, c.Detail, err)
	return c
}

// to makes every dial go to the test server.
func to(server *httptest.Server, roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, server.Listener.Addr().String())
		},
	}
}

func TestDialErrorsOfTheRealClient(t *testing.T) {
	failing := func(err error) *http.Transport {
		return &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, err }}
	}
	op := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	port, err := stabilitytest.FreePort()
	require.NoError(t, err)
	closed := "127.0.0.1:" + port

	for name, want := range map[string]struct {
		transport *http.Transport
		reason    reconnect.Reason
		detail    string
	}{
		"refused": {&http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, closed)
		}}, reconnect.ReasonNetworkUnreachable, "refused"},
		"dns":         {failing(op(&net.DNSError{Err: "no such host", Name: "x", IsNotFound: true})), reconnect.ReasonNetworkUnreachable, "resolved"},
		"dns timeout": {failing(op(&net.DNSError{Err: "i/o timeout", Name: "x", IsTimeout: true})), reconnect.ReasonNetworkUnreachable, "name server"},
		"no route":    {failing(op(syscall.ENETUNREACH)), reconnect.ReasonNetworkUnreachable, "no route"},
		"tcp timeout": {failing(op(syscall.ETIMEDOUT)), reconnect.ReasonTimedOut, "in time"},
		"reset":       {failing(op(syscall.ECONNRESET)), reconnect.ReasonNetworkUnreachable, "while it was being made"},
		"anything":    {failing(errors.New("no")), reconnect.ReasonNetworkUnreachable, "could not be reached"},
		"proxy": {&http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: closed})},
			reconnect.ReasonNetworkUnreachable, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, want.transport, 5*time.Second)
			require.Equal(t, want.reason, c.Reason)
			require.Contains(t, c.Detail, want.detail)
		})
	}
}

func TestTLSErrorsOfTheRealClient(t *testing.T) {
	nothing := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	plain := httptest.NewServer(nothing)
	defer plain.Close()
	c := connect(t, to(plain, nil), 5*time.Second)
	require.Equal(t, reconnect.ReasonNetworkUnreachable, c.Reason)

	server := httptest.NewUnstartedServer(nothing)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // it reports every refused handshake
	server.StartTLS()
	defer server.Close()
	c = connect(t, to(server, nil), 5*time.Second)
	require.Equal(t, reconnect.ReasonNetworkUnreachable, c.Reason)
	require.Contains(t, c.Detail, "TLS certificate")

	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	c = connect(t, to(server, roots), 5*time.Second)
	require.Equal(t, reconnect.ReasonNetworkUnreachable, c.Reason)
	require.Contains(t, c.Detail, "another name")
}

// trusting accepts any TLS certificate: what follows TLS is under test.
func trusting(server *httptest.Server) *http.Transport {
	transport := to(server, nil)
	transport.TLSClientConfig.InsecureSkipVerify = true
	return transport
}

func TestHTTPStatusInsteadOfAWebsocket(t *testing.T) {
	for status, want := range map[int]reconnect.Reason{
		200: reconnect.ReasonNetworkUnreachable,
		403: reconnect.ReasonServiceUnavailable,
		429: reconnect.ReasonServiceUnavailable,
		500: reconnect.ReasonServiceUnavailable,
		503: reconnect.ReasonServiceUnavailable,
	} {
		server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		c := connect(t, trusting(server), 5*time.Second)
		require.Equal(t, want, c.Reason, status)
		require.Equal(t, status, c.Code)
		server.Close()
	}
}

// inBubble runs the client against a websocket server over an in-memory pipe,
// so that its fixed wait of 20 s costs nothing.
func inBubble(t *testing.T, timeout time.Duration, serve http.HandlerFunc) (c reconnect.Cause) {
	synctest.Test(t, func(t *testing.T) {
		tlsServer := httptest.NewUnstartedServer(nil) // for its certificate only
		tlsServer.StartTLS()
		config := tlsServer.TLS.Clone()
		tlsServer.Close()
		config.NextProtos = []string{"http/1.1"}

		conns := make(chan net.Conn)
		listener := &pipeListener{conns: conns, done: make(chan struct{})}
		server := &http.Server{Handler: serve}
		finished := make(chan struct{})
		go func() { _ = server.Serve(tls.NewListener(listener, config)); close(finished) }()

		transport := &http.Transport{
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				ours, theirs := net.Pipe()
				conns <- theirs
				return ours, nil
			},
		}
		c = connect(t, transport, timeout)
		transport.CloseIdleConnections()
		require.NoError(t, server.Close())
		<-finished
	})
	return c
}

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
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

// upgraded accepts the websocket and hands it to talk.
func upgraded(talk func(ctx context.Context, ws *websocket.Conn)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return
		}
		defer func() { _ = ws.CloseNow() }()
		talk(r.Context(), ws)
	}
}

func frame(payload []byte) []byte {
	return append([]byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload))}, payload...)
}

func TestHandshakeErrorsOfTheRealClient(t *testing.T) {
	hang := func(ctx context.Context, ws *websocket.Conn) {
		for {
			if _, _, err := ws.Read(ctx); err != nil {
				return
			}
		}
	}
	answer := func(payload func(hello []byte) []byte) http.HandlerFunc {
		return upgraded(func(ctx context.Context, ws *websocket.Conn) {
			_, hello, err := ws.Read(ctx)
			if err != nil {
				return
			}
			_ = ws.Write(ctx, websocket.MessageBinary, frame(payload(hello)))
			hang(ctx, ws)
		})
	}
	for name, want := range map[string]struct {
		serve  http.HandlerFunc
		reason reconnect.Reason
		detail string
	}{
		"hanging upgrade": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, reconnect.ReasonTimedOut, "in time"},
		"no hello":        {upgraded(hang), reconnect.ReasonTimedOut, "did not answer the Noise handshake"},
		"closed":          {upgraded(func(ctx context.Context, ws *websocket.Conn) { _, _, _ = ws.Read(ctx) }), reconnect.ReasonTimedOut, "Noise handshake"},
		"empty frame":     {answer(func([]byte) []byte { return nil }), reconnect.ReasonTimedOut, "cut short"},
		"no protobuf":     {answer(func([]byte) []byte { return []byte("HTTP/1.1 200 OK") }), reconnect.ReasonConnectionClosed, "Noise handshake"},
		"wrong certificate": {answer(func(hello []byte) []byte { return serverHello(t, hello, true) }),
			reconnect.ReasonUntrustedServer, "certificate"},
		"damaged hello": {answer(func(hello []byte) []byte { return serverHello(t, hello, false) }),
			reconnect.ReasonConnectionClosed, "Noise handshake"},
	} {
		t.Run(name, func(t *testing.T) {
			c := inBubble(t, 15*time.Second, want.serve)
			require.Equal(t, want.reason, c.Reason)
			require.Contains(t, c.Detail, want.detail)
		})
	}
}

// serverHello answers a client hello as a server whose certificate nobody
// signed; or, if it is not honest, with ciphertext that does not decrypt.
func serverHello(t *testing.T, hello []byte, honest bool) []byte {
	var msg waWa6.HandshakeMessage
	require.NoError(t, proto.Unmarshal(hello[len(socket.WAConnHeader)+3:], &msg))
	theirs := msg.GetClientHello().GetEphemeral()

	key := func() (priv, pub [32]byte) {
		k, err := ecdh.X25519().GenerateKey(rand.Reader)
		require.NoError(t, err)
		return [32]byte(k.Bytes()), [32]byte(k.PublicKey().Bytes())
	}
	ephemeral, ephemeralPub := key()
	static, staticPub := key()
	nh := socket.NewNoiseHandshake()
	nh.Start(socket.NoiseStartPattern, socket.WAConnHeader)
	nh.Authenticate(theirs)
	nh.Authenticate(ephemeralPub[:])
	require.NoError(t, nh.MixSharedSecretIntoKey(ephemeral, [32]byte(theirs)))
	sealed := nh.Encrypt(staticPub[:])
	require.NoError(t, nh.MixSharedSecretIntoKey(static, [32]byte(theirs)))
	cert, err := proto.Marshal(&waCert.CertChain{})
	require.NoError(t, err)
	payload := nh.Encrypt(cert)
	if !honest {
		sealed[0] ^= 1
	}
	out, err := proto.Marshal(&waWa6.HandshakeMessage{ServerHello: &waWa6.HandshakeMessage_ServerHello{
		Ephemeral: ephemeralPub[:], Static: sealed, Payload: payload,
	}})
	require.NoError(t, err)
	return out
}
