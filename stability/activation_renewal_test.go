package stability_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

func TestOneFailedRenewalLosesNothingManyCloseTheSocket(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		a.forget()
		a.wire.failOnce(1, only("renew"))
		time.Sleep(10 * time.Minute)
		require.Empty(t, a.history(stability.EventDisconnected, stability.EventDeactivated, stability.EventStoreDown))
		a.wire.fail(only("renew", "acquire", "load lock"))
		until := a.status().TrustedUntil
		a.reached(1, stability.EventDisconnected)
		require.WithinDuration(t, until, time.Now(), time.Second)
		lines := a.lines.times()
		require.False(t, lines[len(lines)-1].closed.IsZero(), "and it is really closed")
		require.False(t, lines[len(lines)-1].lastWrite.After(until))
		a.wire.heal()
		a.ready()
		a.stop()
		w.close()
	})
}

func TestAStopOnADeadLinkIsImmediate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		w.sim.Fault(wasim.BlackHole()).For(w.account.JID()).Now()
		time.Sleep(time.Second)
		start := time.Now()
		a.stop()
		require.Less(t, time.Since(start), time.Second)
		w.close()
	})
}
