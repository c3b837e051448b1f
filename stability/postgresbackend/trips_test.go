package postgresbackend

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/postgrestest"
)

type uncut struct{ lock.Term }

func (uncut) Cut(error) {}

// What a message and a cold start cost, counted on the wire of an unmodified
// client: the time on the way to the server is what a database has of latency.
func TestEachMessageIsOneRoundTrip(t *testing.T) {
	t.Parallel()
	opened(t) // migrates
	way := postgrestest.NewProxy(t, postgrestest.Need(t).Addr())
	db, err := Open(t.Context(), way.DSN())
	require.NoError(t, err)
	t.Cleanup(db.Close)
	s := newService(t)
	account, id := s.sim.NewAccount("491520000001"), anyAccount()
	h := s.host(backend(t, db, id)).pair(account)
	dev := device(t, account)
	send := func(to types.JID) {
		t.Helper()
		_, err := h.Client().SendMessage(context.WithoutCancel(t.Context()), to, textOf("hello"))
		require.NoError(t, err)
	}
	receive := func(n int) {
		t.Helper()
		for range n {
			msg := s.say(account, "hello")
			await(t, "it is handled", func() bool { return h.handled()[msg] == 1 && len(dev.Pending()) == 0 })
		}
	}
	group := s.sim.NewGroup("crowd", append(s.sim.Ghosts(254), account, s.peer.Account())...).JID()
	for range 3 { // sessions, sender keys, statements, and what is kept after a pairing
		receive(1)
		send(s.peer.JID())
		send(group)
	}
	quiet(t, way)

	n := stabilitytest.Pick(20, 200)
	// Beside the messages, what is deferred is written once a second: names, for
	// example. Every half minute the lock is renewed and the incidents are looked at,
	// four round trips at once. So a count that is too high is taken again: what each
	// message cost would be there each time.
	count := func(what string, most int, f func()) {
		t.Helper()
		var trips, limit int
		for try := 0; try == 0 || trips > limit && try < 3; try++ {
			before, began := way.Trips(), time.Now()
			f()
			trips, limit = way.Trips()-before, most+2+int(time.Since(began)/(500*time.Millisecond))
			quiet(t, way)
			t.Logf("%s: %d round trips", what, trips)
			require.Positive(t, trips, "nothing was counted")
		}
		require.LessOrEqual(t, trips, limit, what)
	}
	count(fmt.Sprint(n, " messages received"), n, func() { receive(n) })
	count(fmt.Sprint(n, " messages sent"), n, func() {
		for range n {
			send(s.peer.JID())
		}
	})
	count(fmt.Sprint(n, " messages sent to a group of 256"), 2*n, func() {
		for range n {
			send(group)
		}
	})
	// Everybody is new there: 254 sessions and a sender key.
	count("the first message to a group of 256", 2, func() {
		send(s.sim.NewGroup("new crowd", append(s.sim.Ghosts(254), account, s.peer.Account())...).JID())
	})
	h.leave()

	// A cold start, over a connection on which nothing was prepared.
	fresh, err := Open(t.Context(), way.DSN())
	require.NoError(t, err)
	t.Cleanup(fresh.Close)
	b := backend(t, fresh, id)
	lease, err := lock.New(b.Lock, "cold")
	require.NoError(t, err)
	term, granted, err := lease.TryAcquire(t.Context())
	require.NoError(t, err)
	require.True(t, granted)
	fresh.pool.Reset()
	before := way.Trips()
	c := authstore.New(b.Auth)
	d, err := c.Device(t.Context(), uncut{term})
	require.NoError(t, err)
	require.Equal(t, dev.JID(), *d.ID)
	require.Equal(t, 2, way.Trips()-before, "the record that names the device, then all of it")
	ok, err := d.Sessions.HasSession(t.Context(), s.peer.Client().Store.GetLID().SignalAddress().String())
	require.NoError(t, err)
	require.True(t, ok, "what is read comes from memory")
	require.Equal(t, 2, way.Trips()-before)
	require.NoError(t, c.Close(t.Context()))
	require.NoError(t, lease.Close(t.Context()))
}

// quiet waits until nothing has been asked for a moment: what is deferred is
// written by then.
func quiet(t *testing.T, way *postgrestest.Proxy) {
	t.Helper()
	last, since := way.Trips(), time.Now()
	await(t, "it is quiet", func() bool {
		if n := way.Trips(); n != last {
			last, since = n, time.Now()
		}
		return time.Since(since) > 300*time.Millisecond
	})
}
