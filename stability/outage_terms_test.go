package stability_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// A backend that can be read, and keeps the state, but not what a message
// changes: each term ends with the first message, and the next begins later
// each time, so that nobody logs in as fast as that can be found out.
func TestTermsThatEndForWantOfTheStoreBeginLaterEachTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a").run().pair()
		for round := range 2 {
			time.Sleep(5 * time.Minute)
			a.forget()
			a.wire.fail(only("commit"))
			_, err := w.say("it cannot be written down")
			require.NoError(t, err)
			a.reached(9, stability.EventDeactivated)
			a.reached(9, stability.EventActivated)
			a.wire.heal()
			over, again := a.history(stability.EventDeactivated), a.history(stability.EventActivated)
			var pauses []time.Duration
			for i, e := range over[:9] {
				require.Equal(t, reconnect.ReasonStoreUnavailable, e.Reason)
				pauses = append(pauses, again[i].Time.Sub(e.Time).Round(time.Second))
			}
			s := time.Second
			require.Equal(t, []time.Duration{0, s, 2 * s, 4 * s, 8 * s, 16 * s, 32 * s, 60 * s, 60 * s}, pauses,
				"round %d: the first term had lasted", round)
			require.NotEmpty(t, a.history(stability.EventStoreDown))
			a.ready()
			w.await("it came", func() bool { return len(a.texts()) == 1 })
			require.NoError(t, a.status().StoreUnavailable)
		}
		a.stop()
		w.close()
	})
}

// A restart that could not be recorded is none, and what else was to be saved
// with it is saved without it, before the next attempt.
func TestARestartThatCouldNotBeRecordedTakesNothingElseWithIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		a.forget()
		stop := w.loops()
		a.reached(9, stability.EventDisconnected)
		time.Sleep(time.Second)
		a.wire.failOnce(2, only("save state")) // the first is of the tenth attempt, the second of the heal
		tenth := a.reached(10, stability.EventDisconnected)
		time.Sleep(10 * time.Second)
		require.False(t, a.exited())
		require.Len(t, a.history(stability.EventConnecting), 9, "the next attempt is a while away")
		st, err := w.look().State.Load(t.Context())
		require.NoError(t, err)
		require.Equal(t, 10, st.Failures)
		require.WithinDuration(t, tenth.Time, st.LastDisconnectAt, time.Second)
		require.Empty(t, st.Restarts)
		require.Equal(t, 1, <-a.exits, "and the loop is broken after the next")
		stop()
		a.ready()
		a.stop()
		w.close()
	})
}

// Inside a ban there is nothing to do for a day, and still it is told at once
// that the backend answers again.
func TestAnOutageEndsBeforeTheNextAttemptIsDue(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a").run().pair()
		time.Sleep(5 * time.Minute)
		w.sim.Fault(wasim.TemporaryBan(101, 24*time.Hour)).For(w.account.JID()).OnNextLogin()
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		w.await("banned", func() bool { return a.status().LastDisconnectReason == reconnect.ReasonTemporaryBan })
		time.Sleep(time.Second)
		a.stop()

		b := w.named("b")
		b.wire.fail(only("get", "scan"))
		b.run()
		b.reached(1, stability.EventStoreDown)
		time.Sleep(time.Minute)
		b.wire.heal()
		time.Sleep(30 * time.Second)
		require.NoError(t, b.status().StoreUnavailable)
		require.Len(t, b.history(stability.EventStoreUp), 1)
		require.Greater(t, time.Until(b.status().NextRetryAt), 23*time.Hour)
		b.stop()
		w.close()
	})
}

// A loop that could not be broken in time is not broken for an end that a fresh
// process cannot cure.
func TestALoopIsBrokenOnlyForAnEndThatCounts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		a.forget()
		stop := w.loops()
		a.reached(9, stability.EventDisconnected)
		time.Sleep(time.Second)
		a.wire.failOnce(2, only("save state")) // the heal's
		a.reached(10, stability.EventDisconnected)
		stop()
		outdated := w.sim.Fault(wasim.Failure(405)).For(w.account.JID()).Always().OnNextLogin()
		time.Sleep(time.Hour)
		require.Greater(t, outdated.Fired(), 2)
		require.Equal(t, reconnect.ReasonClientOutdated, a.status().LastDisconnectReason)
		require.Equal(t, 10, a.status().State.Failures, "the loop is on record")
		require.False(t, a.exited())
		require.Empty(t, a.status().State.Restarts)
		outdated.Stop()
		a.m.Reconnect()
		a.ready()
		a.stop()
		w.close()
	})
}
