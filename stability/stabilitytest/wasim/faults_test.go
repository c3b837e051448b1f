package wasim_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// row is one row of what ends a connection, and what whatsmeow says of it.
type row struct {
	fault   wasim.Fault
	want    []any // types, in any order
	deleted bool
	open    bool // the socket stays
	check   func(t *testing.T, evt any)
}

var liveRows = []row{
	{fault: wasim.Reset(), want: []any{&events.Disconnected{}}},
	{fault: wasim.FIN(), want: []any{&events.Disconnected{}}},
	{fault: wasim.WebsocketClose(1001), want: []any{&events.Disconnected{}}},
	{fault: wasim.StreamError("503"), want: []any{&events.Disconnected{}}},
	{fault: wasim.StreamError("515"), want: []any{&events.ManualLoginReconnect{}, &events.Disconnected{}}},
	{fault: wasim.Replaced(), want: []any{&events.StreamReplaced{}}},
	{fault: wasim.DeviceRemoved(), want: []any{&events.LoggedOut{}}, deleted: true, check: func(t *testing.T, e any) {
		require.False(t, e.(*events.LoggedOut).OnConnect)
	}},
	{fault: wasim.StreamError("500"), want: []any{&events.StreamError{}, &events.Disconnected{}}, check: code("500")},
	{fault: wasim.StreamError("401"), want: []any{&events.StreamError{}, &events.Disconnected{}}, check: code("401")},
	{fault: wasim.StreamError(""), want: []any{&events.StreamError{}, &events.Disconnected{}}, check: code("")},
	{fault: wasim.Conflict("other"), want: []any{&events.StreamError{}, &events.Disconnected{}}},
	{fault: wasim.StreamEnd(), open: true},
}

func code(want string) func(*testing.T, any) {
	return func(t *testing.T, e any) {
		if s, ok := e.(*events.StreamError); ok {
			require.Equal(t, want, s.Code)
		}
	}
}

func failureRows() (rows []row) {
	for _, reason := range []int{401, 403, 406} {
		rows = append(rows, row{fault: wasim.Failure(reason), want: []any{&events.LoggedOut{}}, deleted: true,
			check: func(t *testing.T, e any) {
				require.True(t, e.(*events.LoggedOut).OnConnect)
				require.Equal(t, events.ConnectFailureReason(reason), e.(*events.LoggedOut).Reason)
			}})
	}
	rows = append(rows,
		row{fault: wasim.TemporaryBan(101, time.Hour), want: []any{&events.TemporaryBan{}}, check: func(t *testing.T, e any) {
			require.Equal(t, &events.TemporaryBan{Code: 101, Expire: time.Hour}, e)
		}},
		row{fault: wasim.Failure(405), want: []any{&events.ClientOutdated{}}},
		row{fault: wasim.Failure(413), want: []any{&events.CATRefreshError{}}},
		row{fault: wasim.Failure(414), want: []any{&events.CATRefreshError{}}},
		row{fault: wasim.Failure(500), want: []any{&events.Disconnected{}}},
		row{fault: wasim.Failure(503), want: []any{&events.Disconnected{}}},
	)
	for _, reason := range []int{400, 409, 411, 415, 418, 501} {
		rows = append(rows, row{fault: wasim.Failure(reason), want: []any{&events.ConnectFailure{}},
			check: func(t *testing.T, e any) {
				require.Equal(t, events.ConnectFailureReason(reason), e.(*events.ConnectFailure).Reason)
			}})
	}
	return rows
}

func (r row) seen(t *testing.T, h *host) {
	eventually(t, "events", func() bool { return len(h.all()) >= len(r.want) && h.up() == r.open })
	time.Sleep(150 * time.Millisecond) // and no others
	var want, have []string
	for _, e := range r.want {
		want = append(want, fmt.Sprintf("%T", e))
	}
	for _, e := range h.all() {
		have = append(have, fmt.Sprintf("%T", e))
		if r.check != nil {
			r.check(t, e)
		}
	}
	require.ElementsMatch(t, want, have)
	require.Equal(t, r.deleted, h.deleted.Load() > 0, "device deleted")
	require.Equal(t, r.open, h.up())
}

func TestAFaultOfALiveLinkIsSeenByTheClientAsInTheTable(t *testing.T) {
	for _, r := range liveRows {
		t.Run(r.fault.String(), func(t *testing.T) {
			onBoth(t, func(t *testing.T, s *wasim.Service) {
				h := online(t, s, s.NewAccount("491700000001"))
				require.Equal(t, 1, s.Fault(r.fault).For(h.jid()).Now().Fired())
				r.seen(t, h)
				h.end()
			})
		})
	}
}

func TestARefusedLoginIsSeenByTheClientAsInTheTable(t *testing.T) {
	for i, r := range failureRows() {
		on := inBubble
		if i%5 == 0 || stabilitytest.Full() { // a refused login is the same on a real socket
			on = onBoth
		}
		t.Run(r.fault.String(), func(t *testing.T) {
			on(t, func(t *testing.T, s *wasim.Service) {
				h := newHost(s, pair(t, s, s.NewAccount("491700000001")))
				s.Fault(r.fault).For(h.jid()).OnNextLogin()
				require.NoError(t, h.connect())
				r.seen(t, h)
				h.end()
			})
		})
	}
}

func TestConnectFailsAsInTheTable(t *testing.T) {
	for _, r := range []struct {
		fault wasim.Fault
		err   string
		after time.Duration
	}{
		{wasim.Refused(), "connection refused", 0},
		{wasim.DialHang(), "deadline exceeded", 15 * time.Second},
		{wasim.TLSHang(), "deadline exceeded", 15 * time.Second},
		{wasim.UpgradeHang(), "deadline exceeded", 15 * time.Second},
		{wasim.WrongTLSCertificate(), "certificate", 0},
		{wasim.UpgradeStatus(403), "403", 0},
		{wasim.UpgradeStatus(429), "429", 0},
		{wasim.UpgradeStatus(503), "503", 0},
		{wasim.WrongCertificate(), "failed to verify server cert", 0},
		{wasim.HandshakeDrop(), "timed out waiting for handshake response", 20 * time.Second},
		{wasim.HelloDelay(25 * time.Second), "timed out waiting for handshake response", 20 * time.Second},
	} {
		t.Run(r.fault.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := wasim.New(wasim.WithTB(t))
				h := newHost(s, pair(t, s, s.NewAccount("491700000001")), "me")
				s.Fault(r.fault).From("me").OnNextLogin()
				start := time.Now()
				err := h.connect()
				require.ErrorContains(t, err, r.err)
				require.Equal(t, r.after, time.Since(start).Round(time.Second))
				require.Empty(t, h.all())
				time.Sleep(time.Minute)
				h.login(t) // the fault was for one attempt
				require.Equal(t, 2, s.DialsFrom("me"))
				h.end()
			})
		})
	}
}

func TestSilenceAndABlackHoleCostPingsAndNothingElse(t *testing.T) {
	for _, f := range []wasim.Fault{wasim.Silence(), wasim.BlackHole()} {
		t.Run(f.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := wasim.New(wasim.WithTB(t))
				h := online(t, s, s.NewAccount("491700000001"))
				dead := s.Fault(f).For(h.jid()).Now()
				time.Sleep(5 * time.Minute)
				require.GreaterOrEqual(t, len(got[*events.KeepAliveTimeout](h)), 5)
				require.True(t, h.up(), "whatsmeow keeps the socket")
				require.Len(t, h.all(), len(got[*events.KeepAliveTimeout](h)))
				dead.Stop()
				time.Sleep(time.Minute)
				require.Len(t, got[*events.KeepAliveRestored](h), 1)
				h.end()
			})
		})
	}
}

func TestALinkThatDiesBehindSuccessStillConnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := wasim.New(wasim.WithTB(t))
		h := newHost(s, pair(t, s, s.NewAccount("491700000001")))
		s.Fault(wasim.DropAfterSuccess()).For(h.jid()).OnNextLogin()
		start := time.Now()
		require.NoError(t, h.connect())
		time.Sleep(10 * time.Second)
		require.Len(t, got[*events.Disconnected](h), 1)
		require.Len(t, got[*events.Connected](h), 1, "five seconds late, and offline")
		h.mu.Lock()
		require.Equal(t, 5*time.Second, h.at[len(h.at)-1].Sub(start).Round(time.Second))
		h.mu.Unlock()
		require.False(t, h.up())
		h.end()
	})
}

func TestASilentServiceConnectsAfterItsQueriesTimeOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := wasim.New(wasim.WithTB(t))
		h := newHost(s, pair(t, s, s.NewAccount("491700000001")))
		s.Fault(wasim.Silence()).For(h.jid()).OnNextLogin()
		require.NoError(t, h.connect())
		time.Sleep(149 * time.Second)
		require.Empty(t, got[*events.Connected](h))
		time.Sleep(2 * time.Second)
		require.Len(t, got[*events.Connected](h), 1)
		h.end()
	})
}

func TestAFaultWaitsForItsStanza(t *testing.T) {
	on, fault := onBoth, wasim.Reset()
	if stabilitytest.Race { // the contact notices in its own time, not amid a send
		on, fault = inBubble, wasim.Silence()
	}
	on(t, func(t *testing.T, s *wasim.Service) {
		a := newContact(t, s, "491700000001")
		b := newContact(t, s, "491700000002")
		dev := a.Account().Devices()[0]
		in := func() (n int) {
			for _, v := range dev.Stats().StanzasIn {
				n += v
			}
			return n
		}
		before := in()
		drop := s.Fault(fault).For(dev.JID()).AfterStanzas(7)
		for drop.Fired() == 0 {
			_, _ = a.Send(within(t, 30*time.Second), b.JID(), "x")
			if drop.Fired() == 0 {
				require.Less(t, in()-before, 7)
			}
		}
		if stabilitytest.Race {
			time.Sleep(2 * time.Minute)
		}
		eventually(t, "a came back", func() bool { return dev.Stats().Logins == 2 })
	})
}

func TestAcksAreHeldAndDeliveredLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := wasim.New(wasim.WithTB(t))
		a, b := newContact(t, s, "491700000001"), newContact(t, s, "491700000002")
		hold := s.Fault(wasim.HoldAcks()).For(a.JID()).Now()
		sent := make(chan error, 1)
		go func() {
			_, err := a.Send(t.Context(), b.JID(), "held")
			sent <- err
		}()
		time.Sleep(30 * time.Second)
		require.Equal(t, []string{"held"}, b.Texts(), "delivered all the same")
		select {
		case <-sent:
			require.Fail(t, "acknowledged")
		default:
		}
		hold.Stop()
		require.NoError(t, <-sent)
		s.Close()
	})
}

func TestASlowLinkIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := wasim.New(wasim.WithTB(t))
		a, b := newContact(t, s, "491700000001"), newContact(t, s, "491700000002")
		_, err := a.Send(t.Context(), b.JID(), "fast")
		require.NoError(t, err)
		slow := s.Fault(wasim.Slow(500, time.Second)).For(a.JID()).Now()
		start := time.Now()
		_, err = a.Send(t.Context(), b.JID(), "slow")
		require.NoError(t, err)
		require.Greater(t, time.Since(start), 2*time.Second)
		slow.Stop()
		s.Close()
	})
}

func TestAPartitionCutsOneLabelOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := wasim.New(wasim.WithTB(t))
		h := newHost(s, pair(t, s, s.NewAccount("491700000001")), "a")
		h.login(t)
		b := newContact(t, s, "491700000002")
		heal := s.Partition("a")
		time.Sleep(2 * time.Minute)
		require.NotEmpty(t, got[*events.KeepAliveTimeout](h))
		require.Equal(t, 1, b.Account().Devices()[0].Stats().Logins)
		other := newHost(s, h.dev, "a")
		require.ErrorContains(t, other.connect(), "deadline exceeded")
		heal()
		time.Sleep(time.Minute)
		require.NotEmpty(t, got[*events.KeepAliveRestored](h))
		other.cancel()
		h.end()
	})
}

func TestAFloodReachesTheClient(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		h := online(t, s, s.NewAccount("491700000001"))
		s.Flood(h.jid(), 100, time.Millisecond)
		eventually(t, "receipts", func() bool { return len(got[*events.Receipt](h)) == 100 })
		s.Flood(h.jid().ToNonAD(), 50, 0)
		eventually(t, "receipts of the account", func() bool { return len(got[*events.Receipt](h)) == 150 })
		h.end()
	})
}
