package stability_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// A device that was logged out is listed until it is restored or purged; the
// account can be paired anew then, and its client never notices a Reseal.
func TestADeletedDeviceIsListedAndCanBePurged(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a").run()
		a.pair()
		q, err := a.m.Quarantine(t.Context())
		require.NoError(t, err)
		require.Nil(t, q.Device)
		require.Empty(t, q.Rows)
		require.ErrorIs(t, a.m.PurgeDevice(t.Context()), authstore.ErrNothingDeleted)
		require.NoError(t, a.m.PurgeRows(t.Context()))
		rows := 0
		require.NoError(t, a.m.Reseal(t.Context(), func(done, total int) { rows = total }))
		require.Positive(t, rows)
		require.Equal(t, reconnect.StatusConnected, a.status().WA)

		jid := w.device().JID()
		w.sim.Fault(wasim.Failure(401)).For(w.account.JID()).OnNextLogin()
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		w.await("logged out", func() bool { return a.status().WA == reconnect.StatusNeedsPairing })
		time.Sleep(time.Second)
		q, err = a.m.Quarantine(t.Context())
		require.NoError(t, err)
		require.Equal(t, jid, q.Device.JID)
		require.NoError(t, a.m.PurgeDevice(t.Context()))
		require.ErrorIs(t, a.m.RestoreDevice(t.Context()), authstore.ErrNothingDeleted)
		a.forget()
		a.pair()
		a.stop()
		w.close()
	})
}

// Data that the given key does not open is an error of the setup: it is told,
// and nobody waits for the backend.
func TestAWrongKeyIsToldAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a", stability.WithAEAD(authstore.NewAESGCM([32]byte{1}))).run()
		a.pair()
		a.stop()
		b := w.byHand(stability.WithAEAD(authstore.NewAESGCM([32]byte{2})))
		ok, err := b.m.TryActivate(t.Context())
		require.NoError(t, err)
		require.True(t, ok)
		_, err = b.m.AuthState(t.Context())
		require.ErrorIs(t, err, authstore.ErrWrongKey)
		require.NoError(t, b.m.Status().StoreUnavailable)
		require.NoError(t, b.m.Close(t.Context()))
		w.close()
	})
}

// A session that the service ended is set aside soon, also when whatsmeow's own
// deletion of it is cut short or the store is down, and when nobody asks for
// another phone; then a code is offered at once to who does.
func TestAnEndedSessionIsSetAsideWhateverTheStoreDoes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		at   func(*wire)
		then func(*wire)
	}{
		{"fast", func(*wire) {}, func(*wire) {}},
		{"slow", func(w *wire) { w.slow(4 * time.Second) }, func(w *wire) { w.slow(0) }},
		{"too slow for two minutes", func(w *wire) { w.slow(12 * time.Second) }, func(w *wire) { time.Sleep(2 * time.Minute); w.slow(0) }},
		{"down for a moment", func(w *wire) { w.fail(func(string) bool { return true }) }, func(w *wire) { time.Sleep(5 * time.Second); w.heal() }},
		{"down for half a minute", func(w *wire) { w.fail(func(string) bool { return true }) }, func(w *wire) { time.Sleep(28 * time.Second); w.heal() }},
		{"refuses one write", func(w *wire) { w.set(refuseFirst(2)) }, func(*wire) {}},
		{"refuses some writes", func(w *wire) { w.set(refuseFirst(8)) }, func(*wire) {}},
		{"down for an hour", func(w *wire) { w.fail(func(string) bool { return true }) }, func(w *wire) { time.Sleep(time.Hour); w.heal() }},
	} {
		for _, atLogin := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,login=%v", c.name, atLogin), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := newWorld(t)
					a := w.named("a", stability.WithPairingOnRequest()).run()
					_, err := a.m.WaitQR(t.Context())
					require.NoError(t, err)
					a.pair()
					jid := w.device().JID()
					time.Sleep(2 * time.Minute)
					a.forget()
					if atLogin {
						var once sync.Once
						a.mu.Lock()
						a.onChange = func(e stability.Event) {
							if e.Kind == stability.EventConnecting {
								once.Do(func() { c.at(a.wire) })
							}
						}
						a.mu.Unlock()
						w.sim.Fault(wasim.Failure(401)).For(w.account.JID()).Always().OnNextLogin()
						w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
					} else {
						c.at(a.wire)
						w.sim.Fault(wasim.DeviceRemoved()).For(w.account.JID()).Now()
					}
					a.reached(1, stability.EventNeedsPairing)
					c.then(a.wire)
					time.Sleep(3 * time.Minute)
					require.True(t, a.status().Parked, a.status().Summary)
					q, err := a.m.Quarantine(t.Context())
					require.NoError(t, err)
					require.NotNil(t, q.Device, "nothing is set aside")
					require.Equal(t, jid, q.Device.JID)
					require.Equal(t, string(reconnect.ReasonLoggedOut), q.Device.Reason)
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
					defer cancel()
					_, err = a.m.WaitQR(ctx)
					require.NoError(t, err)
					a.stop()
					w.close()
				})
			})
		}
	}
}

// The end of a term waits for nobody who looks through the store.
func TestWorkOnTheStoreEndsWithTheTerm(t *testing.T) {
	for name, work := range map[string]func(context.Context, *stability.Manager) error{
		"purge of damaged rows": func(ctx context.Context, m *stability.Manager) error { return m.PurgeRows(ctx) },
		"reseal":                func(ctx context.Context, m *stability.Manager) error { return m.Reseal(ctx, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.named("a").run().pair()
				time.Sleep(5 * time.Minute)
				a.wire.hang(only("scan"))
				ended := make(chan error, 1)
				go func() { ended <- work(context.Background(), a.m) }()
				synctest.Wait()
				began := time.Now()
				a.cancel()
				require.Error(t, <-ended)
				require.Less(t, time.Since(began), time.Minute)
				require.NoError(t, <-a.result)
				require.NoError(t, a.m.Close(t.Context()))
				w.close()
			})
		})
	}
}
