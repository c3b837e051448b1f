package stability_test

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/localbackend"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// illness is what only one instance meets, and the reason it sees.
type illness struct {
	name   string
	fault  wasim.Fault
	reason reconnect.Reason
	within time.Duration // of the fault, until the other one is connected; at the median
}

const yieldAfter = 2 * time.Minute

// illnesses are one of each reason that may be an instance's own.
var illnesses = []illness{
	{"refused", wasim.Refused(), reconnect.ReasonNetworkUnreachable, yieldAfter},
	{"unknown certificate", wasim.WrongTLSCertificate(), reconnect.ReasonNetworkUnreachable, yieldAfter},
	{"hanging", wasim.DialHang(), reconnect.ReasonTimedOut, yieldAfter + 10*time.Second}, // the first attempt fails so late
	{"forbidden", wasim.UpgradeStatus(403), reconnect.ReasonServiceUnavailable, yieldAfter},
	{"no password for the proxy", wasim.UpgradeStatus(407), reconnect.ReasonServiceUnavailable, yieldAfter},
	{"too many", wasim.UpgradeStatus(429), reconnect.ReasonServiceUnavailable, yieldAfter},
	{"forged", wasim.WrongCertificate(), reconnect.ReasonUntrustedServer, 0},
	{"outdated", wasim.Failure(405), reconnect.ReasonClientOutdated, 0},
	{"rejected", wasim.Failure(400), reconnect.ReasonConnectRejected, 0},
}

// few are one of each way to yield; all of them at full size.
func few(all []illness) []illness {
	return stabilitytest.Pick([]illness{all[0], all[3], all[6], all[8]}, all)
}

// from is an instance whose network can be told from the others'.
func (w *world) from(label string, opts ...stability.Option) *tended {
	return w.tended(label, append([]stability.Option{stability.WithInstanceID(label), stability.WithReconnect(reconnect.Policy{})}, opts...)...)
}

// sickens ends an instance's connection, and lets its attempts fail until heal.
func (w *world) sickens(label string, f wasim.Fault) (heal func()) {
	fault := w.sim.Fault(f).From(label).Always().Now()
	w.sim.Fault(wasim.Reset()).From(label).Now()
	return fault.Stop
}

// localServer is one file on this disk.
type localServer struct {
	t    testing.TB
	path string
}

func newLocal(t testing.TB) server {
	return localServer{t, filepath.Join(t.TempDir(), "wa.db")}
}

func (s localServer) Backend() stability.Backend {
	b, err := localbackend.Open(s.path)
	require.NoError(s.t, err)
	return b
}

// schedule is when a holder falls ill, and how its connection ends then.
type schedule struct {
	after time.Duration
	end   wasim.Fault
}

func randomSchedule(seed, n uint64) schedule {
	r := rand.New(rand.NewPCG(seed, n))
	return schedule{time.Duration(r.Int64N(int64(stabilitytest.Pick(2*time.Minute, 5*time.Minute)))), []wasim.Fault{wasim.Reset(), wasim.FIN()}[r.IntN(2)]}
}

// takeOver is how long it takes until a healthy standby is connected in place of
// a holder that falls ill.
func takeOver(t *testing.T, on func(testing.TB) server, ill illness, when schedule, opts ...stability.Option) (took time.Duration) {
	bubble(t, func(t *testing.T) {
		w := newWorldOn(t, wasim.WithFewKeys())
		w.memory = on(t)
		a := w.from("a", opts...).run().pair()
		b := w.from("b", opts...).run()
		b.reached(1, stability.EventStandby)
		time.Sleep(when.after)
		start := time.Now()
		fault := w.sim.Fault(ill.fault).From("a").Always().Now()
		w.sim.Fault(when.end).From("a").Now()
		b.ready()
		took = time.Since(start)
		y := b.status().Yield
		require.Equal(t, []any{"a", "b", ill.reason, 1}, []any{y.By, y.To, y.Reason, y.Count}, "status says who yielded to whom and why")
		require.Contains(t, b.status().Summary, "took over from a")
		a.reached(1, stability.EventStandby)
		require.Contains(t, a.status().Summary, "could not connect ("+string(ill.reason))
		if _, local := w.memory.(localServer); !local { // which cannot tell who it is
			require.Equal(t, "b", a.status().Yield.To)
		}
		if len(opts) == 0 { // else it was a heal
			require.Equal(t, ill.reason, a.history(stability.EventDeactivated)[0].Reason)
		}
		fault.Stop()
		b.stop()
		a.ready()
		a.stop()
		w.close()
	})
	return took
}

func TestHealthyInstanceTakesOverFromASickOne(t *testing.T) {
	t.Parallel()
	seed := uint64(2026330)
	if stabilitytest.Full() { // others each day
		seed = uint64(time.Now().Year()*1000 + time.Now().YearDay())
	}
	for _, on := range []struct {
		name string
		make func(testing.TB) server
		n    int // of each illness
	}{
		{"memory", newServer, stabilitytest.Pick(18, 125)},
		{"local", newLocal, stabilitytest.Pick(3, 25)},
		{"firestore", func(t testing.TB) server { return &firestoreServer{t: t} }, stabilitytest.Pick(2, 12)},
	} {
		for i, ill := range illnesses {
			t.Run(on.name+", "+ill.name, func(t *testing.T) {
				var took []time.Duration
				for k := range on.n {
					took = append(took, takeOver(t, on.make, ill, randomSchedule(seed, uint64(i*on.n+k))))
				}
				slices.Sort(took)
				t.Logf("seed %d: median %v, longest %v", seed, took[on.n/2], took[on.n-1])
				require.LessOrEqual(t, took[on.n/2], ill.within+5*time.Second)
			})
		}
	}
}

// The next attempt is due before a standby by a file has heard that the lock is free.
func TestWhoGivesTheLockUpLeavesOthersTheTimeToHearOfIt(t *testing.T) {
	often := reconnect.Policy{InitialDelay: 100 * time.Millisecond, MaxDelay: 100 * time.Millisecond, YieldAfter: 5 * time.Second}
	for i := range uint64(5) {
		took := takeOver(t, newLocal, illnesses[0], randomSchedule(1, i), stability.WithReconnect(often), stability.WithAutoHeal(noHeal))
		require.Less(t, took, often.YieldAfter+2*time.Second)
	}
}

func TestHealInProcessGivesTheLockAway(t *testing.T) {
	// By attempts alone, so that the heal comes before the yield would.
	heals := stability.WithAutoHeal(autoheal.Policy{InProcess: true, Attempts: 3, Failures: 3})
	took := takeOver(t, newServer, illnesses[0], schedule{end: wasim.Reset()}, heals)
	require.Less(t, took, 30*time.Second)
}

// For what everybody would meet nobody makes way, and nobody is said to be unfit.
// A heal in the same process keeps the lock too: one term succeeds the other, and
// whoever waits goes on waiting.
func TestHealForTheServiceKeepsTheLock(t *testing.T) {
	t.Parallel()
	for _, on := range []struct {
		name string
		make func(testing.TB) server
	}{{"memory", newServer}, {"local", newLocal}, {"firestore", func(t testing.TB) server { return &firestoreServer{t: t} }}} {
		t.Run(on.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorldOn(t, wasim.WithFewKeys())
				w.memory = on.make(t)
				heals := stability.WithAutoHeal(autoheal.Policy{InProcess: true, Attempts: 3, Failures: 3})
				a := w.from("a", heals).run().pair()
				b := w.from("b", heals).run()
				b.reached(1, stability.EventStandby)
				time.Sleep(2 * time.Minute)
				old, epoch := a.m.Client(), a.status().LeaseEpoch
				w.sim.Fault(wasim.UpgradeStatus(503)).Always().OnNextLogin()
				w.sim.Fault(wasim.Reset()).From("a").Now()
				e := a.reached(1, stability.EventDeactivated)
				require.True(t, e.Kept)
				require.Equal(t, reconnect.ReasonServiceUnavailable, e.Reason)
				a.reached(2, stability.EventActivated)
				require.Equal(t, epoch+1, a.status().LeaseEpoch)
				require.ErrorIs(t, old.Store.Identities.PutIdentity(t.Context(), "491520000009:0", [32]byte{1}), context.Canceled, "the old client writes no more")
				late := authstore.Batch{Put: []authstore.Entry{{Key: authstore.Key{Kind: "identity", ID: "491520000009:0"}, Value: []byte("late")}}}
				require.ErrorIs(t, a.backend.Auth.Commit(t.Context(), epoch, late), authstore.ErrFenced, "nor does what it had under way")
				for range 600 {
					time.Sleep(time.Second)
					require.Equal(t, stability.ModeActive, a.status().Mode)
					require.Equal(t, stability.ModePassive, b.status().Mode)
					for _, i := range []*tended{a, b} {
						require.Empty(t, i.status().Yield.By)
					}
				}
				require.Len(t, b.history(stability.EventActivated), 0)
				require.False(t, w.incident(guard.TypeHolderUnfit.ActiveID()).Active)
				w.sim.Heal()
				a.m.Reconnect() // as many heals as are allowed were made: it tries rarely
				a.ready()
				require.NotSame(t, old, a.m.Client())
				a.stop()
				b.ready()
				b.stop()
				w.close()
			})
		})
	}
}

// A program by hand need not ask again. Then others have the lock.
func TestLockThatIsKeptForNobodyIsReleased(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		h := w.byHand(stability.WithAutoHeal(autoheal.Policy{InProcess: true, Attempts: 3, Failures: 3})).activate()
		h.pair()
		time.Sleep(2 * time.Minute)
		f := w.sim.Fault(wasim.UpgradeStatus(503)).From("byhand").Always().OnNextLogin()
		w.sim.Fault(wasim.Reset()).From("byhand").Now()
		e := h.reached(1, stability.EventDeactivated)
		require.True(t, e.Kept)
		b := w.from("b").run()
		b.reached(1, stability.EventStandby)
		require.Contains(t, h.status().Summary, "this instance keeps the lock for a new term")
		require.WithinDuration(t, e.Time.Add(30*time.Second), b.reached(1, stability.EventActivated).Time, 2*time.Second)
		f.Stop()
		b.ready()
		b.stop()
		require.NoError(t, h.m.Activate(t.Context()))
		h.kill()
		w.close()
	})
}

// A lease of the host's outlives the Manager: Close gives back what was kept.
func TestCloseReleasesAKeptLockOfAHostsLease(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		lease, err := lock.New(w.memory.Backend().Lock, "host", lock.WithLogger(logger()))
		require.NoError(t, err)
		t.Cleanup(func() { _ = lease.Close(context.Background()) })
		h := w.byHand(stability.WithLock(lease), stability.WithAutoHeal(autoheal.Policy{InProcess: true, Attempts: 3, Failures: 3})).activate()
		h.pair()
		time.Sleep(2 * time.Minute)
		w.sim.Fault(wasim.UpgradeStatus(503)).From("byhand").Always().OnNextLogin()
		w.sim.Fault(wasim.Reset()).From("byhand").Now()
		require.True(t, h.reached(1, stability.EventDeactivated).Kept)
		require.NoError(t, h.m.Close(t.Context()))
		time.Sleep(10 * time.Second)
		rec, err := w.look().Lock.Load(t.Context())
		require.NoError(t, err)
		require.Empty(t, rec.Holder)
		require.NoError(t, lease.Close(t.Context()))
		w.close()
	})
}

// Where Run ends, nobody takes up what was kept.
func TestRunThatEndsInAHealLeavesNoLock(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.from("a", stability.WithAutoHeal(autoheal.Policy{InProcess: true, Attempts: 3, Failures: 3})).run().pair()
		time.Sleep(2 * time.Minute)
		w.sim.Fault(wasim.UpgradeStatus(503)).From("a").Always().OnNextLogin()
		w.sim.Fault(wasim.Reset()).From("a").Now()
		a.wire.set(func(call string) error {
			if call == "acquire" { // of the term that would follow
				a.cancel()
			}
			return nil
		})
		require.NoError(t, <-a.result)
		require.True(t, a.reached(1, stability.EventDeactivated).Kept)
		rec, err := w.look().Lock.Load(t.Context())
		require.NoError(t, err)
		require.Empty(t, rec.Holder)
		require.NoError(t, a.m.Close(t.Context()))
		w.close()
	})
}

func TestReasonsOfTheAccountNeverMoveTheLock(t *testing.T) {
	for name, f := range map[string]wasim.Fault{
		"service unavailable": wasim.UpgradeStatus(503), "logged out": wasim.Failure(401), "locked": wasim.Failure(403), "banned": wasim.Failure(406),
		"temporary ban": wasim.TemporaryBan(101, time.Hour), "replaced": wasim.Replaced(), "dropped": wasim.HandshakeDrop(),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				noLoop := stability.WithAutoHeal(noHeal)
				a := w.from("a", noLoop).run().pair()
				b := w.from("b", noLoop).run()
				b.reached(1, stability.EventStandby)
				time.Sleep(2 * time.Minute)
				w.sim.Fault(f).Always().OnNextLogin()
				w.sim.Fault(wasim.Reset()).From("a").Now()
				time.Sleep(stabilitytest.Pick(40*time.Minute, 3*time.Hour))
				require.Equal(t, stability.ModeActive, a.status().Mode)
				require.Empty(t, a.history(stability.EventDeactivated))
				require.Empty(t, a.status().Yield.By)
				w.sim.Heal()
				a.stop()
				b.stop()
				w.close()
			})
		})
	}
}

func TestYieldByHandSaysStandBy(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		h := w.byHand(stability.WithReconnect(reconnect.Policy{})).activate()
		h.pair()
		h.self = true // it decides what follows
		w.sim.Fault(wasim.Failure(405)).From("byhand").Always().Now()
		w.sim.Fault(wasim.Reset()).From("byhand").Now()
		w.await("it is released", func() bool { return h.m.Status().Mode == stability.ModeReleased })
		ends := h.history(stability.EventDisconnected, stability.EventReasonKnown)
		require.Equal(t, reconnect.ActionStandby, ends[len(ends)-1].Decision.Action)
		require.False(t, ends[len(ends)-1].Decision.ShouldReconnect)
		ok, err := h.m.TryActivate(t.Context())
		require.NoError(t, err)
		require.False(t, ok)
		d, err := h.m.HandleDisconnected(t.Context(), nil)
		require.ErrorIs(t, err, stability.ErrNotActive)
		require.Equal(t, []any{reconnect.ActionStandby, reconnect.ReasonClientOutdated}, []any{d.Action, d.Reason})

		start := time.Now()
		require.NoError(t, h.m.Activate(t.Context()), "it waits, and takes the lock back where nobody wants it")
		require.InDelta(t, 30, time.Since(start).Seconds(), 5)
		d, err = h.m.Resume()
		require.NoError(t, err)
		require.Greater(t, time.Until(d.NextRetryAt), 10*time.Minute, "the account's plan goes on")
		w.sim.Heal()
		h.finish()
	})
}

func TestReconnectEndsThePause(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.from("a").run().pair()
		heal := w.sickens("a", wasim.WrongCertificate())
		w.await("it is released", func() bool { return a.status().Mode == stability.ModeReleased })
		heal()
		start := time.Now()
		a.m.Reconnect()
		a.ready()
		require.Less(t, time.Since(start), 5*time.Second)
		require.Zero(t, a.status().AsksAgainAt)
		a.stop()
		w.close()
	})
}

// A handler is still running while the instance hands over: nothing was broken.
func TestHandingOverIsSaidSo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.from("a").run().pair()
		a.heed(func(evt any) {
			if _, ok := evt.(*events.Message); ok {
				time.Sleep(3 * time.Second)
			}
		})
		_, err := w.say("slow")
		require.NoError(t, err)
		time.Sleep(time.Second)
		a.cancel()
		time.Sleep(time.Second)
		st := a.status()
		require.Equal(t, stability.ModePassive, st.Mode)
		require.Equal(t, st.InstanceID, st.LockHolder)
		require.False(t, st.LockKept)
		require.Contains(t, st.Summary, "Handing over")
		require.NoError(t, <-a.result)
		require.NoError(t, a.m.Close(t.Context()))
		w.close()
	})
}
