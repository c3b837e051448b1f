package stability_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

func TestAnOutageOfTenMinutesIsOneIncidentAndTheNextOneIsAnother(t *testing.T) {
	const id = "wa_disconnect_stuck_active"
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a", stability.WithAutoHeal(noHeal)).run().pair()
		time.Sleep(5 * time.Minute)
		var first guard.Incident
		for round := 1; round <= 3; round++ {
			start := time.Now()
			stop := w.loops()
			time.Sleep(10*time.Minute - time.Second)
			require.False(t, w.incident(id).Active, "not before ten minutes")
			time.Sleep(2 * time.Second)
			inc := w.incident(id)
			require.True(t, inc.Active)
			require.Equal(t, guard.TypeDisconnectStuck, inc.Type)
			require.WithinDuration(t, start.Add(10*time.Minute), inc.DetectedAt, 2*time.Second)
			require.Equal(t, string(reconnect.ReasonConnectionClosed), inc.Evidence["reason"])
			require.NotEmpty(t, inc.Instructions)
			require.NotEmpty(t, inc.Runbook)
			if round == 1 {
				first = inc
			}
			require.Equal(t, first.FirstDetectedAt, inc.FirstDetectedAt)
			// The same incident, refreshed once a minute.
			for range 20 {
				before := w.incident(id).LastCheckedAt
				time.Sleep(time.Minute + time.Second)
				now := w.incident(id)
				require.InDelta(t, time.Minute, now.LastCheckedAt.Sub(before), float64(time.Minute), "at most two refreshes")
				require.True(t, now.LastCheckedAt.After(before))
				require.Equal(t, inc.DetectedAt, now.DetectedAt)
				require.Less(t, time.Since(now.LastCheckedAt), time.Minute+2*time.Second)
			}
			stop()
			a.ready()
			time.Sleep(time.Second)
			over := w.incident(id)
			require.False(t, over.Active)
			require.WithinDuration(t, time.Now(), over.ResolvedAt, 2*time.Second)
			require.Len(t, a.book.of(id), 2*round, "one notification per change")
			time.Sleep(5 * time.Minute)
		}
		require.Equal(t, []guard.Change{opened, resolved, opened, resolved, opened, resolved}, a.book.of(id))
		a.stop()
		w.close()
	})
}

// Troubles that a service's word begins and that pairing, time or a
// connection ends.
func TestEachTroubleHasItsIncidentItsRunbookAndItsEnd(t *testing.T) {
	for _, c := range []struct {
		id     string
		fault  wasim.Fault
		within time.Duration
		cure   func(w *world, a *tended) // nil: a connection cures it, which comes by itself
		after  time.Duration             // how long the cure takes to be believed
		says   string                    // in the runbook
	}{
		{"wa_logged_out_requires_pairing_active", wasim.Failure(401), time.Second, func(w *world, a *tended) { a.pair() }, time.Second, "Linked devices"},
		{"wa_logged_out_requires_pairing_active", wasim.Failure(403), time.Second, func(w *world, a *tended) { a.m.Reconnect(); a.pair() }, time.Second, ""},
		{"wa_account_banned_active", wasim.Failure(406), time.Second, func(w *world, a *tended) { a.m.Reconnect(); a.pair() }, time.Second, "No code is offered"},
		{"wa_temporary_ban_active", wasim.TemporaryBan(101, time.Hour), time.Second, nil, time.Second, "one attempt when the ban is over"},
		{"wa_client_outdated_active", wasim.Failure(405), time.Second, nil, time.Second, "whatsmeow"},
	} {
		t.Run(fmt.Sprint(c.id, c.fault), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.tended("a").run().pair()
				time.Sleep(5 * time.Minute)
				a.forget()
				f := w.sim.Fault(c.fault).Always().OnNextLogin()
				w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
				a.reached(2, stability.EventDisconnected)
				f.Stop()
				time.Sleep(c.within)
				inc := w.incident(c.id)
				require.True(t, inc.Active, "%+v", a.m.Incidents())
				require.Contains(t, inc.Runbook, c.says)
				require.NotEmpty(t, inc.Instructions)
				require.Equal(t, []guard.Change{opened}, a.book.of(c.id))
				require.NotEmpty(t, a.m.Incidents())
				if c.cure == nil {
					a.reached(1, stability.EventConnected)
				} else {
					time.Sleep(20 * time.Minute)
					require.True(t, w.incident(c.id).Active, "as long as it lasts")
					require.Less(t, time.Since(w.incident(c.id).LastCheckedAt), 2*time.Minute)
					require.False(t, w.incident("wa_disconnect_stuck_active").Active, "one trouble is one incident")
					for len(a.codes) > 0 {
						<-a.codes
					}
					a.m.Reconnect()
					c.cure(w, a)
				}
				time.Sleep(c.after)
				require.False(t, w.incident(c.id).Active)
				require.Equal(t, []guard.Change{opened, resolved}, a.book.of(c.id))
				a.stop()
				w.close()
			})
		})
	}
}

func TestASecondReplacementIsAConflict(t *testing.T) {
	const id = "wa_connection_conflict_active"
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		a.forget()
		w.sim.Fault(wasim.Replaced()).For(w.account.JID()).Now()
		a.reached(1, stability.EventConnected)
		require.Empty(t, a.book.of(id), "once may be a rolling deploy")
		w.sim.Fault(wasim.Replaced()).For(w.account.JID()).Now()
		a.reached(2, stability.EventDisconnected)
		time.Sleep(time.Second)
		require.True(t, w.incident(id).Active)
		require.Contains(t, w.incident(id).Instructions, "other program")
		a.reached(2, stability.EventConnected)
		time.Sleep(2 * time.Hour)
		require.Equal(t, []guard.Change{opened, resolved}, a.book.of(id))
		a.stop()
		w.close()
	})
}

func TestTwoProcessesWithOneInstanceIDSaySoAndDoNotFight(t *testing.T) {
	const id = "wa_instance_id_not_unique_active"
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a", stability.WithInstanceID("twin")).run().pair()
		time.Sleep(5 * time.Minute)
		b := w.tended("b", stability.WithInstanceID("twin")).run()
		b.ready()
		w.await("it is told", func() bool { return len(a.book.of(id)) > 0 })
		time.Sleep(time.Hour)
		require.Equal(t, reconnect.StatusConnected, b.status().WA)
		require.EqualValues(t, 2, b.status().LeaseEpoch, "no fight")
		require.Equal(t, stability.ModePassive, a.status().Mode)
		require.Equal(t, []guard.Change{opened}, a.book.of(id))
		require.Contains(t, w.incident(id).Instructions, "instance id")
		b.stop()
		a.ready() // the twin is gone
		time.Sleep(time.Second)
		require.Equal(t, []guard.Change{opened, resolved}, a.book.of(id))
		a.stop()
		w.close()
	})
}

// Whoever stands by cannot know whether the holder, which tells of an outage,
// has one too. Its status says so at once; it tells only of a long one.
func TestAStandbyTellsOfALongOutageOnly(t *testing.T) {
	const id = "wa_store_unavailable_active"
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		b := w.tended("b").run()
		b.reached(1, stability.EventStandby)
		time.Sleep(5 * time.Minute)
		b.wire.fail(anyCall)
		time.Sleep(5 * time.Minute)
		st := b.status()
		require.Error(t, st.StoreUnavailable)
		require.Contains(t, st.Summary, "does not answer")
		require.Empty(t, b.book.of(id))
		time.Sleep(5*time.Hour + 54*time.Minute)
		require.Empty(t, b.book.of(id))
		time.Sleep(5 * time.Minute)
		require.Equal(t, []guard.Change{opened}, b.book.of(id))
		b.wire.heal()
		time.Sleep(3 * time.Minute)
		require.NoError(t, b.status().StoreUnavailable)
		require.Equal(t, []guard.Change{opened, resolved}, b.book.of(id))
		require.Empty(t, a.book.of(id), "its store was there all the time")
		b.stop()
		a.stop()
		w.close()
	})
}

func TestALockThatMovesAgainAndAgainIsReported(t *testing.T) {
	const id = "wa_lock_flapping_active"
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a", stability.WithLockOptions(lock.WithLease(15*time.Second))).run().pair()
		for range 4 {
			a.wire.fail(lockCalls)
			a.reached(1, stability.EventDeactivated)
			a.wire.heal()
			a.ready()
			a.forget0()
			time.Sleep(20 * time.Second)
		}
		require.Equal(t, []guard.Change{opened}, a.book.of(id))
		require.Contains(t, []string{"4", "5"}, w.incident(id).Evidence["terms"])
		time.Sleep(15 * time.Minute)
		require.Equal(t, []guard.Change{opened, resolved}, a.book.of(id))
		a.stop()
		w.close()
	})
}

func TestAHandOverNeitherTellsAgainNorResolvesAndTheNewHolderResolves(t *testing.T) {
	t.Parallel()
	const id = "wa_disconnect_stuck_active"
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a", stability.WithAutoHeal(noHeal), keepsTheLock).run().pair() // the test says who has it
		b := w.tended("b", stability.WithAutoHeal(noHeal), keepsTheLock).run()
		time.Sleep(5 * time.Minute)
		// Attempts take their time, so that hand-overs meet one under way.
		hang := w.sim.Fault(wasim.UpgradeHang()).Always().OnNextLogin()
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		time.Sleep(15 * time.Minute)
		require.Equal(t, []guard.Change{opened}, a.book.of(id))
		detected := w.incident(id).DetectedAt
		holders := []*tended{a, b}
		for range 4 {
			old, next := holders[0], holders[1]
			w.await("an attempt is under way", func() bool { return old.status().Connecting })
			old.cancel()
			require.NoError(t, <-old.result)
			w.await("the other has it", func() bool { return next.status().Mode == stability.ModeActive })
			time.Sleep(3 * time.Minute)
			require.True(t, w.incident(id).Active)
			require.Equal(t, detected, w.incident(id).DetectedAt, "one and the same outage")
			require.Less(t, time.Since(w.incident(id).LastCheckedAt), 2*time.Minute)
			old.run()
			holders[0], holders[1] = next, old
		}
		require.Equal(t, 1, len(a.book.of(id))+len(b.book.of(id)), "%v %v", a.book.of(id), b.book.of(id))
		hang.Stop()
		holders[0].ready()
		time.Sleep(2 * time.Second)
		require.False(t, w.incident(id).Active)
		all := slices.Concat(a.book.of(id), b.book.of(id))
		slices.Sort(all)
		require.Equal(t, []guard.Change{opened, resolved}, all)

		// The instance that told of the first outage tells of a later one too,
		// although it was another that saw the first one's end.
		for _, h := range holders {
			for i := range holders {
				if holders[i] != h {
					holders[i].cancel()
					require.NoError(t, <-holders[i].result)
				}
			}
			h.ready()
			time.Sleep(2 * time.Minute)
			before := len(h.book.of(id))
			f := w.sim.Fault(wasim.Refused()).Always().OnNextLogin()
			w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
			time.Sleep(11 * time.Minute)
			require.Equal(t, opened, h.book.of(id)[before], "%v", h.book.of(id))
			f.Stop()
			h.ready()
			time.Sleep(time.Second)
			for i := range holders {
				if holders[i] != h {
					holders[i].run()
				}
			}
			time.Sleep(time.Second)
		}
		a.kill()
		b.kill()
		w.close()
	})
}

func TestDegradedIsReportedAndTellsWhy(t *testing.T) {
	const id = "wa_degraded_active"
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(time.Minute)
		in := a.m.Client().DangerousInternals()
		for n := range 12 {
			in.DispatchEvent(&events.UndecryptableMessage{Info: types.MessageInfo{ID: fmt.Sprint(n)}})
		}
		time.Sleep(time.Second)
		require.Equal(t, []guard.Change{opened}, a.book.of(id))
		require.Contains(t, w.incident(id).Runbook, "decrypt")
		time.Sleep(10 * time.Minute)
		require.Equal(t, []guard.Change{opened, resolved}, a.book.of(id))
		a.stop()
		w.close()
	})
}

func TestAServiceThatRefusesToPairIsNotAskedInACircle(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		f := w.sim.Fault(wasim.Failure(401)).Always().OnNextLogin()
		a := w.tended("a").run()
		time.Sleep(time.Hour)
		require.LessOrEqual(t, w.sim.Dials(), 6, "as often as codes are offered, with growing pauses")
		require.True(t, a.status().Parked)
		f.Stop()
		a.m.Reconnect()
		a.pair()
		a.stop()
		w.close()
	})
}

// An event that no stanza of this connection explains was left over.
func TestALeftOverEventDoesNotEndAHealthyConnection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		a.forget()
		in := a.m.Client().DangerousInternals()
		for _, evt := range []any{
			&events.StreamReplaced{}, &events.LoggedOut{}, &events.StreamError{Code: "500"}, &events.ClientOutdated{},
			&events.TemporaryBan{Expire: time.Hour}, &events.ConnectFailure{Reason: 418}, &events.Disconnected{}, &events.Connected{},
		} {
			in.DispatchEvent(evt)
			time.Sleep(time.Minute)
		}
		require.Empty(t, a.history(stability.EventDisconnected, stability.EventConnected, stability.EventNeedsPairing))
		require.Equal(t, reconnect.StatusConnected, a.status().WA)
		a.stop()
		w.close()
	})
}
