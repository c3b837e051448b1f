package stability_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
)

// Two replicas at any time, a deploy every hour, a message every five minutes.
func TestADayOnFirestoreWithADeployEveryHour(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		const every = 5 * time.Minute
		hours := stabilitytest.Pick(5, 24) // each is like the others
		sim := firestoresim.New(firestoresim.WithLatency(20 * time.Millisecond))
		t.Cleanup(sim.Close)
		w := newWorld(t)
		w.memory = &firestoreServer{t: t, sim: sim}
		peer := w.peer()
		started := 0
		var all []*tended
		replica := func() *tended {
			started++
			i := w.tended(fmt.Sprint("replica ", started)).run()
			i.heed(func(evt any) {
				if m, ok := evt.(*events.Message); ok {
					if err := i.send(peer.JID(), "re "+m.Message.GetConversation()); err != nil {
						t.Errorf("%s could not answer %q: %v", i.label, m.Message.GetConversation(), err)
					}
				}
			})
			all = append(all, i)
			return i
		}
		active := replica().pair()
		standby := replica()
		device := w.device()
		time.Sleep(10 * time.Minute) // the first pairing is not a day like any other
		sim.ResetStats()
		logins := w.logins()

		connected := func(i *tended) bool { return len(i.history(stability.EventConnected)) > 0 }
		sent := 0
		for range hours {
			for left := time.Hour; left > 0; left -= every {
				_, err := peer.Send(t.Context(), w.account.JID(), fmt.Sprint("m", sent))
				require.NoError(t, err)
				sent++
				time.Sleep(every)
			}
			// As a platform does it: a new one, then the old one goes.
			next := replica()
			next.reached(1, stability.EventStandby)
			active.cancel()
			require.NoError(t, <-active.result)
			require.NoError(t, active.m.Close(t.Context()))
			released := active.reached(1, stability.EventDeactivated).Time
			w.await("another is logged in", func() bool { return w.logins() > logins })
			logins++
			require.Equal(t, logins, w.logins())
			require.Less(t, time.Since(released), 2*time.Second)
			w.await("it knows", func() bool { return connected(standby) || connected(next) })
			if active = next; connected(standby) {
				active, standby = standby, next
			}
		}
		got := sim.Stats()
		time.Sleep(time.Minute)
		require.Equal(t, device, w.device(), "the same session")
		require.Len(t, w.account.Devices(), 1, "no pairing again")
		require.Zero(t, device.Stats().Replaced, "never two logins")
		var texts [][]string
		for _, i := range all {
			texts = append(texts, i.texts())
		}
		onceEach(t, sent, texts...)
		answers := map[string]int{}
		for _, text := range peer.Texts() {
			answers[text]++
		}
		for n := range sent {
			require.Equal(t, 1, answers[fmt.Sprintf("re m%d", n)], "m%d of %d", n, sent)
		}
		t.Logf("%d messages, %d deploys: %v, %+v", sent, hours, got.RPCs, got.Billing)

		// The formula that firestorebackend's documentation states.
		day := time.Duration(hours) * time.Hour
		formula := int(day/(30*time.Second)) + int(day/(10*time.Second)) + 2*sent + 40*hours
		requests := 0
		for _, n := range got.RPCs {
			requests += n
		}
		require.InEpsilon(t, formula, requests, 0.05)

		active.stop()
		standby.stop()
		w.close()
	})
}
