package stability_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

func TestPairingBeginsNoTroubleAndAsksNobodyAgain(t *testing.T) {
	for range stabilitytest.Pick(20, 200) { // which of its two ends is told first is for chance to say
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			a := w.instance(stability.WithAutoHeal(noHeal)).run()
			w.sim.Fault(wasim.Refused()).Times(3).OnNextLogin()
			q := <-a.codes
			w.sim.Fault(wasim.Refused()).Always().OnNextLogin()
			require.NoError(t, w.account.Phone().Scan(q.Code))
			a.reached(1, stability.EventPaired)
			w.await("an attempt failed", func() bool { return a.status().RetryCount > 0 })
			require.NotContains(t, a.status().Summary, "It began with", a.status().Summary)
			w.sim.Heal()
			a.ready()
			require.Len(t, a.history(stability.EventNeedsPairing), 1, "before the pairing")
			for _, e := range a.history(stability.EventDisconnected) {
				if e.Reason == reconnect.ReasonRestartRequired && e.Status == reconnect.StatusDisconnected {
					require.Equal(t, reconnect.StatusDisconnected, e.Decision.Status)
				}
			}
			a.stop()
		})
	}
}

func TestFirstStatusBehindAKillNamesThatOutage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		w.sim.Fault(wasim.StreamError("503")).For(w.account.JID()).Now()
		a.reached(2, stability.EventConnected)
		time.Sleep(5 * time.Minute)
		b := w.tended("b").run()
		time.Sleep(time.Minute)
		a.crash()
		e := b.reached(1, stability.EventActivated)
		st := b.status()
		require.Equal(t, reconnect.ReasonHolderLost, st.LastDisconnectReason, st.Summary)
		require.WithinDuration(t, e.Time, st.LastDisconnectAt, time.Second)
		require.NotContains(t, st.Summary, "service_unavailable")
		require.NotContains(t, st.Summary, "It began with")
		b.ready()
		require.Zero(t, b.status().State.FirstDisconnectReason, "it was no more than that")
		b.stop()
		a.wire.heal()
		a.kill()
		w.close()
	})
}

func TestHandOverIsNamedAsSuch(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance().run().pair()
		time.Sleep(5 * time.Minute)
		w.sim.Fault(wasim.UpgradeHang()).OnNextLogin()
		b := w.instance().run()
		time.Sleep(time.Minute)
		a.stop()
		require.Equal(t, reconnect.ReasonHandedOver, a.reached(1, stability.EventDeactivated).Reason)
		w.await("it tries", func() bool { return b.status().Connecting })
		require.Equal(t, reconnect.ReasonHandedOver, b.status().LastDisconnectReason)
		require.Contains(t, b.status().Summary, "handed the account over")
		b.ready()
		b.stop()
	})
}

func TestHolderOfThisProcessIsNamedAsOne(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithInstanceID("first")).run().pair()
		b := w.instance(stability.WithInstanceID("second")).run()
		time.Sleep(time.Minute)
		st := b.status()
		require.True(t, st.LockHolderHere)
		require.Contains(t, st.Summary, "another Manager of this process (first) holds the lock")
		require.False(t, a.status().LockHolderHere)
		a.stop()
		b.ready()
		require.False(t, b.status().LockHolderHere)
		b.stop()
		require.NotContains(t, a.status().Summary, "this process")
	})
}

// A host by hand that asked once, and asks no more, knows the holder of that
// moment only.
func TestHolderOfAnOldAnswerIsNotSaidToHold(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a", stability.WithInstanceID("first")).run().pair()
		b := w.named("b", stability.WithInstanceID("second"))
		ask := func() {
			ok, err := b.m.TryActivate(t.Context())
			require.NoError(t, err)
			require.False(t, ok)
		}
		ask()
		asked := time.Now()
		rec, err := w.look().Lock.Load(t.Context())
		require.NoError(t, err)
		require.Contains(t, b.status().Summary, "first) holds the lock")
		a.wire.hang(anyCall) // as a process that was killed
		w.sim.Partition("a")
		a.reached(1, stability.EventDeactivated)
		for ; time.Since(asked) < 3*time.Minute; time.Sleep(time.Second) {
			st := b.status()
			if says := "first holds the lock"; time.Since(asked) >= rec.Lease {
				require.True(t, st.LockMayBeFree)
				require.NotContains(t, st.Summary, says)
				require.Contains(t, st.Summary, "first held the lock when this instance last asked")
			} else {
				require.False(t, st.LockMayBeFree)
				require.Contains(t, st.Summary, says)
			}
		}
		a.wire.heal()
		a.kill()
		w.close()
	})
}

// The lock is asked for again under Run, so the newest answer counts. By hand an
// answer counts for as long as the lease that it names.
func TestHolderOfANewAnswerIsSaidToHold(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance().run().pair()
		b, c := w.instance().run(), w.instance()
		for range 10 {
			ok, err := c.m.TryActivate(t.Context())
			require.NoError(t, err)
			require.False(t, ok)
			time.Sleep(80 * time.Second)
			for _, i := range []*instance{b, c} {
				require.False(t, i.status().LockMayBeFree)
				require.Contains(t, i.status().Summary, "holds the lock")
			}
		}
		c.stop()
		b.stop()
		a.stop()
	})
}

// A store that is away keeps the end of a connection from being saved. The Manager
// that saw it knows it nevertheless.
func TestOwnEndIsKnownAlsoUnsaved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a", stability.WithAutoHeal(noHeal)).run().pair()
		time.Sleep(5 * time.Minute)
		a.wire.fail(anyCall)
		a.reached(1, stability.EventDeactivated)
		why := a.status().LastDisconnectReason
		require.NotEqual(t, reconnect.ReasonHolderLost, why)
		w.sim.Fault(wasim.UpgradeHang()).OnNextLogin()
		a.forget()
		a.wire.heal()
		a.reached(1, stability.EventConnecting)
		require.Equal(t, why, a.status().LastDisconnectReason)
		a.ready()
		a.stop()
	})
}

func TestSummaryNamesTheProxyAndItsAnswer(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusProxyAuthRequired)
	}))
	defer proxy.Close()
	at, err := url.Parse(proxy.URL)
	require.NoError(t, err)
	host := at.Host
	at.User = url.UserPassword("somebody", "hunter2")
	w := newWorld(t)
	a := w.instance(stability.WithTransport(&http.Transport{Proxy: http.ProxyURL(at)})).run()
	awaitReal(t, "an attempt failed", func() bool { return a.status().LastDisconnectReason == reconnect.ReasonNetworkUnreachable })
	st := a.status()
	require.Contains(t, st.Summary, "the proxy "+host+" answered 407 Proxy Authentication Required.")
	require.NotContains(t, st.Summary, "hunter2")
	require.Equal(t, 407, st.State.LastDisconnectCode)
	a.stop()
}

func TestSummarySaysWhatHappensNext(t *testing.T) {
	now := time.Date(2026, 8, 21, 12, 0, 0, 0, time.UTC)
	passive := stability.Status{At: now, Mode: stability.ModePassive, InstanceID: "a"}
	up := stability.Status{At: now, Mode: stability.ModeActive, WA: reconnect.StatusConnected, ConnectedAt: now.Add(-time.Hour)}
	down := stability.Status{At: now, Mode: stability.ModeActive, WA: reconnect.StatusDisconnected, LastDisconnectReason: reconnect.ReasonIntentional}
	for name, c := range map[string]struct {
		st      stability.Status
		set     func(*stability.Status)
		has, no string
	}{
		"standby under Run takes over": {passive, func(st *stability.Status) { st.LockHolder, st.Running = "b", true }, "This instance takes over when", "can take"},
		"standby by hand only may":     {passive, func(st *stability.Status) { st.LockHolder = "b" }, "This instance can take it when", "takes over"},
		"nobody asks for the lock":     {passive, func(*stability.Status) {}, "takes it only when the program asks", ""},
		"Run asks for the lock":        {passive, func(st *stability.Status) { st.Running = true }, "asks for the lock", "only when"},
		"connected without a backend": {up, func(st *stability.Status) {
			st.StoreUnavailable, st.StoreUnavailableSince = errors.New("no route"), now.Add(-20*time.Second)
		}, "the backend has not answered for 20s", ""},
		"parked on purpose":   {down, func(st *stability.Status) { st.Parked = true }, "until somebody asks for one.", "Nothing."},
		"nothing is planned":  {down, func(*stability.Status) {}, "No attempt is planned.", "Nothing."},
		"an attempt is to be": {down, func(st *stability.Status) { st.NextRetryAt = now.Add(time.Minute) }, "Next attempt in 1m.", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c.set(&c.st)
			says := stability.SummaryOf(c.st)
			require.Contains(t, says, c.has)
			if c.no != "" {
				require.NotContains(t, says, c.no)
			}
		})
	}
}
