package stability_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// diary notes what reaches the backend, in order.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) add(line string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, line)
}

func (d *diary) all() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.lines)
}

type diaryState struct {
	reconnect.StateStore
	d *diary
}

func (s diaryState) Save(ctx context.Context, epoch int64, st reconnect.State) error {
	err := s.StateStore.Save(ctx, epoch, st)
	if err == nil {
		s.d.add(fmt.Sprintf("save attempts=%d failures=%d restarts=%d", len(st.Attempts), st.Failures, len(st.Restarts)))
	}
	return err
}

type diaryIncidents struct {
	guard.IncidentStore
	d *diary
}

func (s diaryIncidents) Raise(ctx context.Context, i guard.Incident) (guard.Incident, bool, error) {
	inc, opened, err := s.IncidentStore.Raise(ctx, i)
	if opened {
		s.d.add("raise " + i.ID)
	}
	return inc, opened, err
}

// loops makes every attempt fail until stop, as it would anywhere: the lock stays
// where it is.
func (w *world) loops() (stop func()) {
	f := w.sim.Fault(wasim.HandshakeDrop()).Always().OnNextLogin()
	w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
	return f.Stop
}

func (n *instance) exited() bool { return len(n.exits) > 0 }

func TestAReconnectLoopIsBrokenInThisOrderAndAFreshProcessWorks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		d := &diary{}
		b := w.memory.Backend()
		b.State, b.Incidents = diaryState{b.State, d}, diaryIncidents{b.Incidents, d}
		notes := &book{}
		exits := make(chan int, 4)
		var atExit stability.Status
		var lockAtExit string
		m := w.healing(t, b, func(m *stability.Manager) func(int) {
			return func(code int) {
				rec, err := w.look().Lock.Load(context.Background())
				require.NoError(t, err)
				lockAtExit = rec.Holder
				atExit = m.Status()
				d.add("exit")
				exits <- code
			}
		}, notes)
		m.run()
		m.pair()
		time.Sleep(5 * time.Minute)
		m.forget()
		d.mu.Lock()
		d.lines = nil
		d.mu.Unlock()
		start := time.Now()
		stop := w.loops()
		require.Equal(t, 1, <-exits)
		require.Less(t, time.Since(start), 10*time.Minute)

		lines := d.all()
		n := len(lines)
		require.Equal(t, []string{"save attempts=0 failures=0 restarts=1", "raise wa_reconnect_loop_active", "exit"}, lines[n-3:], "%v", lines)
		require.Empty(t, lockAtExit, "the lock is free before the exit")
		require.NotEqual(t, stability.ModeActive, atExit.Mode)
		tries := m.history(stability.EventDisconnected)
		require.GreaterOrEqual(t, len(tries), 10)
		require.Equal(t, []guard.Change{opened}, notes.of("wa_reconnect_loop_active"))
		inc := w.incident("wa_reconnect_loop_active")
		require.True(t, inc.Active)
		require.Contains(t, inc.Runbook, "the process ended with code 1")
		require.Len(t, m.history(stability.EventHealing), 1)
		m.kill()

		// The platform starts the process anew.
		next := w.tended("next").run()
		w.await("it is active", func() bool { return next.status().Mode == stability.ModeActive })
		stop()
		next.ready()
		require.Len(t, next.status().State.Restarts, 1)
		time.Sleep(2 * time.Minute)
		require.False(t, w.incident("wa_reconnect_loop_active").Active, "over when it has been connected for a minute")
		require.Equal(t, []guard.Change{resolved}, next.book.of("wa_reconnect_loop_active"))
		require.False(t, next.exited())
		next.stop()
		w.close()
	})
}

// healing is an instance over a given backend with an exit of its own.
func (w *world) healing(t *testing.T, b stability.Backend, exit func(*stability.Manager) func(int), sink guard.Sink) *instance {
	i := &instance{w: w, backend: b, codes: make(chan stability.QR, 64), result: make(chan error, 1)}
	m, err := stability.New(stability.WithBackend(b), stability.WithTransport(w.sim.Transport()), stability.WithLogger(logger()),
		stability.WithExit(func(code int) { exit(i.m)(code) }), stability.WithSink(sink),
		stability.WithQR(func(q stability.QR) { i.codes <- q }),
		stability.WithObserver(func(e stability.Event) {
			i.mu.Lock()
			defer i.mu.Unlock()
			i.events = append(i.events, e)
		}))
	require.NoError(t, err)
	i.m = m
	t.Cleanup(i.kill)
	return i
}

func TestConnectionsThatOnlyFlapAreALoopToo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		a.forget()
		start := time.Now()
		for !a.exited() {
			if a.status().WA == reconnect.StatusConnected {
				time.Sleep(3 * time.Second)
				w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
			}
			time.Sleep(100 * time.Millisecond)
			require.Less(t, time.Since(start), 15*time.Minute, "flapping was not seen")
		}
		require.GreaterOrEqual(t, len(a.history(stability.EventConnected)), 9, "each attempt succeeded")
		require.True(t, w.incident("wa_reconnect_loop_active").Active)
		a.ready() // its exit came back
		a.stop()
		w.close()
	})
}

func TestTheFourthHealWithinAnHourBecomesSlowRetriesAndARestartChangesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a0").run().pair()
		time.Sleep(5 * time.Minute)
		stop := w.loops()
		start := time.Now()
		for i := 1; i <= 3; i++ {
			require.Equal(t, 1, <-a.exits)
			require.Equal(t, []guard.Change{opened}, w.notesOf(i == 1, a), "told once, not by each process")
			a.kill()
			a = w.tended(fmt.Sprint("a", i)).run()
			// A process that dies and comes back in the middle of the count.
			time.Sleep(40 * time.Second)
			a.kill()
			a = w.tended(fmt.Sprint("a", i, "again")).run()
		}
		require.Less(t, time.Since(start), 40*time.Minute)
		w.await("the budget is spent", func() bool { return w.incident("wa_restart_budget_exhausted_active").Active })
		require.False(t, a.exited())
		require.Equal(t, []guard.Change{opened}, a.book.of("wa_restart_budget_exhausted_active"))
		last := a.history(stability.EventDisconnected)
		d := last[len(last)-1].Decision
		require.GreaterOrEqual(t, d.Delay, 15*time.Minute, "what observers hear is what happens")
		st := a.status()
		require.GreaterOrEqual(t, st.NextRetryAt.Sub(st.At), 14*time.Minute)
		require.Equal(t, st.NextRetryAt.UTC(), st.State.NextRetryAt, "and it is saved")
		saved, err := w.look().State.Load(t.Context())
		require.NoError(t, err)
		require.WithinDuration(t, st.State.NextRetryAt, saved.NextRetryAt, time.Microsecond, "the precision of the coarsest backend")
		dials := w.sim.Dials()
		time.Sleep(14 * time.Minute)
		require.Equal(t, dials, w.sim.Dials())

		// A restart is one try, and then it is as slow as before.
		a.kill()
		b := w.tended("b").run()
		time.Sleep(10 * time.Minute)
		require.LessOrEqual(t, w.sim.Dials(), dials+2)
		require.False(t, b.exited())
		require.True(t, w.incident("wa_restart_budget_exhausted_active").Active)
		require.Empty(t, b.book.of("wa_restart_budget_exhausted_active"), "not told again")

		stop()
		b.ready()
		time.Sleep(3 * time.Minute)
		require.False(t, w.incident("wa_restart_budget_exhausted_active").Active)
		require.Equal(t, []guard.Change{resolved}, b.book.of("wa_restart_budget_exhausted_active"))
		b.stop()
		w.close()
	})
}

// notesOf is what an instance told of the loop; only the first of a series
// has something new to say.
func (w *world) notesOf(first bool, a *tended) []guard.Change {
	if !first && len(a.book.of("wa_reconnect_loop_active")) == 0 {
		return []guard.Change{opened}
	}
	return a.book.of("wa_reconnect_loop_active")
}

func TestWithoutARecordOfTheRestartThereIsNoExit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		a.forget()
		stop := w.loops()
		// The tenth attempt is saved, and nothing from then on: the restart that
		// is due cannot be.
		a.reached(9, stability.EventDisconnected)
		time.Sleep(time.Second)
		saves := 0
		a.wire.set(func(call string) error {
			if call == "save state" {
				if saves++; saves > 1 {
					return errNoRoute
				}
			}
			return nil
		})
		a.reached(10, stability.EventDisconnected)
		time.Sleep(time.Hour)
		require.False(t, a.exited())
		require.Equal(t, stability.ModeActive, a.status().Mode, "and the lock is kept")
		require.Error(t, a.status().StoreUnavailable)
		require.Empty(t, a.status().State.Restarts)
		require.False(t, w.incident("wa_reconnect_loop_active").Active)

		// It can be saved again: the loop is still there, and is broken.
		a.wire.heal()
		require.Equal(t, 1, <-a.exits)
		require.True(t, w.incident("wa_reconnect_loop_active").Active)
		stop()
		a.ready()
		a.stop()
		w.close()
	})
}

func TestWhatAFreshProcessCannotCureNeverHeals(t *testing.T) {
	t.Parallel()
	ban := wasim.TemporaryBan(101, time.Minute)
	for _, c := range []struct {
		name    string
		fault   wasim.Fault
		minutes int
		hours   int // at full size
	}{
		{"logged out", wasim.Failure(401), 30, 3},
		{"account locked", wasim.Failure(403), 30, 3},
		{"banned", wasim.Failure(406), 30, 3},
		{"temporary ban, again and again", ban, 30, 3},
		{"client outdated", wasim.Failure(405), 30, 6},
		{"rejected", wasim.Failure(418), 70, 6},
		{"wrong certificate", wasim.WrongCertificate(), 30, 3},
		{"restart required", wasim.StreamError("515"), 30, 1},
		{"replaced", wasim.Replaced(), 70, 6},
	} {
		t.Run(c.name, func(t *testing.T) {
			someUnderRace(t)
			if stabilitytest.Race && c.name == "restart required" {
				t.Skip("a send while the link drops is whatsmeow's own race: hundreds of logins that end at once meet it")
			}
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.tended("a").run().pair()
				time.Sleep(5 * time.Minute)
				w.sim.Fault(c.fault).Always().OnNextLogin()
				w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
				for range stabilitytest.Pick(c.minutes, c.hours*60) {
					time.Sleep(time.Minute)
					a.m.Reconnect() // even a person who tries and tries
				}
				require.False(t, a.exited())
				require.False(t, w.incident("wa_reconnect_loop_active").Active)
				w.sim.Heal()
				a.stop()
				w.close()
			})
		})
	}
	t.Run("never paired, and no answer", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			a := w.tended("a", stability.WithPairingRounds(30)).run()
			time.Sleep(6 * time.Hour) // codes expire, one set after the other
			w.sim.Fault(wasim.Refused()).Always().OnNextLogin()
			time.Sleep(6 * time.Hour)
			require.False(t, a.exited())
			w.sim.Heal()
			a.stop()
			w.close()
		})
	})
	t.Run("the host's own disconnects", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			a := w.tended("a").run().pair()
			for range 30 {
				time.Sleep(20 * time.Second)
				a.m.Reconnect()
				a.ready()
			}
			require.False(t, a.exited())
			a.stop()
			w.close()
		})
	})
	t.Run("the store is out of reach", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			a := w.tended("a").run().pair()
			time.Sleep(5 * time.Minute)
			for range 12 {
				a.wire.fail(anyCall)
				time.Sleep(3 * time.Minute)
				a.wire.heal()
				time.Sleep(20 * time.Second)
			}
			require.False(t, a.exited())
			a.ready()
			a.stop()
			w.close()
		})
	})
}

// flushing is a sink that queues, as one that goes over the network does.
type flushing struct {
	book
	flushed chan struct{}
}

func (f *flushing) Flush(context.Context) error {
	close(f.flushed)
	return errors.New("only half of it")
}
