package stability_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// outage is what a trouble of some time costs, and what is written down of it.
type outage struct {
	dials int
	state reconnect.State
	told  map[guard.Type]time.Duration // active incidents, and how far into the trouble each was raised
}

// fallIll is the outage of instances that fall ill together.
func fallIll(t *testing.T, f wasim.Fault, span time.Duration, labels ...string) (o outage) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		opts := []stability.Option{stability.WithReconnect(reconnect.Policy{Jitter: reconnect.NoJitter})}
		all := []*tended{w.from(labels[0], opts...).run().pair()}
		for _, label := range labels[1:] {
			b := w.from(label, opts...).run()
			b.reached(1, stability.EventStandby)
			all = append(all, b)
		}
		time.Sleep(2 * time.Minute)
		before, start := w.sim.Dials(), time.Now()
		for _, label := range labels {
			w.sim.Fault(f).From(label).Always().Now()
		}
		w.sim.Fault(wasim.Reset()).From(labels[0]).Now()
		time.Sleep(span)
		o.dials = w.sim.Dials() - before
		var err error
		o.state, err = w.look().State.Load(t.Context())
		require.NoError(t, err)
		list, err := w.look().Incidents.List(t.Context())
		require.NoError(t, err)
		o.told = map[guard.Type]time.Duration{}
		for _, inc := range list {
			if inc.Active {
				o.told[inc.Type] = inc.DetectedAt.Sub(start)
			}
		}
		w.sim.Heal()
		for _, i := range all {
			i.m.Reconnect() // it may be hours away
		}
		for _, i := range all {
			i.stop()
		}
		w.close()
	})
	return o
}

func TestTwoSickInstancesAttemptAsOneAlonePlusOneEach(t *testing.T) {
	t.Parallel()
	for _, ill := range few(illnesses) {
		t.Run(ill.name, func(t *testing.T) {
			alone := fallIll(t, ill.fault, time.Hour, "a")
			both := fallIll(t, ill.fault, time.Hour, "a", "b")
			require.LessOrEqual(t, both.dials, alone.dials+2)
			require.Len(t, both.state.Restarts, len(alone.state.Restarts), "a heal budget is not doubled")
			require.Equal(t, alone.state.Failures, both.state.Failures, "what is counted for a loop goes on")
			require.WithinDuration(t, alone.state.DisconnectedSince, both.state.DisconnectedSince, time.Minute, "so does the clock of the outage")
			for what, at := range alone.told {
				require.Contains(t, both.told, what)
				require.InDelta(t, at.Minutes(), both.told[what].Minutes(), 3, "%s is told as if one had been there all the time", what)
			}
			require.Contains(t, alone.told, guard.TypeDisconnectStuck)
			if alone.dials > 10 {
				require.Contains(t, alone.told, guard.TypeRestartBudget)
			}
			t.Logf("alone %d, both %d attempts; restarts %d each; told %v, %v", alone.dials, both.dials, len(both.state.Restarts), alone.told, both.told)
		})
	}
}

func TestNobodyFitIsOneIncidentUntilSomebodyConnects(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.from("a").run().pair()
		b := w.from("b").run()
		b.reached(1, stability.EventStandby)
		healA := w.sickens("a", wasim.Failure(405))
		healB := w.sickens("b", wasim.WrongCertificate())
		id := guard.TypeHolderUnfit.ActiveID()
		w.await("people are told", func() bool { return w.incident(id).Active })
		require.Contains(t, w.incident(id).Evidence["detail"], "a: client_outdated")
		time.Sleep(3 * time.Hour)
		require.Equal(t, 1, len(a.book.of(id))+len(b.book.of(id)), "told once")
		for _, i := range []*tended{a, b} {
			require.Empty(t, i.book.of(guard.TypeLockFlapping.ActiveID()), "turns are no flapping")
			require.NotEmpty(t, i.status().Yield.By)
		}
		healB()
		healA()
		for _, i := range []*tended{a, b} {
			i.m.Reconnect()
		}
		w.await("somebody connects", func() bool { return !w.incident(id).Active })
		require.Equal(t, 2, len(a.book.of(id))+len(b.book.of(id)))
		a.stop()
		b.stop()
		w.close()
	})
}

func TestLateHealthyInstanceNeedsNobodysHelp(t *testing.T) {
	t.Parallel()
	for _, ill := range few(illnesses) {
		t.Run(ill.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.from("a", stability.WithAutoHeal(noHeal)).run().pair()
				heal := w.sickens("a", ill.fault)
				time.Sleep(stabilitytest.Pick(25*time.Minute, 3*time.Hour) + 17*time.Second)
				b := w.from("b").run()
				start := time.Now()
				w.await("b connects", func() bool { return b.status().WA == reconnect.StatusConnected })
				require.LessOrEqual(t, time.Since(start), 13*time.Minute, "the longest time between two yields, and one attempt")
				heal()
				a.stop()
				b.stop()
				w.close()
			})
		})
	}
}

func TestSingleInstanceIsNeverAwayPastItsNextAttempt(t *testing.T) {
	for _, ill := range few(illnesses) {
		t.Run(ill.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.from("a", stability.WithAutoHeal(noHeal)).run().pair()
				heal := w.sickens("a", ill.fault)
				gone := 0
				for end := time.Now().Add(stabilitytest.Pick(20*time.Minute, 6*time.Hour)); time.Now().Before(end); time.Sleep(time.Second) {
					st := a.status()
					if st.Mode != stability.ModeReleased {
						continue
					}
					gone++
					require.Contains(t, st.Summary, "Released: This instance gave the lock up")
					require.Empty(t, st.LockHolder, "not another instance")
					require.LessOrEqual(t, st.AsksAgainAt.Sub(st.At), 30*time.Second)
					if at := st.State.NextRetryAt; !at.IsZero() {
						require.False(t, st.AsksAgainAt.After(at.Add(time.Second)))
						require.False(t, st.At.After(at.Add(time.Second)))
					}
				}
				require.Positive(t, gone)
				require.Empty(t, a.book.of(guard.TypeLockFlapping.ActiveID()))
				require.Empty(t, a.book.of(guard.TypeHolderUnfit.ActiveID()), "one instance alone does not say that nobody is fit")
				heal()
				a.m.Reconnect()
				a.ready()
				a.stop()
				w.close()
			})
		})
	}
}

// Nothing is planned for an account that needs pairing but to offer a code. What
// an earlier term has planned is kept through each time that the lock is given up.
func TestUnpairedAccountThatIsRefusedTriesAgainAtItsTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance()
		w.sim.Fault(wasim.Failure(405)).OnNextLogin()
		a.run()
		time.Sleep(time.Minute)
		at := a.status().State.NextRetryAt
		require.True(t, at.After(time.Now().Add(5*time.Minute)), "it tries rarely")
		yields := 0
		for time.Now().Before(at.Add(-time.Second)) {
			time.Sleep(time.Second)
			st := a.status()
			require.False(t, st.Parked, "at %v", st.At)
			require.False(t, st.QRAvailable, "at %v", st.At)
			require.Equal(t, at, st.State.NextRetryAt)
			yields = max(yields, st.Yield.Count)
		}
		require.Greater(t, yields, 2)
		a.forget()
		a.pair()
		require.Less(t, time.Since(at), time.Minute)
		a.stop()
	})
}
