package wasim_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// onBoth runs a test against a service in a bubble and against one on a
// loopback port.
func onBoth(t *testing.T, f func(t *testing.T, s *wasim.Service), opts ...wasim.Option) {
	t.Parallel()
	inBubble(t, f, opts...)
	t.Run("loopback", func(t *testing.T) {
		t.Parallel()
		s := wasim.New(append([]wasim.Option{wasim.WithTB(t)}, opts...)...)
		require.NoError(t, s.Listen())
		f(t, s)
		s.Close()
	})
}

func inBubble(t *testing.T, f func(t *testing.T, s *wasim.Service), opts ...wasim.Option) {
	t.Run("bubble", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := wasim.New(append([]wasim.Option{wasim.WithTB(t)}, opts...)...)
			f(t, s)
			s.Close()
		})
	})
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func newContact(t *testing.T, s *wasim.Service, phone string) *wasim.Contact {
	t.Helper()
	c, err := s.NewContact(within(t, time.Minute), phone)
	require.NoError(t, err)
	return c
}

// greet exchanges a message each way, one after the other. Two sides that
// begin sessions with each other at the same moment need retry receipts, which
// is libsignal's doing: trying a message with the wrong one of two sessions
// changes that session.
func greet(t *testing.T, a, b *wasim.Contact) {
	t.Helper()
	ctx := within(t, time.Minute)
	for _, p := range [][2]*wasim.Contact{{a, b}, {b, a}} {
		before := len(p[1].Texts())
		_, err := p[0].Send(ctx, p[1].JID(), "hello")
		require.NoError(t, err)
		eventually(t, "greeted", func() bool { return len(p[1].Texts()) > before })
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 2000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	require.Fail(t, "did not happen: "+what)
}

func TestTwoRealClientsPairByQRAndChat(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		a, b := newContact(t, s, "491700000001"), newContact(t, s, "491700000002")
		greet(t, a, b)
		ctx := within(t, time.Minute)
		for i := range 3 {
			_, err := a.Send(ctx, b.JID(), fmt.Sprintf("to b %d", i))
			require.NoError(t, err)
			_, err = b.Send(ctx, a.JID(), fmt.Sprintf("to a %d", i))
			require.NoError(t, err)
		}
		eventually(t, "all messages are there", func() bool { return len(a.Texts()) == 4 && len(b.Texts()) == 4 })
		require.Equal(t, []string{"hello", "to b 0", "to b 1", "to b 2"}, b.Texts())
		require.Equal(t, []string{"hello", "to a 0", "to a 1", "to a 2"}, a.Texts())
		require.Zero(t, a.Undecryptable()+b.Undecryptable())

		dev := b.Account().Devices()[0]
		eventually(t, "b has acknowledged", func() bool { return len(dev.AckedMessages()) == 4 && len(dev.Pending()) == 0 })
		require.Equal(t, 1, dev.Stats().Logins)
	})
}

func TestADayOfChatPassesInABubble(t *testing.T) {
	hours := stabilitytest.Pick(2, 24)
	synctest.Test(t, func(t *testing.T) {
		s := wasim.New(wasim.WithTB(t))
		a, b := newContact(t, s, "491700000001"), newContact(t, s, "491700000002")
		start := time.Now()
		n := 0
		for time.Since(start) < time.Duration(hours)*time.Hour {
			_, err := a.Send(t.Context(), b.JID(), fmt.Sprint(n))
			require.NoError(t, err)
			n++
			time.Sleep(10 * time.Minute)
		}
		require.Len(t, b.Texts(), n)
		dev := a.Account().Devices()[0]
		require.Equal(t, 1, dev.Stats().Logins, "the connection lasted")
		require.Greater(t, dev.Stats().Pings, hours*3600/31)
		s.Close()
	})
}
