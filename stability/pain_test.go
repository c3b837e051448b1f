package stability_test

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/internal/race"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// What hosts of whatsmeow have suffered from, one test each. Some of them are
// the subject of a whole test elsewhere, and only named here.

func TestPain01_ConnectedButDeaf(t *testing.T) {
	TestAStuckHandlerIsDegradedSinceItBeganAndBlocksNothing(t)
}

func TestPain02_SilentTCPDeath(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		start := time.Now()
		w.sim.Fault(wasim.BlackHole()).For(w.account.JID()).Now()
		w.await("it is noticed", func() bool { return a.status().WA != reconnect.StatusConnected })
		require.LessOrEqual(t, time.Since(start), noticing)
		a.ready()
		require.LessOrEqual(t, time.Since(start), noticing+time.Second, "and replaced at once")
		a.stop()
		w.close()
	})
}

func TestPain03_StreamReplacedPingPong(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		before := w.logins()
		// Somebody outside of the lock takes the session back each time.
		for end := time.Now().Add(6 * time.Hour); time.Now().Before(end); time.Sleep(5 * time.Second) {
			if a.status().WA == reconnect.StatusConnected {
				w.sim.Fault(wasim.Replaced()).For(w.account.JID()).Now()
			}
		}
		require.LessOrEqual(t, w.logins()-before, 6*5+1, "one delayed try, then every 12 to 18 min")
		require.Equal(t, []guard.Change{opened}, a.book.of("wa_connection_conflict_active"))
		require.False(t, a.exited())
		a.stop()
		w.close()
	})
}

func TestPain04_StreamReplacedIsNotDeadForEver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		w.sim.Fault(wasim.Replaced()).For(w.account.JID()).Now()
		w.await("it is off", func() bool { return a.status().WA != reconnect.StatusConnected })
		st := a.status()
		require.Equal(t, reconnect.ReasonConnectionReplaced, st.LastDisconnectReason)
		require.False(t, st.NextRetryAt.IsZero())
		time.Sleep(3 * time.Minute)
		require.Equal(t, reconnect.StatusConnected, a.status().WA)
		a.stop()
		w.close()
	})
}

func TestPain05_TwoReplicasInARollingDeploy(t *testing.T) {
	bubble(t, func(t *testing.T) { handOvers(t, 2) })
}

func TestPain06_ConflictWithOneselfInOneProcess(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		for range 10 {
			logins := w.logins()
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(a.m.Reconnect)
			}
			wg.Wait()
			w.await("one login", func() bool { return w.logins() > logins && a.status().WA == reconnect.StatusConnected })
			time.Sleep(2 * time.Minute)
			require.Equal(t, logins+1, w.logins())
			require.Zero(t, w.device().Stats().Replaced, "the old socket is closed first")
		}
		a.stop()
		w.close()
	})
}

func TestPain07_GivesUpAtBoot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.tended("a").run().pair().stop()
		for _, f := range []wasim.Fault{wasim.Refused(), wasim.DialHang(), wasim.UpgradeStatus(503)} {
			broken := w.sim.Fault(f).Always().OnNextLogin()
			b := w.tended("b"+f.String(), stability.WithAutoHeal(noHeal)).run()
			time.Sleep(3 * time.Hour)
			require.False(t, b.status().NextRetryAt.IsZero() && !b.status().Connecting)
			broken.Stop()
			b.ready()
			b.stop()
		}
		w.close()
	})
}

func TestPain08_UnthrottledRetries(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a", stability.WithAutoHeal(noHeal)).run().pair()
		time.Sleep(5 * time.Minute)
		before := w.sim.Dials()
		stop := w.loops()
		time.Sleep(time.Hour)
		require.Less(t, w.sim.Dials()-before, 3600/48+7)
		require.Greater(t, w.sim.Dials()-before, 3600/72, "and not endless pauses either")
		stop()
		a.ready()
		a.stop()
		w.close()
	})
}

func TestPain09_RetryingALoggedOutSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		device := w.device()
		stop := w.loops() // a retry is queued
		w.await("a retry waits", func() bool { return a.status().RetryCount > 4 })
		w.account.Phone().RemoveDevice(device)
		stop()
		logins := device.Stats().Logins
		a.forget()
		w.await("it is known", func() bool { return a.status().WA == reconnect.StatusNeedsPairing })
		end := a.reached(1, stability.EventDisconnected)
		require.Equal(t, reconnect.ReasonLoggedOut, end.Reason)
		require.False(t, end.Decision.ShouldReconnect)
		require.Len(t, a.history(stability.EventNeedsPairing), 1)
		dials := w.sim.Dials()
		time.Sleep(24 * time.Hour)
		require.LessOrEqual(t, device.Stats().Logins-logins, 1)
		require.LessOrEqual(t, w.sim.Dials()-dials, 5, "only to offer codes, and not for ever")
		require.Equal(t, reconnect.StatusNeedsPairing, a.status().WA)
		require.Zero(t, a.status().NextRetryAt)
		a.stop()
		w.close()
	})
}

func TestPain10_TheSessionVanishesBecauseAReadFailed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.tended("a").run().pair().stop()
		for _, hang := range []bool{false, true} {
			b := w.tended("b" + map[bool]string{true: "hang"}[hang])
			if hang {
				b.wire.hang(only("get", "scan"))
			} else {
				b.wire.fail(only("get", "scan"))
			}
			b.run()
			time.Sleep(time.Hour)
			require.Empty(t, b.codes, "nobody is asked to pair")
			require.NotEqual(t, reconnect.StatusNeedsPairing, b.status().WA)
			require.Error(t, b.status().StoreUnavailable)
			b.wire.heal()
			b.ready()
			require.Empty(t, b.codes)
			require.Len(t, w.account.Devices(), 1, "the same device")
			b.kill()
		}
		w.close()
	})
}

// The other half: a session that the service refuses is set aside, with what
// was said, and comes back as it was; only what is removed by hand is gone.
func TestPain10_TheSessionVanishesBecauseTheServiceRefusedIt(t *testing.T) {
	for _, c := range []struct {
		code   int
		reason reconnect.Reason
	}{{401, reconnect.ReasonLoggedOut}, {403, reconnect.ReasonAccountLocked}, {406, reconnect.ReasonAccountBanned}} {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			a := w.tended("a").run().pair()
			device := w.device()
			time.Sleep(5 * time.Minute)
			w.sim.Fault(wasim.Failure(c.code)).For(w.account.JID()).OnNextLogin()
			w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
			w.await("it is refused", func() bool { return a.status().LastDisconnectReason == c.reason })
			at := time.Now()
			time.Sleep(time.Second)
			a.stop() // it outlives the process

			b := w.tended("b").run()
			w.await("b is active", func() bool { return b.status().Mode == stability.ModeActive })
			q, err := b.m.Quarantine(t.Context())
			require.NoError(t, err)
			require.NotNil(t, q.Device, "code %d: set aside", c.code)
			require.Equal(t, device.JID(), q.Device.JID)
			require.Equal(t, string(c.reason), q.Device.Reason)
			require.WithinDuration(t, at, q.Device.At, time.Minute)
			require.Empty(t, q.Rows)

			require.NoError(t, b.m.RestoreDevice(t.Context()))
			b.m.Reconnect() // after a ban nothing is tried before somebody asks
			b.ready()
			require.Equal(t, device.JID(), b.m.Client().Store.GetJID())
			require.Len(t, w.account.Devices(), 1, "nobody scanned")
			_, err = w.peer().Send(t.Context(), w.account.JID(), "still there?")
			require.NoError(t, err)
			w.await("it came", func() bool { return slices.Contains(b.texts(), "still there?") })
			require.Zero(t, device.Stats().RetryReceipts, "its sessions are the old ones")
			q, err = b.m.Quarantine(t.Context())
			require.NoError(t, err)
			require.Nil(t, q.Device)
			b.stop()
			w.close()
		})
	}
}

func TestPain11_ClientOutdated(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		f := w.sim.Fault(wasim.Failure(405)).Always().OnNextLogin()
		before := w.sim.Dials()
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		time.Sleep(6 * time.Hour)
		require.LessOrEqual(t, w.sim.Dials()-before, 6*5+1)
		require.Equal(t, reconnect.ReasonClientOutdated, a.status().LastDisconnectReason)
		require.Equal(t, []guard.Change{opened}, a.book.of("wa_client_outdated_active"))
		f.Stop()
		time.Sleep(20 * time.Minute)
		require.Equal(t, reconnect.StatusConnected, a.status().WA)
		a.stop()
		w.close()
	})
}

func TestPain12_ABanMistakenForALogout(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		a.forget()
		w.sim.Fault(wasim.TemporaryBan(101, 5*time.Hour)).OnNextLogin()
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		w.await("the ban", func() bool { return a.status().LastDisconnectReason == reconnect.ReasonTemporaryBan })
		dials := w.sim.Dials()
		for range 10 {
			a.m.Reconnect()
			time.Sleep(29 * time.Minute)
			require.Equal(t, dials, w.sim.Dials(), "never hammered")
			require.Equal(t, reconnect.StatusDisconnected, a.status().WA)
		}
		a.ready()
		require.Empty(t, a.codes)

		// It is learnt of while somebody has asked to reconnect: the wish is the
		// older news.
		time.Sleep(2 * time.Minute)
		dials = w.sim.Dials()
		a.m.Reconnect()
		d, err := a.m.HandleDisconnected(t.Context(), &events.TemporaryBan{Code: 101, Expire: time.Hour})
		require.NoError(t, err)
		require.Equal(t, reconnect.ReasonTemporaryBan, d.Reason)
		time.Sleep(59 * time.Minute)
		require.Equal(t, dials, w.sim.Dials())
		a.ready()
		require.Equal(t, dials+1, w.sim.Dials())
		a.stop()
		w.close()
	})
}

func TestPain13_HealthLies(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		for _, f := range []wasim.Fault{wasim.FIN(), wasim.Reset(), wasim.WebsocketClose(1001), wasim.StreamError("500"), wasim.StreamEnd()} {
			a.ready()
			time.Sleep(5 * time.Minute)
			refused := w.sim.Fault(wasim.Refused()).Always().OnNextLogin()
			w.sim.Fault(f).For(w.account.JID()).Now()
			time.Sleep(200 * time.Millisecond)
			st := a.status()
			require.Equal(t, reconnect.StatusDisconnected, st.WA, f.String())
			require.EqualValues(t, "down", st.Probes.Health)
			require.WithinDuration(t, st.At, st.DisconnectedSince, time.Second)
			require.True(t, st.NextRetryAt.After(st.At) || st.Connecting)
			refused.Stop()
		}
		a.ready()
		a.stop()
		w.close()
	})
}

func TestPain14_IdleWatchdogStorms(t *testing.T) { TestAQuietDayTearsNothingDownAndAsksNothing(t) }

func TestPain15_NoAlertsOrTooMany(t *testing.T) {
	TestAnOutageOfTenMinutesIsOneIncidentAndTheNextOneIsAnother(t)
}

// The mistakes of an earlier implementation of this design.

func TestMistakeLock_OneFailedRenewalLosesNothingAndManyCloseTheSocket(t *testing.T) {
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

func TestMistakeAuth_CredentialsThatCannotBeReadAreNotReplaced(t *testing.T) {
	TestPain10_TheSessionVanishesBecauseAReadFailed(t)
}

func TestMistakeKeepalive_AConnectionOnWhichNothingEverCameIsCheckedToo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		w.await("it is off", func() bool { return a.status().WA != reconnect.StatusConnected })
		a.ready()
		start := time.Now()
		w.sim.Fault(wasim.Silence()).For(w.account.JID()).Now()
		w.await("it is noticed", func() bool { return a.status().WA != reconnect.StatusConnected })
		require.LessOrEqual(t, time.Since(start), noticing)
		a.ready()
		a.stop()
		w.close()
	})
}

func TestMistakeLoop_FlappingIsVisible(t *testing.T) { TestConnectionsThatOnlyFlapAreALoopToo(t) }

func TestMistakeLoop_ThereIsABudgetAndOneIncident(t *testing.T) {
	TestTheFourthHealWithinAnHourBecomesSlowRetriesAndARestartChangesNothing(t)
}

func TestMistakeGuard_TheSecondOutageIsNotSilent(t *testing.T) {
	TestAnOutageOfTenMinutesIsOneIncidentAndTheNextOneIsAnother(t)
}

func TestMistakeStatus_AskingReadsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		calls := func() int {
			return a.wire.count("get", "scan", "commit", "load state", "save state", "load lock", "raise", "renew", "acquire")
		}
		before := calls()
		for range 1000 {
			a.status()
			a.m.Incidents()
		}
		require.Equal(t, before, calls())
		a.wire.hang(anyCall)
		nowait(t, "Status", func() { a.status() })
		a.wire.heal()
		a.ready()
		a.stop()
		w.close()
	})
}

// The traps of whatsmeow itself.

func TestTrap01_ConnectHoldsTheSocketLock(t *testing.T) {
	for _, f := range []wasim.Fault{wasim.DialHang(), wasim.TLSHang(), wasim.UpgradeHang(), wasim.HelloDelay(time.Hour)} {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			a := w.tended("a").run().pair()
			time.Sleep(5 * time.Minute)
			w.sim.Fault(f).Always().OnNextLogin()
			w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
			w.await("an attempt hangs", func() bool { return a.status().Connecting })
			time.Sleep(100 * time.Millisecond)
			require.True(t, a.status().Connecting)
			nowait(t, "Status", func() { a.status() })
			dials := w.sim.Dials()
			nowait(t, "Reconnect", a.m.Reconnect)
			nowait(t, "Client", func() { a.m.Client() })
			nowait(t, "QR", func() { a.m.QR() })
			time.Sleep(time.Second)
			require.Equal(t, dials+1, w.sim.Dials(), "%s: the hanging attempt gives way to another", f)
			start := time.Now()
			a.stop()
			require.Less(t, time.Since(start), time.Second, "%s: a step-down does not wait for the dial", f)
			w.sim.Heal()
			w.close()
		})
	}
}

func TestTrap02_DisconnectOnADeadLinkWaitsFiveSeconds(t *testing.T) {
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

func TestTrap03_IsLoggedInStaysTrue(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		refused := w.sim.Fault(wasim.Refused()).Always().OnNextLogin()
		w.sim.Fault(wasim.Reset()).For(w.account.JID()).Now()
		time.Sleep(20 * time.Second)
		require.True(t, a.m.Client().IsLoggedIn(), "what whatsmeow says")
		require.Equal(t, reconnect.StatusDisconnected, a.status().WA, "what is so")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := a.m.WaitReady(ctx)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		refused.Stop()
		a.ready()
		a.stop()
		w.close()
	})
}

func TestTrap04_AGhostSaysConnected(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		a.forget()
		w.sim.Fault(wasim.DropAfterSuccess()).OnNextLogin()
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		ghost := a.reached(2, stability.EventDisconnected)
		require.Equal(t, reconnect.ReasonConnectionClosed, ghost.Reason)
		refused := w.sim.Fault(wasim.Refused()).Always().OnNextLogin()
		for range 300 { // whatsmeow says Connected in this time
			time.Sleep(100 * time.Millisecond)
			require.NotEqual(t, reconnect.StatusConnected, a.status().WA)
		}
		require.Empty(t, a.history(stability.EventConnected))
		require.Equal(t, reconnect.StatusDisconnected, a.status().WA)
		refused.Stop()
		a.ready()

		// The same on the next connection, whose own login is still to come.
		a.forget()
		hello := w.sim.Fault(wasim.HelloDelay(10 * time.Second)).Always().OnNextLogin()
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		w.await("the next attempt", func() bool { return a.status().Connecting })
		time.Sleep(time.Second)
		require.NoError(t, a.m.HandleConnected(t.Context()))
		require.Equal(t, reconnect.StatusDisconnected, a.status().WA)
		require.Empty(t, a.history(stability.EventConnected))
		hello.Stop()
		a.ready()
		a.stop()
		w.close()
	})
}

// hasty is a service that closes right behind its last word.
func hasty(t *testing.T) *world {
	sim := wasim.New(wasim.WithTB(t), wasim.WithCloseDelay(0))
	return &world{t: t, sim: sim, account: sim.NewAccount("491520000001"), memory: newServer(t)}
}

func TestTrap05_TheReasonIsKnownHoweverItsEventsArrive(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := hasty(t)
		a := w.tended("a").run().pair()
		for n := range stabilitytest.Pick(40, 400) {
			time.Sleep(90 * time.Minute) // a replacement is forgotten after an hour
			a.forget()
			a.heed(func(any) { time.Sleep(time.Duration(n%7) * time.Millisecond) })
			c := []struct {
				f    wasim.Fault
				want reconnect.Reason
			}{
				{wasim.Replaced(), reconnect.ReasonConnectionReplaced}, {wasim.StreamError("503"), reconnect.ReasonServiceUnavailable},
				{wasim.StreamError("515"), reconnect.ReasonRestartRequired}, {wasim.StreamError("500"), reconnect.ReasonBadSession},
			}[n%4]
			w.sim.Fault(c.f).For(w.account.JID()).Now()
			e := a.reached(1, stability.EventDisconnected)
			require.Equal(t, c.want, e.Reason)
			a.ready()
			time.Sleep(5 * time.Minute)
			require.Len(t, a.history(stability.EventConnected), 1)
		}
		a.stop()
		w.close()
	})
}

func TestTrap06_AStanzaOfAnOldConnectionDoesNotReachTheNext(t *testing.T) {
	for _, slow := range []time.Duration{500 * time.Millisecond, 3 * time.Second, 40 * time.Second} {
		bubble(t, func(t *testing.T) {
			w := hasty(t)
			a := w.tended("a").run().pair()
			peer := w.peer()
			time.Sleep(5 * time.Minute)
			a.forget()
			a.heed(func(evt any) {
				if m, ok := evt.(*events.Message); ok && m.Message.GetConversation() == "slow" {
					time.Sleep(slow)
				}
			})
			_, err := peer.Send(t.Context(), w.account.JID(), "slow")
			require.NoError(t, err)
			time.Sleep(50 * time.Millisecond)
			w.sim.Fault(wasim.Replaced()).For(w.account.JID()).Now() // waits in the queue behind it
			e := a.reached(1, stability.EventDisconnected)
			require.Equal(t, reconnect.ReasonConnectionReplaced, e.Reason)
			a.reached(1, stability.EventConnected)
			time.Sleep(10 * time.Minute)
			require.Len(t, a.history(stability.EventDisconnected), 1, "the next connection is healthy")
			// And its own end is not silent.
			w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
			require.Equal(t, reconnect.ReasonConnectionClosed, a.reached(2, stability.EventDisconnected).Reason)
			a.ready()
			a.stop()
			w.close()
		})
	}
}

func TestTrap07_TheManagerMayBeUsedInsideAHandler(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(time.Minute)
		var calls atomic.Int32
		var longest atomic.Int64
		a.heed(func(evt any) {
			if _, ok := evt.(*events.Message); !ok {
				return
			}
			a.m.Status()
			a.m.Incidents()
			a.m.QR()
			a.m.Client()
			_, _ = a.m.WaitReady(context.Background())
			_, _ = a.m.TryActivate(context.Background())
			if calls.Add(1)%2 == 0 {
				start := time.Now()
				a.m.Reconnect()
				longest.Store(max(longest.Load(), int64(time.Since(start))))
			}
		})
		for range 6 {
			_, err := w.peer().Send(t.Context(), w.account.JID(), "use it")
			require.NoError(t, err)
			time.Sleep(time.Minute)
		}
		require.GreaterOrEqual(t, calls.Load(), int32(6))
		require.Zero(t, longest.Load(), "an end waits for handlers, so none may wait for it")
		require.Equal(t, reconnect.StatusConnected, a.status().WA)
		a.mu.Lock()
		require.Equal(t, 1, a.setups, "with the same client")
		a.mu.Unlock()
		a.stop()
		w.close()
	})
}

func TestTrap08_TwoStanzasAreNeverHandledAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		h := w.byHand() // its handlers schedule the reconnect
		h.activate()
		h.pair()
		var running, most atomic.Int32
		h.heed(func(evt any) {
			if _, ok := evt.(*events.Message); ok {
				most.Store(max(most.Load(), running.Add(1)))
				time.Sleep(3 * time.Second) // longer than the first pauses
				running.Add(-1)
			}
		})
		stop := w.chatter(2 * time.Second)
		for range 6 {
			time.Sleep(4 * time.Second)
			w.sim.Fault(wasim.Reset()).For(w.account.JID()).Now()
			time.Sleep(time.Second)
			h.ready()
		}
		sent := stop()
		time.Sleep(10 * time.Minute)
		require.EqualValues(t, 1, most.Load())
		require.Positive(t, sent)
		h.finish()
	})
}

func TestTrap09_EndingAConnectionUnderAStreamOfStanzasLeaksNothing(t *testing.T) {
	bubble(t, func(t *testing.T) { // which ends only when every goroutine has
		w := newWorld(t)
		// A slow log makes the read pump wait to hand its frame over.
		slow := slog.New(&slowHandler{})
		a := w.tended("a", stability.WithLogger(slow)).run().pair()
		for n := range stabilitytest.Pick(20, 300) {
			w.sim.Flood(w.account.JID(), 2000, time.Duration(n%3)*time.Millisecond)
			time.Sleep(time.Duration(n) * 7 * time.Millisecond)
			a.m.Reconnect()
			time.Sleep(time.Second)
			a.ready()
		}
		w.sim.Flood(w.account.JID(), 2000, time.Millisecond)
		a.stop()
		w.close()
	})
}

// slowHandler is a log that takes a millisecond for each stanza received.
type slowHandler struct{}

func (slowHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h slowHandler) WithAttrs([]slog.Attr) slog.Handler     { return h }
func (h slowHandler) WithGroup(string) slog.Handler          { return h }
func (slowHandler) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "module" && strings.HasSuffix(a.Value.String(), "Recv") {
			time.Sleep(time.Millisecond)
		}
		return true
	})
	return nil
}

func TestTrap10_ADeletedDeviceIsNotReadAnyMore(t *testing.T) {
	bubble(t, func(t *testing.T) { // -race is the judge
		for range stabilitytest.Pick(5, 50) {
			w := hasty(t)
			a := w.tended("a").run().pair()
			time.Sleep(time.Minute)
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() {
				for ctx.Err() == nil {
					a.status()
					a.m.QR()
					time.Sleep(time.Millisecond)
				}
			})
			w.account.Phone().RemoveDevice(w.device())
			w.await("it is known", func() bool { return a.status().WA == reconnect.StatusNeedsPairing })
			time.Sleep(10 * time.Second)
			cancel()
			wg.Wait()
			a.stop()
			w.close()
		}
	})
}

func TestTrap11_ASendInFlightWhenTheLinkDropsReturns(t *testing.T) {
	if race.Enabled {
		t.Skip("a send while the link drops is whatsmeow's own race: it is what this test makes happen")
	}
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		peer := w.peer()
		time.Sleep(time.Minute)
		require.NoError(t, a.send(peer.JID(), "first"))
		for _, f := range []wasim.Fault{wasim.FIN(), wasim.Reset(), wasim.StreamError("503")} {
			hold := w.sim.Fault(wasim.HoldAcks()).For(w.account.JID()).Now()
			sent := make(chan error, 1)
			start := time.Now()
			go func() { sent <- a.send(peer.JID(), "in flight") }()
			time.Sleep(100 * time.Millisecond)
			w.sim.Fault(f).For(w.account.JID()).Now()
			<-sent // re-sent, or an error: both are an answer
			require.Less(t, time.Since(start), 10*time.Second)
			hold.Stop()
			a.ready()
			time.Sleep(time.Minute)
			require.NoError(t, a.send(peer.JID(), "afterwards"))
		}
		a.stop()
		w.close()
	})
}

func TestTrap12_MessagesComeBeforeConnected(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		peer := w.peer()
		time.Sleep(time.Minute)
		for range 3 {
			a.forget()
			refused := w.sim.Fault(wasim.Refused()).Always().OnNextLogin()
			w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
			w.await("it is off", func() bool { return a.status().WA != reconnect.StatusConnected })
			for range 5 {
				_, err := peer.Send(t.Context(), w.account.JID(), "while away")
				require.NoError(t, err)
			}
			refused.Stop()
			a.ready()
			time.Sleep(time.Minute)
			require.Len(t, a.texts(), 5, "each once, none refused")
		}
		require.Zero(t, w.device().Stats().RetryReceipts)
		a.stop()
		w.close()
	})
}
