package stability_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

func TestAReadErrorAtTheStartNeverYieldsAFreshDevice(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a").run().pair()
		_, err := w.say("so that there is some state")
		require.NoError(t, err)
		w.await("it came", func() bool { return len(a.texts()) == 1 })
		a.stop()
		device := w.device().JID()

		probe := w.named("probe").run().ready()
		reads := probe.wire.count("get", "scan", "load state")
		probe.stop()
		require.Greater(t, reads, 2)
		for n := 1; n <= reads; n++ {
			// Under Run: it is tried again.
			b := w.named("b")
			b.wire.failOnce(n, readCalls)
			b.run().ready()
			require.Empty(t, b.codes, "read %d", n)
			require.Equal(t, device, b.m.Client().Store.GetJID())
			b.stop()
			// And when it goes on for longer.
			b = w.named("b")
			calls := 0
			b.wire.set(func(call string) error {
				if readCalls(call) {
					if calls++; calls >= n && calls < n+7 {
						return errNoRoute
					}
				}
				return nil
			})
			b.run().ready()
			require.Empty(t, b.codes, "read %d", n)
			b.stop()

			// By hand: an error, then the same device.
			h := w.byHand()
			h.wire.failOnce(n, readCalls)
			ok, err := h.m.TryActivate(t.Context())
			if err != nil {
				require.False(t, ok)
				ok, err = h.m.TryActivate(t.Context())
			}
			require.NoError(t, err)
			require.True(t, ok)
			d, err := h.m.AuthState(t.Context())
			if err != nil {
				require.Nil(t, d)
				d, err = h.m.AuthState(t.Context())
			}
			require.NoError(t, err)
			require.Equal(t, device, d.GetJID())
			require.NoError(t, h.m.Close(t.Context()))
		}
		require.Len(t, w.account.Devices(), 1)
		w.close()
	})
}

func TestADeletedDeviceCanBeRestoredUntilAnotherIsPaired(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a")
		require.ErrorIs(t, a.m.RestoreDevice(t.Context()), stability.ErrNotActive)
		a.run().pair()
		require.ErrorIs(t, a.m.RestoreDevice(t.Context()), stability.ErrAlreadyPaired)
		device := w.device()

		// The service refuses a login that it should have accepted.
		refuse := func() {
			time.Sleep(2 * time.Minute)
			w.sim.Fault(wasim.Failure(401)).For(w.account.JID()).OnNextLogin()
			w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
			w.await("logged out", func() bool { return a.status().WA == reconnect.StatusNeedsPairing })
		}
		for _, wait := range []time.Duration{0, 5 * time.Second, 2 * time.Hour} { // before a code, with a code, parked
			refuse()
			time.Sleep(wait)
			require.NoError(t, a.m.RestoreDevice(t.Context()))
			a.ready()
			require.Equal(t, device.JID(), a.m.Client().Store.GetJID())
			_, err := w.say(fmt.Sprint("after ", wait))
			require.NoError(t, err)
			w.await("it came", func() bool {
				got := a.texts()
				return len(got) > 0 && got[len(got)-1] == fmt.Sprint("after ", wait)
			})
			require.Len(t, w.account.Devices(), 1)
		}
		require.Zero(t, device.Stats().RetryReceipts, "its sessions are the old ones")

		// Also by another instance, after this one is gone.
		refuse()
		a.stop()
		a = w.named("a").run()
		w.await("it offers a code", func() bool { return len(a.codes) > 0 })
		require.NoError(t, a.m.RestoreDevice(t.Context()))
		a.ready()
		require.Equal(t, device.JID(), a.m.Client().Store.GetJID())

		refuse()
		a.forget()
		a.pair()
		require.ErrorIs(t, a.m.RestoreDevice(t.Context()), stability.ErrAlreadyPaired)
		require.NotEqual(t, device.JID(), w.device().JID())
		require.NoError(t, a.m.Logout(t.Context()))
		w.await("logged out", func() bool { return a.status().WA == reconnect.StatusNeedsPairing })
		a.pair()
		a.stop()

		h := w.byHand()
		ok, err := h.m.TryActivate(t.Context())
		require.NoError(t, err)
		require.True(t, ok)
		err = h.m.RestoreDevice(t.Context())
		require.ErrorIs(t, err, authstore.ErrNothingDeleted)
		require.NoError(t, h.m.Close(t.Context()))
		w.close()
	})
}

func TestWhileTheBackendIsDownNoAttemptIsMade(t *testing.T) {
	for name, which := range map[string]func(string) bool{
		"all of it": anyCall,
		"the store": only("get", "scan", "load state", "save state", "commit"),
		"the state": only("load state", "save state"),
	} {
		for _, hang := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,hang=%v", name, hang), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := newWorld(t)
					a := w.named("a").run().pair()
					time.Sleep(2 * time.Minute)
					a.forget0()
					if hang {
						a.wire.hang(which)
					} else {
						a.wire.fail(which)
					}
					w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
					a.reached(1, stability.EventDisconnected)
					dials := w.sim.Dials()
					time.Sleep(30 * time.Second)
					for range 19 {
						time.Sleep(30 * time.Second)
						require.Equal(t, dials, w.sim.Dials(), "no attempt")
						st := a.status()
						require.Error(t, st.StoreUnavailable)
						require.Contains(t, st.Summary, "backend does not answer")
						require.NotEqual(t, reconnect.StatusConnected, st.WA)
					}
					a.wire.heal()
					start := time.Now()
					a.ready()
					require.Less(t, time.Since(start), 40*time.Second, "it comes back by itself")
					require.NoError(t, a.status().StoreUnavailable)
					require.Len(t, a.history(stability.EventStoreDown), 1)
					require.Len(t, a.history(stability.EventStoreUp), 1)
					require.Empty(t, a.history(stability.EventQR))
					a.stop()
					w.close()
				})
			})
		}
	}
}

// The store is gone, the connection is not: what cannot be written down stays
// with the service, and is delivered when there is somewhere to put it.
func TestAnOutageOfTheStoreWhileConnectedLosesNoMessage(t *testing.T) {
	t.Parallel()
	for _, out := range []time.Duration{10 * time.Second, 45 * time.Second, 10 * time.Minute} {
		t.Run(out.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.named("a").run().pair()
				stop := w.chatter(time.Second)
				time.Sleep(time.Minute)
				a.wire.fail(only("get", "scan", "load state", "save state", "commit"))
				logins := w.logins()
				time.Sleep(out)
				require.LessOrEqual(t, w.logins()-logins, int(out/time.Minute)+1, "no storm of logins")
				a.wire.heal()
				time.Sleep(2 * time.Minute)
				sent := stop()
				time.Sleep(2 * time.Minute)
				onceEach(t, sent, a.texts())
				require.Zero(t, w.device().Stats().RetryReceipts)
				require.NoError(t, a.status().StoreUnavailable)
				a.stop()
				w.close()
			})
		})
	}
}
