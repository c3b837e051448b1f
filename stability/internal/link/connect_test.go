package link

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/proto/waWa6"
	"go.mau.fi/whatsmeow/store"
	"google.golang.org/protobuf/proto"
)

// waFrame is a frame of WhatsApp's: three bytes of length, and the data.
func waFrame(data []byte) []byte {
	return append([]byte{byte(len(data) >> 16), byte(len(data) >> 8), byte(len(data))}, data...)
}

// badHello is a server hello that parses and does not decrypt.
func badHello() []byte {
	secret := make([]byte, 48)
	_, _ = rand.Read(secret)
	data, err := proto.Marshal(&waWa6.HandshakeMessage{ServerHello: &waWa6.HandshakeMessage_ServerHello{
		Ephemeral: bytes.Repeat([]byte{9}, 32), Static: secret, Payload: secret,
	}})
	if err != nil {
		panic(err)
	}
	return waFrame(data)
}

// A stage is a server that takes a client so far and no further. Connect
// fails by itself after `after`, with an error that matches.
type stage struct {
	name   string
	script func(*server)
	after  time.Duration
	is     error
	says   string
}

func stages() []stage {
	upgraded := func(answer func(s *server)) func(*server) {
		return func(s *server) {
			if s.upgrade() && s.clientHello() {
				answer(s)
				s.hang()
			}
		}
	}
	plain := func(text string) func(*server) {
		return func(s *server) {
			if s.secure() != nil {
				s.write([]byte(text))
				s.hang()
			}
		}
	}
	return []stage{
		{"TCP accepted and closed", func(s *server) {}, 0, nil, "failed to send handshake request"},
		{"TLS never answered", func(s *server) { s.hang() }, 10 * time.Second, nil, "TLS handshake timeout"},
		{"TLS answered with garbage", func(s *server) { _, _ = s.raw.Write([]byte("HTTP/1.0 400 no\r\n\r\n")); s.hang() }, 0, nil, "gave HTTP response"},
		{"upgrade never answered", func(s *server) { s.secure(); s.hang() }, 15 * time.Second, context.DeadlineExceeded, "no websocket upgrade within 15s"},
		{"upgrade answered by half", plain("HTTP/1.1 101 Swi"), 15 * time.Second, os.ErrDeadlineExceeded, "no websocket upgrade within 15s"},
		{"status 403", plain("HTTP/1.1 403 Forbidden\r\nContent-Length: 1000\r\n\r\nslow"), 0, nil, "got 403"},
		{"status 503", plain("HTTP/1.1 503 Service Unavailable\r\n\r\n"), 0, nil, "got 503"},
		{"redirect", plain("HTTP/1.1 302 Found\r\nLocation: https://elsewhere.example/\r\nContent-Length: 0\r\n\r\n"), 0, nil, "got 302"},
		{"hello never comes", upgraded(func(*server) {}), 15 * time.Second, context.DeadlineExceeded, "missing parts"},
		{"hello by half", upgraded(func(s *server) { s.write(appendFrame(nil, badHello())[:60]) }), 15 * time.Second, context.DeadlineExceeded, "missing parts"},
		{"hello by half, then closed", upgraded(func(s *server) { s.write(appendFrame(nil, badHello())[:60]); _ = s.raw.Close() }), 0, nil, "missing parts"},
		{"closed instead of hello", upgraded(func(s *server) { _ = s.raw.Close() }), 0, nil, "missing parts"},
		{"close frame instead of hello", upgraded(func(s *server) { s.write([]byte{0x88, 2, 0x03, 0xe8}) }), 0, ErrServerClosed, "missing parts"},
		{"no websocket behind the upgrade", upgraded(func(s *server) { s.write([]byte("\xff\xff\xff\xff")) }), 0, ErrProtocol, "missing parts"},
		{"text instead of hello", upgraded(func(s *server) { s.write([]byte("\x81\x02hi")) }), 15 * time.Second, context.DeadlineExceeded, "missing parts"},
		{"masked frame", upgraded(func(s *server) { s.write([]byte("\x82\x82abcdhi")) }), 0, ErrProtocol, "missing parts"},
		{"garbage hello", upgraded(func(s *server) { s.write(appendFrame(nil, waFrame([]byte("garbage")))) }), 0, ErrClosed, "unmarshal"},
		{"false hello", upgraded(func(s *server) { s.write(appendFrame(nil, badHello())) }), 0, ErrClosed, "failed to decrypt server static"},
		{"false hello and frames behind it", upgraded(func(s *server) {
			all := appendFrame(nil, append(badHello(), waFrame([]byte("same message"))...))
			for i := range 50 {
				all = appendFrame(all, waFrame(fmt.Appendf(nil, "frame %d", i)))
			}
			s.write(all)
		}), 0, ErrClosed, "failed to decrypt server static"},
		{"false hello in pieces, with pings between them", upgraded(func(s *server) {
			hello := badHello()
			for i, b := range hello {
				op := byte(opContinuation)
				if i == 0 {
					op = opBinary
				}
				if i == len(hello)-1 {
					op |= 0x80
				}
				s.write([]byte{op, 1, b})
				if i%10 == 0 {
					s.write([]byte{0x80 | opPing, 1, 'p'})
				}
			}
			s.write(appendFrame(nil, waFrame([]byte("more"))))
		}), 0, ErrClosed, "failed to decrypt server static"},
		{"false hello, message not finished", upgraded(func(s *server) {
			f := appendFrame(nil, append(badHello(), 0, 0))
			f[0] &^= 0x80
			s.write(append(f, opContinuation, 2, 1, 'x'))
		}), 0, ErrClosed, "failed to decrypt server static"},
	}
}

func TestEveryBrokenHandshakeFailsAtOnceOrInItsOwnTimeAndLeavesNothing(t *testing.T) {
	for _, st := range stages() {
		t.Run(st.name, func(t *testing.T) {
			for _, host := range []bool{false, true} {
				bubble(t, func(t *testing.T) {
					l, client, _ := scripted(t, Config{}, st.script)
					for range 2 { // and the client can be used again
						began := time.Now()
						var err error
						if host {
							err = client.ConnectContext(t.Context())
						} else {
							_, err = l.Connect(t.Context())
						}
						require.ErrorContains(t, err, st.says)
						require.Equal(t, st.after, time.Since(began))
						conn := l.Current()
						require.True(t, isClosed(conn.down))
						require.Error(t, conn.Err())
						require.Equal(t, host, !conn.Owned())
						if st.is != nil {
							require.ErrorIs(t, conn.Err(), st.is)
						}
						require.False(t, l.Saw())
						require.NoError(t, conn.End(t.Context()))
						require.Equal(t, st.after, time.Since(began))
					}
				})
			}
		})
	}
}

func TestATimeoutIsANetErrorThatTimedOut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l, _, _ := scripted(t, Config{UpgradeTimeout: time.Second}, func(s *server) { s.hang() })
		_, err := l.Connect(t.Context())
		var ne net.Error
		require.ErrorAs(t, err, &ne)
		require.True(t, ne.Timeout())
	})
}

func TestADialThatHangsEndsWithItsTimeoutOrWithTheCut(t *testing.T) {
	for name, dial := range map[string]dialFunc{
		"obeys its context": func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
		"is deaf, and succeeds late": func(context.Context, string, string) (net.Conn, error) {
			time.Sleep(time.Minute)
			c, _ := newPipe()
			return c, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				l, _, _ := scripted(t, Config{Transport: &http.Transport{DialContext: dial}}, nil)
				began := time.Now()
				_, err := l.Connect(t.Context())
				require.Error(t, err)
				require.LessOrEqual(t, time.Since(began), 15*time.Second)

				cause := errors.New("lease over")
				time.AfterFunc(time.Second, func() { l.Current().Cut(cause) })
				began = time.Now()
				_, err = l.Connect(t.Context())
				require.ErrorIs(t, err, cause)
				require.Equal(t, time.Second, time.Since(began))
				time.Sleep(2 * time.Minute) // the late connection is closed on arrival
			})
		})
	}
}

func TestACutAtAnyInstantEndsTheAttemptAtOnceAndNothingGoesOutAfterIt(t *testing.T) {
	for _, st := range stages() {
		if st.after == 0 {
			continue
		}
		for _, how := range []string{"conn", "link", "ctx"} {
			t.Run(st.name+" by "+how, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					cause := errors.New("no longer ours")
					l, _, n := scripted(t, Config{}, st.script)
					ctx, cancel := context.WithCancelCause(t.Context())
					defer cancel(nil)
					at := 3 * time.Second
					var sent atomic.Int64
					time.AfterFunc(at, func() {
						switch how {
						case "conn":
							l.Current().Cut(cause)
						case "link":
							l.Cut(cause)
						case "ctx":
							cancel(cause)
							synctest.Wait()
						}
						sent.Store(int64(n.received()))
					})
					began := time.Now()
					_, err := l.Connect(ctx)
					require.Error(t, err)
					require.Equal(t, at, time.Since(began))
					require.ErrorIs(t, l.Current().Err(), cause)
					time.Sleep(time.Minute)
					require.EqualValues(t, sent.Load(), n.received())
				})
			})
		}
	}
}

func TestRefusedIsReportedAsSuch(t *testing.T) {
	bubble(t, func(t *testing.T) {
		refused := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
		l, _, _ := scripted(t, Config{Transport: &http.Transport{
			DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, refused },
		}}, nil)
		_, err := l.Connect(t.Context())
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		require.ErrorIs(t, l.Current().Err(), syscall.ECONNREFUSED)
	})
}

func TestAClosedGateLetsNotOneByteOut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fenced := errors.New("term over")
		// The first question is the dial's: let that one pass.
		for pass := range 5 {
			asked := 0
			l, _, n := scripted(t, Config{Gate: func() error {
				if asked++; asked > pass {
					return fenced
				}
				return nil
			}}, func(s *server) { s.upgrade(); s.hang() })
			conn, err := l.Connect(t.Context())
			require.Error(t, err)
			if pass < 2 {
				require.Zero(t, n.received())
			}
			if pass > 0 { // the attempt was made
				require.ErrorIs(t, conn.Err(), fenced)
			}
			require.ErrorIs(t, err, fenced)
		}
	})
}

func TestALinkThatWasCutDialsNothingUntilReopened(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l, client, n := scripted(t, Config{}, func(s *server) {})
		cause := errors.New("stepped down")
		l.Cut(cause)
		_, err := l.Connect(t.Context())
		require.ErrorIs(t, err, cause)
		require.ErrorIs(t, client.ConnectContext(t.Context()), cause)
		_, err = (mediaTripper{l}).RoundTrip(httpRequest(t))
		require.ErrorIs(t, err, cause)
		require.Empty(t, n.ends)
		require.Nil(t, l.Current())
		l.Reopen()
		_, err = l.Connect(t.Context())
		require.ErrorContains(t, err, "failed to send handshake request")
		require.Len(t, n.ends, 1)
	})
}

func TestACutByTheOneWhoIsToldOfTheAttemptLetsNothingOut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l, client, n := scripted(t, Config{}, func(s *server) { s.hang() })
		l.OnConn(func(c *Conn) { c.Cut(errTest) })
		_, err := l.Connect(t.Context())
		require.ErrorIs(t, err, errTest)
		require.ErrorIs(t, client.ConnectContext(t.Context()), errTest)
		require.Zero(t, n.received())
	})
}

func httpRequest(t *testing.T) *http.Request {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://media.example/", nil)
	require.NoError(t, err)
	return req
}

func TestOneConnectAtATimeAndNoneBeforeInstall(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, err := New(Config{}).Connect(t.Context())
		require.ErrorIs(t, err, ErrNotInstalled)

		l, client, n := scripted(t, Config{}, func(s *server) { s.hang() })
		require.NoError(t, l.Install(client), "twice is the same as once")
		_, other, _ := scripted(t, Config{}, func(s *server) {})
		require.ErrorIs(t, l.Install(other), ErrOtherClient)
		var seen []uint64
		l.OnConn(func(c *Conn) { seen = append(seen, c.Generation()) })

		go func() { _, _ = l.Connect(t.Context()) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = l.Connect(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Len(t, n.ends, 1)
		l.Cut(nil)
		synctest.Wait()
		require.Equal(t, []uint64{1}, seen)
	})
}

func TestInstallSetsWhatAnOutsideOwnerOfReconnectionNeeds(t *testing.T) {
	c := whatsmeow.NewClient(&store.Device{}, nil)
	c.EnableAutoReconnect, c.InitialAutoReconnect, c.DisableLoginAutoReconnect = true, true, false
	c.AutoReconnectHook = func(error) bool { return true }
	c.RefreshCAT = nil
	l := New(Config{})
	require.NoError(t, l.Install(c))
	require.False(t, c.EnableAutoReconnect)
	require.False(t, c.InitialAutoReconnect)
	require.True(t, c.DisableLoginAutoReconnect)
	require.True(t, c.EnableDecryptedEventBuffer)
	require.Nil(t, c.AutoReconnectHook)
	require.Error(t, c.RefreshCAT(t.Context()), "whatsmeow calls it without a check")

	own := errors.New("the host's own")
	c = whatsmeow.NewClient(&store.Device{}, nil)
	c.RefreshCAT = func(context.Context) error { return own }
	require.ErrorIs(t, l.Install(c), ErrOtherClient)
	require.NoError(t, New(Config{}).Install(c))
	require.ErrorIs(t, c.RefreshCAT(t.Context()), own)
}

func TestTheHelloTimeoutStaysBelowWhatsmeows(t *testing.T) {
	require.Less(t, New(Config{HelloTimeout: time.Hour}).cfg.HelloTimeout, 20*time.Second)
}
