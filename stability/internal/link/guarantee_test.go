package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/types/events"
	waLog "go.mau.fi/whatsmeow/util/log"

	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// withBot runs a test on a paired bot that is offline.
func withBot(t *testing.T, f func(t *testing.T, b *bot)) {
	t.Helper()
	bubble(t, func(t *testing.T) {
		b := newBot(t)
		f(t, b)
		b.close()
	})
}

func (b *bot) contact() *wasim.Contact {
	b.t.Helper()
	c, err := b.s.NewContact(within(b.t, time.Minute), "491700000002")
	require.NoError(b.t, err)
	return c
}

func (b *bot) received1(text string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, have := range b.texts {
		if have == text {
			return true
		}
	}
	return false
}

func TestEndWaitsForAHandlerThatIsStillRunning(t *testing.T) {
	for _, byHost := range []bool{false, true} {
		withBot(t, func(t *testing.T, b *bot) {
			if byHost {
				require.NoError(t, b.client.ConnectContext(t.Context()))
				require.NoError(t, b.seen(within(t, time.Minute), &events.Connected{}, 2))
			} else {
				b.online()
			}
			conn := b.l.Current()
			b.pause.Store(int64(20 * time.Second))
			b.s.Flood(b.device().JID(), 1, 0)
			time.Sleep(time.Second)
			require.EqualValues(t, 1, b.running.Load())

			// Given up after a while: the connection is down, the client busy.
			require.ErrorIs(t, conn.End(within(t, 3*time.Second)), context.DeadlineExceeded)
			require.False(t, conn.Up())
			require.True(t, b.l.Draining())
			_, err := b.l.Connect(t.Context())
			require.ErrorIs(t, err, ErrNotEnded)

			// Asked again, it goes on where it was.
			require.NoError(t, conn.End(within(t, time.Minute)))
			require.Zero(t, b.running.Load())
			require.False(t, b.l.Draining())
			require.NoError(t, conn.End(t.Context()), "and once more")
			b.pause.Store(0)
			b.online()
		})
	}
}

func TestConcurrentEndsAreOneEnd(t *testing.T) {
	withBot(t, func(t *testing.T, b *bot) {
		conn := b.online()
		errs := make(chan error, 8)
		for range cap(errs) {
			go func() { errs <- conn.End(t.Context()) }()
		}
		for range cap(errs) {
			require.NoError(t, <-errs)
		}
		b.online()
	})
}

func TestWhoeverWaitsForAnAnswerIsFreedByTheEnd(t *testing.T) {
	withBot(t, func(t *testing.T, b *bot) {
		conn := b.online()
		b.fault(wasim.Silence()).Now()
		answered := make(chan time.Time, 1)
		go func() {
			_, err := b.client.GetGroupInfo(t.Context(), b.acct.JID())
			var gone *whatsmeow.DisconnectedError
			if !errors.As(err, &gone) {
				t.Errorf("the query ended with %v", err)
			}
			answered <- time.Now()
		}()
		time.Sleep(time.Second)
		began := time.Now()
		require.NoError(t, conn.End(t.Context()))
		require.Less(t, (<-answered).Sub(began), 100*time.Millisecond)
	})
}

func TestDisconnectByTheHostReturnsAtOnceOnADeadLink(t *testing.T) {
	for _, f := range []wasim.Fault{wasim.BlackHole(), wasim.Silence()} {
		withBot(t, func(t *testing.T, b *bot) {
			conn := b.online()
			b.fault(f).Now()
			time.Sleep(time.Second)
			began := time.Now()
			b.client.Disconnect()
			require.Zero(t, time.Since(began))
			require.ErrorIs(t, conn.Err(), ErrDisconnected)
			require.NoError(t, conn.End(t.Context()))
		})
	}
}

func TestErrSaysWhoEndedTheConnection(t *testing.T) {
	for f, want := range map[*wasim.Fault]error{
		ptr(wasim.FIN()):                nil, // EOF or reset
		ptr(wasim.WebsocketClose(1001)): ErrServerClosed,
	} {
		withBot(t, func(t *testing.T, b *bot) {
			conn := b.online()
			require.NoError(t, conn.Err())
			b.fault(*f).Now()
			<-conn.Down()
			require.NotErrorIs(t, conn.Err(), ErrEnded)
			require.NotErrorIs(t, conn.Err(), ErrDisconnected)
			if want != nil {
				require.ErrorIs(t, conn.Err(), want)
			}
			before := conn.Err()
			require.NoError(t, conn.End(t.Context()))
			require.Equal(t, before, conn.Err(), "the first cause stays")
		})
	}
}

func ptr[T any](v T) *T { return &v }

func TestADialThatObeysItsContextEndsWithTheCut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ended := make(chan time.Time, 1)
		l, _, _ := scripted(t, Config{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				<-ctx.Done()
				ended <- time.Now()
				return nil, ctx.Err()
			},
		}}, nil)
		began := time.Now()
		time.AfterFunc(time.Second, func() { l.Cut(nil) })
		_, err := l.Connect(t.Context())
		require.ErrorIs(t, err, ErrCut)
		require.Equal(t, time.Second, (<-ended).Sub(began))
	})
}

// slowConn is a network connection whose Write takes its time to fail.
type slowConn struct{ *pipeConn }

func (c slowConn) Write([]byte) (int, error) {
	time.Sleep(time.Minute)
	return 0, net.ErrClosed
}

func TestACutReturnsOnlyWhenNoWriteIsInProgress(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := New(Config{}).newConn(true)
		client, _ := newPipe()
		raw, err := c.adopt(slowConn{client})
		require.NoError(t, err)
		began := time.Now()
		go func() { _, _ = raw.Write([]byte("x")) }()
		synctest.Wait()
		for range 2 {
			c.Cut(nil)
			require.Equal(t, time.Minute, time.Since(began))
		}
	})
}

func TestAGateThatClosesCutsALiveConnection(t *testing.T) {
	withBot(t, func(t *testing.T, b *bot) {
		conn := b.online()
		fenced := errors.New("term over")
		bytes := b.device().Stats().BytesIn
		b.fenced.Store(&fenced)
		<-conn.Down() // whatsmeow's next ping
		require.ErrorIs(t, conn.Err(), fenced)
		require.Equal(t, bytes, b.device().Stats().BytesIn)
		require.NoError(t, conn.End(t.Context()))
		b.fenced.Store(nil)
		b.online()
	})
}

func TestAConnectionThatIsNotOursIsNotSeen(t *testing.T) {
	withBot(t, func(t *testing.T, b *bot) {
		c := &http.Client{Transport: b.s.Transport("elsewhere")}
		b.client.SetWebsocketHTTPClient(c)
		ctx, cancel := context.WithCancel(t.Context())
		require.NoError(t, b.client.ConnectContext(ctx))
		require.NoError(t, b.seen(within(t, time.Minute), &events.Connected{}, 2))
		require.False(t, b.l.Saw())
		require.Contains(t, b.problems[Dialer], "WithTransport")
		require.True(t, b.l.Current().Up(), "it is looked after all the same")
		b.l.Current().Cut(errTest)
		b.offline()
		require.False(t, b.device().Online(), "and can be ended")

		require.NoError(t, b.client.ConnectContext(ctx))
		require.NoError(t, b.seen(within(t, time.Minute), &events.Connected{}, 3))
		cancel()
		time.Sleep(time.Minute)
		require.False(t, b.l.Current().Up(), "its loss is noticed")
		b.offline()
		require.NoError(t, b.l.Install(b.client)) // ours again
		b.online()
		require.Empty(t, b.problems[Dialer])
	})
}

func TestNobodyDialsWhileAConnectionIsBeingEnded(t *testing.T) {
	withBot(t, func(t *testing.T, b *bot) {
		conn := b.online()
		b.pause.Store(int64(10 * time.Second))
		b.s.Flood(b.device().JID(), 1, 0)
		time.Sleep(time.Second)
		ended := make(chan error, 1)
		go func() { ended <- conn.End(t.Context()) }()
		time.Sleep(time.Second)
		dials := b.s.Dials()
		require.ErrorIs(t, b.client.ConnectContext(t.Context()), ErrEnding)
		require.Equal(t, dials, b.s.Dials())
		require.NoError(t, <-ended)
		b.pause.Store(0)
		b.online()
	})
}

func TestAnEndThatComesTooLateLeavesTheNextConnectionAlone(t *testing.T) {
	withBot(t, func(t *testing.T, b *bot) {
		old := b.online()
		b.fault(wasim.FIN()).Now()
		<-old.Down()
		time.Sleep(time.Second)
		require.NoError(t, b.client.ConnectContext(t.Context()))
		next := b.l.Current()
		require.NotSame(t, old, next)
		time.Sleep(time.Second)
		require.NoError(t, old.End(t.Context()))
		time.Sleep(time.Minute)
		require.True(t, next.Up())
	})
}

func TestAHostThatReplacesTheLoggerIsServedAllTheSame(t *testing.T) {
	withBot(t, func(t *testing.T, b *bot) {
		synctest.Wait() // a plain field of the client's
		ours := b.client.Log
		b.client.Log = waLog.Noop
		for range 2 {
			b.online()
			began := time.Now()
			b.offline()
			require.Less(t, time.Since(began), time.Second)
		}
		synctest.Wait()
		b.client.Log = ours
		b.online()
		began := time.Now()
		b.offline()
		require.Less(t, time.Since(began), loopGrace, "its words are heard again")
	})
}

func TestTheDrainSurvivesTheLossOfItsHandler(t *testing.T) {
	withBot(t, func(t *testing.T, b *bot) {
		b.client.RemoveEventHandlers()
		conn, err := b.l.Connect(t.Context())
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.NoError(t, conn.End(within(t, time.Minute)))
		b.client.AddEventHandler(b.handle)
		b.online()
	})
}

func TestNobodyElseSeesTheMarkers(t *testing.T) {
	withBot(t, func(t *testing.T, b *bot) {
		f := func(evt any) {
			switch e := evt.(type) {
			case *events.OfflineSyncCompleted:
				if e.Count < 0 {
					t.Errorf("a marker came out: %d", e.Count)
				}
			case *handlerCheck:
				t.Error("a check came out")
			}
		}
		b.onEvt.Store(&f)
		for range 3 {
			b.online()
			require.NoError(t, b.l.Current().Quiesce(t.Context()))
			b.offline()
		}
	})
}

func TestQuiesceWaitsForHandlersAndTheirAnswers(t *testing.T) {
	withBot(t, func(t *testing.T, b *bot) {
		alice := b.contact()
		conn := b.online()
		b.pause.Store(int64(3 * time.Second))
		for i := range 3 {
			_, err := alice.Send(t.Context(), b.acct.JID(), fmt.Sprint(i))
			require.NoError(t, err)
		}
		synctest.Wait() // the first is with the handler
		require.NotEmpty(t, b.device().Pending())
		require.ErrorIs(t, conn.Quiesce(within(t, time.Second)), context.DeadlineExceeded)
		require.NoError(t, conn.Quiesce(t.Context()))
		synctest.Wait()
		require.Empty(t, b.device().Pending())

		go func() { time.Sleep(time.Second); conn.Cut(nil) }()
		_, err := alice.Send(t.Context(), b.acct.JID(), "late")
		require.NoError(t, err)
		synctest.Wait()
		require.NoError(t, conn.Quiesce(t.Context()), "the cut ends the wait")
		require.False(t, conn.Up())
		require.NoError(t, conn.Quiesce(t.Context()))
	})
}
