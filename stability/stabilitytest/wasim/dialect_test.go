package wasim_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/proto/waWa6"
	"go.mau.fi/whatsmeow/socket"
	"go.mau.fi/whatsmeow/types/events"
	"go.mau.fi/whatsmeow/util/keys"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// tapped records the bytes of a websocket in both directions, behind TLS.
type tapped struct {
	http.RoundTripper
	mu      sync.Mutex
	in, out bytes.Buffer
}

type tappedBody struct {
	io.ReadWriteCloser
	t *tapped
}

func (t *tapped) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(r)
	if err == nil && resp.StatusCode == http.StatusSwitchingProtocols {
		resp.Body = tappedBody{resp.Body.(io.ReadWriteCloser), t}
	}
	return resp, err
}

func (b tappedBody) Read(p []byte) (int, error) {
	n, err := b.ReadWriteCloser.Read(p)
	b.t.mu.Lock()
	defer b.t.mu.Unlock()
	b.t.in.Write(p[:n])
	return n, err
}

func (b tappedBody) Write(p []byte) (int, error) {
	b.t.mu.Lock()
	b.t.out.Write(p)
	b.t.mu.Unlock()
	return b.ReadWriteCloser.Write(p)
}

// firstBytes are the first bytes of the first frame each way. 0x82 begins a
// frame of data, 0xc2 a compressed one.
func (t *tapped) firstBytes() (out, in byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.out.Bytes()[0], t.in.Bytes()[0]
}

// hello dials the service as a client that wants mode, sends a Noise hello, and
// reads the service's.
func hello(t *testing.T, s *wasim.Service, mode websocket.CompressionMode) *tapped {
	t.Helper()
	tap := &tapped{RoundTripper: s.Transport("dialer")}
	ctx := within(t, time.Minute)
	ws, _, err := websocket.Dial(ctx, "wss://web.whatsapp.com/ws/chat", &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: tap}, CompressionMode: mode, CompressionThreshold: 1,
	})
	require.NoError(t, err)
	frame, err := proto.Marshal(&waWa6.HandshakeMessage{ClientHello: &waWa6.HandshakeMessage_ClientHello{
		Ephemeral: keys.NewKeyPair().Pub[:],
	}})
	require.NoError(t, err)
	out := append(bytes.Clone(socket.WAConnHeader), 0, 0, byte(len(frame)))
	require.NoError(t, ws.Write(ctx, websocket.MessageBinary, append(out, frame...)))
	_, in, err := ws.Read(ctx)
	require.NoError(t, err)
	var answer waWa6.HandshakeMessage
	require.NoError(t, proto.Unmarshal(in[socket.FrameLengthSize:], &answer))
	require.Len(t, answer.GetServerHello().GetEphemeral(), 32)
	require.NoError(t, ws.CloseNow())
	return tap
}

func TestFramesAreCompressedIfBothSidesWantIt(t *testing.T) {
	const plain, compressed = 0x82, 0xc2
	for _, c := range []struct {
		name          string
		opts          []wasim.Option
		mode          websocket.CompressionMode
		first         byte
		offered, with int
	}{
		{"both", []wasim.Option{wasim.WithCompression()}, websocket.CompressionContextTakeover, compressed, 1, 1},
		{"both, without takeover", []wasim.Option{wasim.WithCompression()}, websocket.CompressionNoContextTakeover, compressed, 1, 1},
		{"only the client", nil, websocket.CompressionContextTakeover, plain, 1, 0},
		{"only the service", []wasim.Option{wasim.WithCompression()}, websocket.CompressionDisabled, plain, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, s *wasim.Service) {
				out, in := hello(t, s, c.mode).firstBytes()
				require.Equal(t, c.first, out, "to the service")
				require.Equal(t, c.first, in, "from the service")
				offered, with := s.Compression()
				require.Equal(t, c.offered, offered)
				require.Equal(t, c.with, with)
			}, c.opts...)
		})
	}
}

// A client that offers no compression is served without.
func TestRealClientsChatWithACompressingService(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		a, b := newContact(t, s, "491700000001"), newContact(t, s, "491700000002")
		greet(t, a, b)
		offered, with := s.Compression()
		require.Equal(t, offered, with, "all who offer it get it")
	}, wasim.WithCompression())
}

func TestContactsAddressByLIDIfAsked(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		h := online(t, s, s.NewAccount("491700000001"))
		bob := newContact(t, s, "491700000002")
		_, err := bob.Send(within(t, time.Minute), h.jid().ToNonAD(), "hello")
		require.NoError(t, err)
		eventually(t, "it came", func() bool { return len(texts(h)) == 1 })
		m := got[*events.Message](h)[0]
		require.Equal(t, bob.Account().LID(), m.Info.Chat)
		require.Equal(t, bob.Account().LID(), m.Info.Sender.ToNonAD())
		require.Equal(t, bob.JID(), m.Info.SenderAlt.ToNonAD())
		_, err = h.cli.SendMessage(within(t, time.Minute), m.Info.Chat, text("back"))
		require.NoError(t, err)
		eventually(t, "answered", func() bool { return len(bob.Texts()) == 1 })
		h.end()
	}, wasim.WithLIDFirst())
}

// Newer clients check the bounds of the Noise certificate, older ones do not.
func TestACertificateOutOfItsTimeIsNoticedOrIgnored(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		name, says  string
		from, until time.Time
	}{
		{"expired", "expired", now.Add(-2 * time.Hour), now.Add(-time.Hour)},
		{"not yet valid", "not valid yet", now.Add(time.Hour), now.Add(2 * time.Hour)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := wasim.New(wasim.WithTB(t))
			require.NoError(t, s.Listen())
			f := s.Fault(wasim.CertificateValid(c.from, c.until)).From("late").OnNextLogin()
			h := newHost(s, wasim.NewMemoryDevice(), "late")
			err := h.connect()
			require.Equal(t, 1, f.Fired())
			if err != nil {
				require.ErrorContains(t, err, c.says)
			}
			require.Equal(t, err != nil, checksCertificates(t, s), "the same client, the same answer")
			s.Close()
			h.end()
		})
	}
}

// checksCertificates asks whether this client looks at the bounds at all, with
// a certificate that was valid in another century.
func checksCertificates(t *testing.T, s *wasim.Service) bool {
	t.Helper()
	s.Fault(wasim.CertificateValid(time.Unix(0, 0), time.Unix(1, 0))).From("probe").OnNextLogin()
	h := newHost(s, wasim.NewMemoryDevice(), "probe")
	defer h.cancel()
	return h.cli.ConnectContext(context.Background()) != nil
}
