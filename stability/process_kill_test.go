//go:build linux || darwin

package stability_test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/child"
)

// Each message that the service takes for delivered was handled, or is in the account of
// the next process; and whatever is refused there, the service has.
func TestKilledAtAnyMomentItLogsInWithoutACodeAndLosesNoMessage(t *testing.T) {
	if stabilitytest.Race {
		t.Skip("a connection that ends under traffic is whatsmeow's own race: it is what this test makes happen")
	}
	t.Parallel()
	w := listening(t)
	dir := t.TempDir()
	p := part{Service: w.sim.Endpoint(), File: filepath.Join(dir, "wa.db"), Record: filepath.Join(dir, "record"), Moody: true}
	c := p.start(t)
	require.NoError(t, w.account.Phone().Scan(c.Hears("qr")))
	c.Hears("paired")
	c.Hears("connected")
	stop := w.stream(stabilitytest.Pick(12*time.Millisecond, 8*time.Millisecond), 20)

	kills, connected := stabilitytest.Pick(20, 200), true
	var kept, refused int
	for range kills {
		time.Sleep(rand.N(200 * time.Millisecond))
		c.Kill()
		c = p.start(t)
		if connected = rand.N(4) > 0; !connected {
			continue // it is killed wherever it is on the way
		}
		c.Hears("connected")
		require.False(t, c.SaidSince("qr"))
		acked := w.device().AckedMessages()
		a := accountFrom(t, c)
		seen := child.Recorded(t, p.Record)
		for _, id := range acked {
			if a.Entries[id] == "" {
				require.Positive(t, seen[id], "acknowledged, and in none of the three places")
			}
		}
		known := make(map[string]bool)
		for _, id := range slices.Concat(w.device().Pending(), w.device().AckedMessages()) {
			known[id] = true
		}
		for id, state := range a.Entries {
			require.True(t, known[id], "neither at the service nor acknowledged: %s", state)
			if state == stability.MessageRefused {
				refused++
			} else {
				kept++
			}
		}
	}
	if !connected {
		c.Hears("connected")
	}
	require.False(t, c.SaidSince("qr"))
	sent := stop()
	var seen map[string]int
	awaitWithin(t, stabilitytest.Pick(time.Minute, 10*time.Minute), "everything is handled and acknowledged", func() bool {
		c.Tell("mend")
		c.Hears("connected")
		time.Sleep(500 * time.Millisecond)
		a := accountFrom(t, c)
		seen = child.Recorded(t, p.Record)
		return len(w.device().Pending()) == 0 && a.Waiting+a.SetAside == 0
	})
	c.Leave()
	require.Len(t, w.account.Devices(), 1, "paired once")
	require.Positive(t, kept+refused, "some were looked at") // how many of which is for the moments of the kills to say

	twice := 0
	for _, id := range sent {
		require.Positive(t, seen[id], "lost")
		twice += seen[id] - 1
	}
	require.LessOrEqual(t, twice, 2*kills, "at most the two in flight at each kill: one from the service, one that was kept")
	t.Logf("%d messages, %d kills, %d handed over twice; %d kept and %d refused ones looked at", len(sent), kills, twice, kept, refused)
	w.close()
}

func TestHandlerThatCallsOSExitLosesNoMessage(t *testing.T) {
	t.Parallel()
	w := listening(t)
	dir := t.TempDir()
	p := part{Service: w.sim.Endpoint(), File: filepath.Join(dir, "wa.db"), Record: filepath.Join(dir, "record"), Exits: "text 3"}
	c := p.start(t)
	require.NoError(t, w.account.Phone().Scan(c.Hears("qr")))
	c.Hears("paired")
	c.Hears("connected")
	var sent []string
	for i := range 8 {
		id, err := w.say(fmt.Sprint("text ", i))
		require.NoError(t, err)
		sent = append(sent, id)
	}
	const deaths = 4 // the first one was not careful yet
	for range deaths {
		require.Equal(t, exitCode, c.Ends())
		c = p.start(t)
	}
	c.Hears("connected")
	awaitReal(t, "the others are handled", func() bool {
		a := accountFrom(t, c)
		return len(w.device().Pending()) == 1 && a.Waiting == 1 && a.Entries[sent[3]] == stability.MessageLeftAlone
	})
	require.Equal(t, []string{sent[3]}, w.device().Pending(), "it is at the service")
	c.Leave()

	p.Exits = "" // the program is mended
	c = p.start(t)
	c.Hears("connected")
	awaitReal(t, "it is handled too", func() bool {
		c.Tell("mend")
		c.Hears("connected")
		time.Sleep(500 * time.Millisecond)
		return len(w.device().Pending()) == 0 && accountFrom(t, c).Waiting == 0
	})
	c.Leave()
	for id, n := range child.Recorded(t, p.Record) {
		require.Contains(t, sent, id)
		require.LessOrEqual(t, n, 1+deaths)
	}
	require.Len(t, child.Recorded(t, p.Record), len(sent))
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
			require.Positive(t, seen[id], "acknowledged, and lost")
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
