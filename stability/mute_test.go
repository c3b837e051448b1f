package stability_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

const sendsRefused = "wa_sends_refused_active"

// crowd makes n contacts beside the usual one.
func (w *world) crowd(n int) (to []types.JID) {
	for i := range n {
		c, err := w.sim.NewContact(context.Background(), fmt.Sprintf("4915200001%02d", i))
		require.NoError(w.t, err)
		to = append(to, c.JID())
	}
	return to
}

// sendFails sends and wants the service's refusal.
func (i *instance) sendFails(to types.JID, code int) {
	i.w.t.Helper()
	err := i.send(to, "hello")
	require.ErrorIs(i.w.t, err, whatsmeow.ErrServerReturnedError)
	require.ErrorContains(i.w.t, err, strconv.Itoa(code))
}

// sends runs f in a bubble with an account that is linked, and n people to write
// to. It ends the account behind f, and requires that nothing is left.
func sends(t *testing.T, n int, f func(t *testing.T, w *world, a *tended, to []types.JID)) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		f(t, w, a, w.crowd(n))
		a.stop()
		w.close()
	})
}

func (i *instance) sent() stability.SentMessages { return i.status().Messages.Sent }

func TestEachCodeMakesMuteAndOneIncidentThatResolves(t *testing.T) {
	t.Parallel()
	for _, code := range []int{400, 403, 404, 429, 463, 479, 500, 499} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			sends(t, 3, func(t *testing.T, w *world, a *tended, to []types.JID) {
				time.Sleep(time.Minute)
				a.forget()
				began, logins := time.Now(), w.logins()
				refuse := w.sim.Fault(wasim.MessageNack(code)).For(w.account.JID()).Always().Now()
				for n := range 4 {
					a.sendFails(to[n%3], code)
				}
				require.Equal(t, keepalive.OK, a.status().Probes.Health, "four are not enough")
				a.sendFails(to[0], code)
				e := a.reached(1, stability.EventHealth)
				require.Equal(t, keepalive.Mute, e.Health)
				require.Contains(t, e.Detail, fmt.Sprintf("The last 5 sends were refused with code %d.", code))

				st := a.status()
				require.Equal(t, reconnect.StatusConnected, st.WA)
				require.Equal(t, keepalive.Mute, st.Probes.Health)
				require.WithinDuration(t, began, st.Probes.Since, time.Second)
				require.Len(t, st.Messages.Sent.Refused, 1)
				r := st.Messages.Sent.Refused[0]
				require.Equal(t, code, r.Code)
				require.EqualValues(t, 5, r.Count)
				require.Contains(t, st.Probes.Text, r.Means, "it says what it is")
				require.Contains(t, st.Probes.Text, r.Do, "and what to do")
				require.Contains(t, st.Summary, r.Means)
				require.Equal(t, r.Do, st.Messages.Sent.Do)

				w.await("the incident", func() bool { return a.incident(sendsRefused).Active })
				inc := a.incident(sendsRefused)
				require.Equal(t, r.Do, inc.Instructions)
				require.Contains(t, inc.Runbook, r.Means)
				require.Equal(t, strconv.Itoa(code), inc.Evidence["code"])
				for range 10 {
					time.Sleep(time.Minute)
					a.sendFails(to[1], code)
				}
				require.Len(t, a.history(stability.EventIncidentOpened), 1, "told once")
				require.Equal(t, logins, w.logins(), "a new connection would not help")

				refuse.Stop()
				require.NoError(t, a.send(to[1], "hello"))
				require.NotEqual(t, keepalive.Mute, a.reached(2, stability.EventHealth).Health)
				require.Zero(t, a.sent().MuteSince)
				w.await("the incident's end", func() bool { return !a.incident(sendsRefused).Active })
				require.EqualValues(t, 1, a.sent().Acknowledged)
				require.EqualValues(t, 15, a.sent().Refused[0].Count)
			})
		})
	}
}

func TestUnansweredSendsAreMuteAndNothingIsSentAgain(t *testing.T) {
	sends(t, 3, func(t *testing.T, w *world, a *tended, to []types.JID) {
		for _, j := range to {
			require.NoError(t, a.send(j, "hello"))
		}
		a.forget()
		before, logins := w.device().Stats(), w.logins()
		ignore := w.sim.Fault(wasim.MessageIgnored()).For(w.account.JID()).Always().Now()
		begin := time.Now()
		for n := range 5 {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			_, err := a.m.Client().SendMessage(ctx, to[n%3], text("hello"))
			cancel()
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
		require.Equal(t, 5, a.sent().Waiting)
		require.Equal(t, keepalive.Mute, a.reached(1, stability.EventHealth).Health)
		require.WithinDuration(t, begin.Add(40*time.Second+time.Minute), time.Now(), 2*time.Second, "a minute after the fifth")
		s := a.sent()
		require.EqualValues(t, 5, s.Unanswered)
		require.Zero(t, s.Waiting)
		require.Contains(t, s.Text, "The last 5 sends were not answered. One was accepted last at ")
		w.await("the incident", func() bool { return a.incident(sendsRefused).Active })
		require.Empty(t, a.incident(sendsRefused).Evidence["code"])
		time.Sleep(time.Hour)
		after := w.device().Stats()
		require.Equal(t, before.MessagesSent+5, after.MessagesSent, "the library sends nothing by itself")
		require.Equal(t, logins, w.logins())
		ignore.Stop()
		require.NoError(t, a.send(to[0], "hello"))
		w.await("the incident's end", func() bool { return !a.incident(sendsRefused).Active })
		require.Equal(t, keepalive.OK, a.status().Probes.Health)
	})
}

func TestMuteSurvivesAReconnectAndAHandOver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		to := w.crowd(3)
		refuse := w.sim.Fault(wasim.MessageNack(479)).For(w.account.JID()).Always().Now()
		for n := range 3 {
			a.sendFails(to[n], 479)
		}
		a.m.Reconnect()
		a.reached(2, stability.EventConnected)
		a.ready()
		for n := range 2 {
			a.sendFails(to[n], 479)
		}
		w.await("it is mute", func() bool { return a.status().Probes.Health == keepalive.Mute })
		w.await("the incident", func() bool { return a.incident(sendsRefused).Active })
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		w.await("it is off", func() bool { return a.status().WA != reconnect.StatusConnected })
		require.NotZero(t, a.sent().MuteSince)
		a.ready()
		w.await("it is mute again", func() bool { return a.status().Probes.Health == keepalive.Mute })
		time.Sleep(10 * time.Minute)
		require.True(t, a.incident(sendsRefused).Active)
		a.stop()

		b := w.tended("b").run().ready()
		time.Sleep(10 * time.Minute)
		require.True(t, b.incident(sendsRefused).Active, "a new holder that has sent nothing knows nothing")
		refuse.Stop()
		require.NoError(t, b.send(to[0], "hello"))
		w.await("the incident's end", func() bool { return !b.incident(sendsRefused).Active })
		b.stop()
		w.close()
	})
}

// An instance's sends in an earlier term of its own say nothing of now.
func TestMuteOfAnotherHolderDoesNotEndByWhatWasSentBefore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		to := w.crowd(3)
		require.NoError(t, a.send(to[0], "hello"))
		b := w.tended("b").run()
		a.wire.fail(anyCall)
		b.ready()
		a.wire.heal()
		refuse := w.sim.Fault(wasim.MessageNack(479)).For(w.account.JID()).Always().Now()
		for n := range 5 {
			b.sendFails(to[n%3], 479)
		}
		w.await("the incident", func() bool { return b.incident(sendsRefused).Active })
		b.stop()
		a.ready()
		time.Sleep(time.Hour)
		require.True(t, a.incident(sendsRefused).Active)
		refuse.Stop()
		require.NoError(t, a.send(to[0], "hello again"))
		w.await("the incident's end", func() bool { return !a.incident(sendsRefused).Active })
		a.stop()
		w.close()
	})
}

// The outcomes of a device's sends say nothing of the one that is paired after it.
func TestMuteEndsWithTheDevice(t *testing.T) {
	sends(t, 3, func(t *testing.T, w *world, a *tended, to []types.JID) {
		old := w.peer().JID()
		require.NoError(t, a.send(old, "hello"))
		refuse := w.sim.Fault(wasim.MessageNack(463)).For(w.account.JID()).ToNewChats().Always().Now()
		a.sendFails(to[0], 463)
		require.NotZero(t, a.sent().NewChatsRefusedAt)
		refuse.Stop()
		refuse = w.sim.Fault(wasim.MessageNack(479)).For(w.account.JID()).Always().Now()
		for n := range 5 {
			a.sendFails(to[n%3], 479)
		}
		w.await("the incident", func() bool { return a.incident(sendsRefused).Active })
		w.sim.Fault(wasim.Stanza(restrictionFor(24 * time.Hour))).For(w.account.JID()).Now()
		w.await("the restriction", func() bool { return a.sent().Restricted != nil })
		require.NoError(t, a.m.Logout(t.Context()))
		w.await("it noticed", func() bool { return a.status().WA == reconnect.StatusNeedsPairing })
		refuse.Stop()
		a.pair()
		time.Sleep(time.Hour)
		require.NotEqual(t, keepalive.Mute, a.status().Probes.Health)
		require.Equal(t, []guard.Change{opened, resolved}, a.book.of(sendsRefused))
		require.Zero(t, a.sent().NewChatsRefusedAt)
		require.EqualValues(t, 1, a.sent().Acknowledged, "the totals stay")
		require.NotNil(t, a.sent().Restricted, "it is the same account")
		require.NoError(t, a.send(to[0], "hello"))
	})
}

// restrictionFor is WhatsApp's word that the account may not begin new chats.
func restrictionFor(d time.Duration) waBinary.Node {
	return restrictionOf(limit(true, fmt.Sprintf(`"%d"`, time.Now().Add(d).Unix())))
}

func limit(active bool, ends string) string {
	return fmt.Sprintf(`{"data":{"xwa2_notify_account_reachout_timelock":{"enforcement_type":"RESTRICT_ALL_COMPANIONS","is_active":%v,"time_enforcement_ends":%s}}}`, active, ends)
}

func restrictionOf(json string) waBinary.Node {
	return waBinary.Node{Tag: "notification", Attrs: waBinary.Attrs{
		"from": types.ServerJID, "type": "mex", "id": "limit", "t": time.Now().Unix(),
	}, Content: []waBinary.Node{{
		Tag: "update", Attrs: waBinary.Attrs{"op_name": "NotificationUserReachoutTimelockUpdate"}, Content: []byte(json),
	}}}
}

func TestTheServicesOwnWordOnARestrictionIsShown(t *testing.T) {
	sends(t, 0, func(t *testing.T, w *world, a *tended, _ []types.JID) {
		tell := func(json string) {
			w.sim.Fault(wasim.Stanza(restrictionOf(json))).For(w.account.JID()).Now()
			time.Sleep(time.Second)
		}
		ends := time.Now().Add(24 * time.Hour).Truncate(time.Second)
		tell(limit(true, fmt.Sprintf(`"%d"`, ends.Unix())))
		s := a.sent()
		require.NotNil(t, s.Restricted)
		require.Equal(t, "RESTRICT_ALL_COMPANIONS", s.Restricted.Kind)
		require.True(t, ends.Equal(s.Restricted.Ends))
		require.Contains(t, s.Text, "it may not begin new chats before")
		require.NotEmpty(t, s.Do)
		require.Contains(t, a.status().Summary, "WhatsApp has restricted this account")
		tell(`{"data":{"xwa2_notify_account_reachout_timelock":7}}`)
		tell(`{"data":{"xwa2_notify_newsletter_on_join":{"id":"1@newsletter"}}}`)
		require.NotNil(t, a.sent().Restricted, "what says nothing changes nothing")
		tell(limit(false, "null"))
		require.Nil(t, a.sent().Restricted)
		tell(limit(true, fmt.Sprint(ends.Unix())))
		require.NotNil(t, a.sent().Restricted)
		time.Sleep(25 * time.Hour)
		require.Nil(t, a.sent().Restricted, "it is over")
	})
}
