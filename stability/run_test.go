package stability_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

func TestAHostPairsChatsIsCutOffAndComesBackWithoutPairingAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance().run().pair()
		peer := w.peer()
		require.Equal(t, reconnect.StatusConnected, a.status().WA)

		_, err := peer.Send(t.Context(), w.account.JID(), "hello")
		require.NoError(t, err)
		w.await("the message arrives", func() bool { return len(a.texts()) == 1 })
		require.NoError(t, a.send(peer.JID(), "hello back"))
		w.await("the answer arrives", func() bool { return len(peer.Received()) == 1 })

		a.forget()
		w.sim.Fault(wasim.Reset()).For(w.account.JID()).Now()
		w.await("it noticed", func() bool { return a.status().WA != reconnect.StatusConnected })
		a.ready()
		e := a.reached(1, stability.EventDisconnected)
		require.Equal(t, reconnect.ReasonConnectionClosed, e.Reason)
		require.Equal(t, 2, w.logins(), "after the restart that follows the pairing, and after the reset")
		a.stop()

		// Another process: same session, no code.
		b := w.instance().run().ready()
		require.Empty(t, b.codes)
		_, err = peer.Send(t.Context(), w.account.JID(), "again")
		require.NoError(t, err)
		w.await("the message arrives", func() bool { return len(b.texts()) == 1 })
		b.stop()
		peer.Close()
		w.sim.Close()
		time.Sleep(time.Second)
	})
}

func TestRunThatFailedIsInTheStatusUntilTheAccountGoesOn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance()
		require.False(t, a.status().Running)
		broken := errors.New("no plugins found")
		failing := func(context.Context, *whatsmeow.Client) error { return broken }
		require.ErrorIs(t, a.m.Run(t.Context(), failing), broken)
		st := a.status()
		require.False(t, st.Running)
		require.Equal(t, time.Now(), st.RunEndedAt)
		require.ErrorIs(t, st.RunError, broken)
		require.Contains(t, st.Summary, "Run has ended with an error")
		require.Contains(t, st.Summary, "no plugins found")

		require.Panics(t, func() {
			_ = a.m.Run(t.Context(), func(context.Context, *whatsmeow.Client) error { panic("a bug") })
		})
		require.ErrorContains(t, a.status().RunError, "setup panicked")

		a.run().pair()
		st = a.status()
		require.True(t, st.Running)
		require.Zero(t, st.RunEndedAt)
		require.NoError(t, st.RunError)
		a.cancel()
		require.NoError(t, <-a.result)
		require.NoError(t, a.status().RunError, "the host ended it")
		require.NotZero(t, a.status().RunEndedAt)
		ok, err := a.m.TryActivate(t.Context())
		require.NoError(t, err)
		require.True(t, ok)
		require.Zero(t, a.status().RunEndedAt, "it goes on by hand")
		a.cancel = nil
		a.stop()
	})
}
