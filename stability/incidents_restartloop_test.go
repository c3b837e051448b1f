package stability_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

const restartLoop = "wa_restart_loop_active"

// A fresh process would be asked for a new connection too, so nothing restarts.
func TestEndlessDemandsForAConnectionAreToldOnce(t *testing.T) {
	if stabilitytest.Race {
		t.Skip("a send while the link drops is whatsmeow's own race: it is what this test makes happen")
	}
	t.Parallel()
	for _, policy := range []autoheal.Policy{{}, {InProcess: true}} {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			a := w.tended("a", stability.WithAutoHeal(policy)).run().pair()
			time.Sleep(2 * time.Minute)
			require.Empty(t, a.book.of(restartLoop), "one demand is normal after pairing")
			always := w.sim.Fault(wasim.StreamError("515")).Always()
			always.OnNextLogin()
			w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
			time.Sleep(10 * time.Minute)
			require.Equal(t, []guard.Change{opened}, a.book.of(restartLoop))
			inc := w.incident(restartLoop)
			require.True(t, inc.Active)
			require.Contains(t, inc.Runbook, "515")
			require.NotEmpty(t, inc.Instructions)
			time.Sleep(2 * time.Hour)
			require.Equal(t, []guard.Change{opened}, a.book.of(restartLoop), "once, however long it goes on")
			require.False(t, a.exited())
			require.Empty(t, a.history(stability.EventHealing), "it does not count as a loop that a restart breaks")
			require.Empty(t, a.book.of("wa_disconnect_stuck_active"), "the same trouble is not told twice")

			always.Stop()
			a.ready()
			time.Sleep(5 * time.Minute)
			require.Equal(t, []guard.Change{opened, resolved}, a.book.of(restartLoop))
			require.False(t, w.incident(restartLoop).Active)
			a.stop()
			w.close()
		})
	}
}

func TestAskedForReconnectsAreNoRestartLoop(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		for range 30 {
			time.Sleep(5 * time.Second)
			a.m.Reconnect()
			a.ready()
		}
		st, err := w.look().State.Load(t.Context())
		require.NoError(t, err)
		require.Greater(t, st.RestartStreak, 6, "the host's wishes are slowed down alike")
		require.Equal(t, reconnect.ReasonRequested, st.LastDisconnectReason)
		a.forget0()
		w.sim.Fault(wasim.StreamError("515")).For(w.account.JID()).Now()
		require.Equal(t, reconnect.ReasonRestartRequired, a.reached(1, stability.EventDisconnected).Reason)
		a.ready()
		require.Empty(t, a.book.of(restartLoop), "and one demand of WhatsApp's is none either")
		a.stop()
		w.close()
	})
}

func TestRareDemandsForAConnectionAreNoLoop(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		for range 20 {
			time.Sleep(5 * time.Minute)
			a.forget0()
			w.sim.Fault(wasim.StreamError("515")).For(w.account.JID()).Now()
			require.Equal(t, reconnect.ReasonRestartRequired, a.reached(1, stability.EventDisconnected).Reason)
			a.ready()
		}
		require.Empty(t, a.book.of(restartLoop))
		a.stop()
		w.close()
	})
}
