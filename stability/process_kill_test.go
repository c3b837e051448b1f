//go:build linux || darwin

package stability_test

import (
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/child"
)

func TestKilledAtAnyMomentItLogsInWithoutACodeAndLosesNoMessage(t *testing.T) {
	t.Parallel()
	w := listening(t)
	dir := t.TempDir()
	p := part{Service: w.sim.Endpoint(), File: filepath.Join(dir, "wa.db"), Record: filepath.Join(dir, "record")}
	c := p.start(t)
	require.NoError(t, w.account.Phone().Scan(c.Hears("qr")))
	c.Hears("paired")
	c.Hears("connected")
	stop := w.stream(2*time.Millisecond, 20)

	kills, connected := stabilitytest.Pick(5, 40), true
	for range kills {
		time.Sleep(rand.N(300 * time.Millisecond))
		c.Kill()
		// Whatever the service takes for delivered is on the disk.
		seen := child.Recorded(t, p.Record)
		for _, id := range w.device().AckedMessages() {
			require.Contains(t, seen, id, "acknowledged, and lost")
		}
		c = p.start(t)
		if connected = rand.N(4) > 0; connected { // else it is killed wherever it is on the way
			c.Hears("connected")
		}
		require.False(t, c.SaidSince("qr"))
	}
	if !connected {
		c.Hears("connected")
	}
	require.False(t, c.SaidSince("qr"))
	sent := stop()
	awaitReal(t, "everything is acknowledged", func() bool { return len(w.device().Pending()) == 0 })
	c.Leave()
	require.Len(t, w.account.Devices(), 1, "paired once")

	seen, twice := child.Recorded(t, p.Record), 0
	for _, id := range sent {
		require.Positive(t, seen[id], "lost")
		twice += seen[id] - 1
	}
	require.LessOrEqual(t, twice, kills, "at most the one in flight at each kill")
	t.Logf("%d messages, %d kills, %d handed over twice", len(sent), kills, twice)
	w.close()
}

func TestAFullDiskStopsTheClientAndLosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	w := listening(t)
	dir := t.TempDir()
	p := part{Service: w.sim.Endpoint(), File: filepath.Join(dir, "wa.db"), Record: filepath.Join(dir, "record")}
	c := p.start(t)
	require.NoError(t, w.account.Phone().Scan(c.Hears("qr")))
	c.Hears("paired")
	c.Hears("connected")
	stop := w.stream(10*time.Millisecond, 30_000)
	awaitReal(t, "some are handled", func() bool { return len(w.device().AckedMessages()) > 5 })
	c.Tell("limit")
	require.Equal(t, "<nil>", c.Hears("limited"))
	c.Hears("store_down", "deactivated store_unavailable")
	awaitReal(t, "the status says so", func() bool {
		c.Tell("status")
		return c.Hears("status") == "passive_lock_not_acquired|true"
	})
	durable := func() {
		seen := child.Recorded(t, p.Record)
		for _, id := range w.device().AckedMessages() {
			require.Contains(t, seen, id, "acknowledged, and lost")
		}
	}
	durable()
	sent := stop()
	require.NotEmpty(t, w.device().Pending(), "what does not fit stays with the service")

	// Room again, in the same process; then in another one.
	c.Tell("unlimit")
	require.Equal(t, "<nil>", c.Hears("unlimited"))
	c.Hears("connected")
	c.Kill()
	durable()
	c = p.start(t)
	c.Hears("connected")
	awaitReal(t, "everything arrives", func() bool { return len(w.device().Pending()) == 0 })
	c.Leave()
	seen := child.Recorded(t, p.Record)
	for _, id := range sent {
		require.Positive(t, seen[id], "lost")
	}
	require.Zero(t, w.peer().Undecryptable())
	w.close()
}
