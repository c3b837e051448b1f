package stability_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

func TestCountsAreWhatHappened(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a").run().pair()
		require.NoError(t, a.send(w.peer().JID(), "hello"))
		w.sim.Fault(wasim.StreamError("503")).For(w.account.JID()).Now()
		a.reached(1, stability.EventDisconnected)
		a.ready()
		time.Sleep(10 * time.Minute)
		synctest.Wait()

		c := a.m.Counts()
		require.EqualValues(t, len(a.history(stability.EventActivated)), c.Terms)
		require.EqualValues(t, len(a.history(stability.EventConnecting)), c.Attempts)
		require.EqualValues(t, len(a.history(stability.EventConnected)), c.Connections)
		ends := uint64(0)
		for _, n := range c.Disconnects {
			ends += n
		}
		require.EqualValues(t, len(a.history(stability.EventDisconnected)), ends)
		require.EqualValues(t, 1, c.Disconnects[reconnect.ReasonServiceUnavailable], "%v", c.Disconnects)
		require.EqualValues(t, 1, c.Sends.Answered)
		require.EqualValues(t, w.device().Stats().Pings, c.Pings.Answered)
		require.Greater(t, c.Pings.Answered, uint64(10))
		for call, names := range map[stability.StoreCall][]string{
			stability.StoreRead: {"get", "scan"}, stability.StoreCommit: {"commit"},
			stability.StoreLock:  {"acquire", "renew", "release", "load lock"},
			stability.StoreState: {"load state", "save state"},
		} {
			require.EqualValues(t, a.wire.count(names...), c.Store[call].Answered, call)
			require.Zero(t, c.Store[call].Failed, call)
		}
		require.EqualValues(t, a.wire.count("renew"), c.Renewals)

		a.wire.fail(only("renew"))
		time.Sleep(45 * time.Second)
		failed := a.m.Counts()
		require.NotZero(t, failed.RenewalsFailed)
		require.Equal(t, failed.RenewalsFailed, failed.Store[stability.StoreLock].Failed)
		a.wire.heal()
		a.stop()
		w.close()
	})
}

func TestSlowestStoreCallIsOfTheLastMinutes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a").run().pair()
		a.wire.slow(700 * time.Millisecond)
		require.NoError(t, a.send(w.peer().JID(), "hello"))
		a.wire.slow(0)
		c := a.m.Counts().Store[stability.StoreCommit]
		require.Equal(t, 700*time.Millisecond, c.Slowest)
		require.GreaterOrEqual(t, c.Time, c.Slowest)
		time.Sleep(2 * time.Minute)
		again := a.m.Counts().Store[stability.StoreCommit]
		require.Zero(t, again.Slowest)
		require.GreaterOrEqual(t, again.Time, c.Time)
		a.stop()
		w.close()
	})
}
