package link

import (
	"bufio"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime/debug"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/util/keys"

	"github.com/wastability/wastability/stability/stabilitytest"
)

// bubble runs f in a synctest bubble, under a watchdog outside of it: a
// stopped clock hangs a bubble for ever.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	watchdog := time.AfterFunc(stabilitytest.Pick(30*time.Second, 10*time.Minute), func() {
		debug.SetTraceback("all")
		panic("the bubble's clock stands still: " + t.Name())
	})
	defer watchdog.Stop()
	synctest.Test(t, f)
}

var testCert = sync.OnceValue(func() tls.Certificate {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	return s.TLS.Certificates[0]
})

// network dials scripted servers in memory.
type network struct {
	script func(*server)
	wg     sync.WaitGroup
	mu     sync.Mutex
	ends   []*pipeConn
}

// server is one scripted server end.
type server struct {
	raw *pipeConn
	tls *tls.Conn
	br  *bufio.Reader
}

func (n *network) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, end := newPipe()
	n.mu.Lock()
	n.ends = append(n.ends, end)
	n.mu.Unlock()
	n.wg.Go(func() {
		defer end.Close()
		n.script(&server{raw: end})
	})
	return client, nil
}

func (n *network) transport() *http.Transport {
	return &http.Transport{DialContext: n.dial, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
}

// received counts what arrived at all servers.
func (n *network) received() (total int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.ends {
		total += e.received()
	}
	return total
}

// hang reads until the client goes.
func (s *server) hang() {
	if s.tls != nil {
		_, _ = io.Copy(io.Discard, s.tls)
	}
	_, _ = io.Copy(io.Discard, s.raw)
}

// secure makes the TLS handshake and reads the request; nil if the client went.
func (s *server) secure() *http.Request {
	s.tls = tls.Server(s.raw, &tls.Config{Certificates: []tls.Certificate{testCert()}})
	s.br = bufio.NewReader(s.tls)
	req, err := http.ReadRequest(s.br)
	if err != nil {
		return nil
	}
	return req
}

// upgrade answers the upgrade; false if the client went.
func (s *server) upgrade() bool {
	req := s.secure()
	if req == nil {
		return false
	}
	sum := sha1.Sum([]byte(req.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	_, err := fmt.Fprintf(s.tls, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	return err == nil
}

// clientHello waits for the first bytes behind the upgrade.
func (s *server) clientHello() bool {
	_, err := s.br.Peek(1)
	return err == nil
}

func (s *server) write(p []byte) { _, _ = s.tls.Write(p) }

func newDevice() *store.Device {
	identity := keys.NewKeyPair()
	dev := *store.NoopDevice
	dev.ID = nil
	dev.NoiseKey, dev.IdentityKey = keys.NewKeyPair(), identity
	dev.SignedPreKey = identity.CreateSignedPreKey(1)
	dev.AdvSecretKey = make([]byte, 32)
	return &dev
}

// scripted gives a client whose every dial reaches a server that follows the
// script. Inside a bubble.
func scripted(t *testing.T, cfg Config, script func(*server)) (*Link, *whatsmeow.Client, *network) {
	t.Helper()
	n := &network{script: script}
	if cfg.Transport == nil {
		cfg.Transport = n.transport()
	}
	l := New(cfg)
	c := whatsmeow.NewClient(newDevice(), nil)
	require.NoError(t, l.Install(c))
	t.Cleanup(n.wg.Wait)
	return l, c, n
}
