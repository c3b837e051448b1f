package stability_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// checker compares what instances say with what the service knows.
type checker struct {
	w       *world
	since   map[string]time.Time // when a lie of an instance began
	longest map[lie]time.Duration
	wrong   []string
	polls   int

	mu       sync.Mutex
	all      []*tended
	deadAt   time.Time // the link was struck dead; zero while it lives
	deadFrom int       // logins until then

	// What the service saw.
	online   time.Time // last
	login    int       // which it is
	began    time.Time // when the present connection did
	trouble  time.Time // the end of the last connection that was stable, and known to the store as stable
	saving   time.Time // since when its holder had a store to write that down
	saved    bool      // and had it for long enough
	demanded time.Time // a new connection, last
}

// sees notes what the service knows at this moment, and whether the store answers
// the holder: a connection that was stable while nobody could write that down is
// not known to have been to whoever comes next.
func (c *checker) sees(online bool, login int, stored bool, now time.Time) {
	if !online || login != c.login { // one may follow the other between two looks
		if c.saved {
			c.trouble = c.online
		}
		c.login, c.began, c.saving, c.saved = login, now, time.Time{}, false
	}
	if !online {
		return
	}
	c.online = now
	switch {
	case !stored || now.Sub(c.began) <= time.Minute:
		c.saving = time.Time{}
	case c.saving.IsZero():
		c.saving = now
	case now.Sub(c.saving) > 12*time.Second: // a call may take ten before it counts as unanswered
		c.saved = true
	}
}

// demands notes that the service asks for a new connection.
func (c *checker) demands() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.demanded = time.Now()
}

func newChecker(w *world) *checker {
	return &checker{w: w, since: map[string]time.Time{}, longest: map[lie]time.Duration{}}
}

func (c *checker) add(i *tended) *tended {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, i)
	return i
}

func (c *checker) remove(i *tended) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n, have := range c.all {
		if have == i {
			c.all = append(c.all[:n:n], c.all[n+1:]...)
		}
	}
}

func (c *checker) struck() {
	logins := c.w.logins()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadAt, c.deadFrom = time.Now(), logins
}

// poll looks every 100 ms until stop.
func (c *checker) poll() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			c.look()
			time.Sleep(100 * time.Millisecond)
		}
	}()
	return func() { cancel(); <-done }
}

func (c *checker) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	devices := c.w.account.Devices()
	paired := len(devices) > 0
	var online bool
	var logins int
	if paired {
		online, logins = c.w.device().Online(), c.w.logins()
		if c.online.IsZero() {
			c.demanded = now // that belongs to a pairing
		}
	}
	if !c.deadAt.IsZero() && logins > c.deadFrom {
		c.deadAt = time.Time{} // it is another link by now
	}
	rec, err := c.w.look().Lock.Load(context.Background())
	require.NoError(c.w.t, err)
	said := make([]stability.Status, 0, len(c.all))
	stored := false
	for _, i := range c.all {
		st := i.status()
		said = append(said, st)
		stored = stored || st.WA == reconnect.StatusConnected && st.StoreUnavailable == nil
	}
	c.sees(online && c.deadAt.IsZero(), logins, stored, now)
	stuck := c.w.incident("wa_disconnect_stuck_active").Active
	held := rec.Holder != "" && now.Before(rec.LeaseUntil)
	connected := 0
	for n, i := range c.all {
		st := said[n]
		c.polls++
		tell := func(l lie, is bool) {
			key := i.label + string(l)
			if !is {
				delete(c.since, key)
				return
			}
			if c.since[key].IsZero() {
				c.since[key] = now
				if l == lieDead {
					c.since[key] = c.deadAt
				}
			}
			d := now.Sub(c.since[key])
			c.longest[l] = max(c.longest[l], d)
			if d > bounds[l] || bounds[l] == 0 {
				c.wrong = append(c.wrong, fmt.Sprintf("%s: %s for %s: %s; %s", i.label, l, d, st.Summary, i.lastEvents()))
			}
		}
		says := st.WA == reconnect.StatusConnected
		if says {
			connected++
		}
		dead := !c.deadAt.IsZero()
		active := st.Mode == stability.ModeActive
		tell(lieVisible, says && !online && !dead)
		tell(lieDead, says && dead)
		tell(lieOffline, !says && active && online && !dead)
		tell(lieActive, active && held && rec.Holder != st.InstanceID && st.TrustedUntil.After(now))
		tell(liePassive, !active && held && rec.Holder == st.InstanceID && st.StoreUnavailable == nil)
		tell(lieOverdue, active && !says && !st.Connecting && st.StoreUnavailable == nil && !st.Heartbeats.Paused &&
			!st.NextRetryAt.IsZero() && now.After(st.NextRetryAt))
		tell(liePairing, st.WA == reconnect.StatusNeedsPairing && paired)
		tell(lieOld, active && !says && paired && !online && c.deadAt.IsZero() && !c.online.IsZero() &&
			(st.LastDisconnectAt.Before(c.online.Add(-time.Second)) ||
				!st.State.FirstDisconnectAt.IsZero() && st.State.FirstDisconnectAt.Before(c.trouble.Add(-time.Second))))
		tell(lieDemand, st.LastDisconnectReason == reconnect.ReasonRestartRequired && (c.demanded.IsZero() || st.LastDisconnectAt.After(c.demanded.Add(5*time.Second))) ||
			strings.Contains(st.Summary, "It began with restart_required") && c.demanded.Before(c.trouble.Add(-time.Second)))
		tell(lieHere, !active && !st.LockHolderHere && st.LockHolder != "" && st.Mode == stability.ModePassive && c.holds(st.LockHolder))
		tell(lieStuck, !paired && stuck)
		tell(lieRoute, strings.Contains(st.Summary, "/") && route.MatchString(st.Summary))
		tell(lieHealth, says == (st.Probes.Health == "down"))
		tell(lieNoReason, active && !says && (st.DisconnectedSince.IsZero() || st.DisconnectedSince.After(now) || st.Summary == ""))
	}
	if connected > 1 {
		c.wrong = append(c.wrong, string(lieTwice))
	}
}

// holds reports whether one of the instances holds the lock under an id.
func (c *checker) holds(id string) bool {
	return slices.ContainsFunc(c.all, func(i *tended) bool {
		st := i.status()
		return st.Mode == stability.ModeActive && st.InstanceID == id
	})
}

func (n *instance) lastEvents() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []string
	for _, e := range n.events[max(0, len(n.events)-6):] {
		out = append(out, e.Time.Format("04:05.000 ")+e.String())
	}
	return out
}

// inOrder checks that the observer of an instance heard each transition once,
// and in an order that makes sense.
func inOrder(t *testing.T, i *instance) {
	t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	var at time.Time
	var active, connecting, connected, closed bool
	for n, e := range i.events {
		around := fmt.Sprintf("%v", i.events[max(0, n-5):n+1])
		require.False(t, e.Time.Before(at), "time runs backwards: %s", around)
		at = e.Time
		require.False(t, closed, "nothing follows the close")
		switch e.Kind {
		case stability.EventActivated:
			require.False(t, active, around)
			active = true
		case stability.EventDeactivated:
			require.True(t, active, around)
			require.False(t, connecting || connected, "the end of the connection comes first: %s", around)
			active = false
		case stability.EventConnecting:
			require.True(t, active && !connecting && !connected, around)
			connecting = true
		case stability.EventConnected:
			require.True(t, connecting && !connected, around)
			require.Equal(t, reconnect.StatusConnected, e.Status, around)
			connected, connecting = true, false
		case stability.EventDisconnected:
			require.True(t, connecting || connected, around)
			require.NotEmpty(t, e.Reason, around)
			require.NotEqual(t, reconnect.StatusConnected, e.Status, around)
			connected, connecting = false, false
		case stability.EventReasonKnown:
			require.False(t, connected, around)
		case stability.EventStandby:
			require.False(t, active, around)
		case stability.EventClosed:
			closed = true
		}
	}
}

func TestStatusIsNeverWrongForLongerThanItsBound(t *testing.T) {
	t.Parallel()
	total := newChecker(nil)
	for seed := range stabilitytest.Pick(5, 500) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			bubble(t, func(t *testing.T) { scenario(t, total, rand.New(rand.NewPCG(uint64(seed), 11))) })
		})
	}
	for l, d := range total.longest {
		t.Logf("%-60s at most %s (bound %s)", l, d, bounds[l])
	}
	t.Logf("%d looks", total.polls)
}

func scenario(t *testing.T, total *checker, rnd *rand.Rand) {
	w := newWorld(t)
	c := newChecker(w)
	names := 0
	start := func() *tended {
		names++
		return w.tended(fmt.Sprint("i", names)).run()
	}
	a := c.add(start())
	stop := c.poll()
	// At times longer than an outage that is an incident, and never when one code
	// takes the place of another.
	time.Sleep(time.Duration(rnd.IntN(15))*time.Minute + 30*time.Second)
	synctest.Wait()
	for len(a.codes) > 0 {
		<-a.codes
	}
	a.m.Reconnect() // perhaps no code is offered any more; the next one may be there at once
	a.pair()
	b := c.add(start())
	both := []*tended{a, b}
	time.Sleep(time.Duration(rnd.IntN(120)) * time.Second)
	pause := func(most time.Duration) { time.Sleep(time.Duration(rnd.Int64N(int64(most)))) }
	var crashed []*tended
	strike := func(f wasim.Fault) { w.sim.Fault(f).For(w.account.JID()).Now() }
	for range stabilitytest.Pick(10, 16) {
		one := both[rnd.IntN(2)]
		switch rnd.IntN(13) {
		case 0:
			strike(wasim.Reset())
		case 1:
			strike(wasim.FIN())
		case 2:
			strike(wasim.WebsocketClose(1001))
		case 3:
			n := rnd.IntN(5)
			if n == 2 {
				c.demands()
			}
			strike([]wasim.Fault{wasim.StreamError("503"), wasim.StreamError("500"), wasim.StreamError("515"), wasim.Replaced(), wasim.StreamEnd()}[n])
		case 4:
			if w.device().Online() {
				c.struck()
				strike([]wasim.Fault{wasim.BlackHole(), wasim.Silence()}[rnd.IntN(2)])
			}
		case 5:
			f := w.sim.Fault([]wasim.Fault{wasim.Refused(), wasim.DialHang(), wasim.TLSHang(), wasim.UpgradeHang(), wasim.HandshakeDrop(), wasim.HelloDelay(time.Minute)}[rnd.IntN(6)]).Always().OnNextLogin()
			strike(wasim.FIN())
			pause(2 * time.Minute)
			f.Stop()
		case 6:
			w.sim.Fault([]wasim.Fault{wasim.Failure(500), wasim.Failure(503), wasim.DropAfterSuccess(), wasim.TemporaryBan(101, 90*time.Second)}[rnd.IntN(4)]).OnNextLogin()
			strike(wasim.FIN())
		case 7:
			one.wire.fail(anyCall)
			pause(3 * time.Minute)
			one.wire.heal()
		case 8:
			one.wire.hang(anyCall)
			pause(3 * time.Minute)
			one.wire.heal()
		case 9:
			one.wire.fail(only("save state", "commit"))
			strike(wasim.FIN())
			pause(time.Minute)
			one.wire.heal()
		case 10:
			one.wire.hang(lockCalls)
			pause(3 * time.Minute)
			one.wire.heal()
		case 11:
			k := rnd.IntN(2)
			old := both[k]
			old.cancel()
			require.NoError(t, <-old.result)
			_ = old.m.Close(context.Background()) // it reports a release that went unanswered earlier
			c.remove(old)
			inOrder(t, old.instance)
			both[k] = c.add(start())
		case 12:
			k := rnd.IntN(2)
			gone := both[k]
			if gone.status().Mode == stability.ModeActive && w.device().Online() {
				c.struck()
			}
			c.remove(gone)
			gone.crash()
			crashed = append(crashed, gone)
			both[k] = c.add(start())
		}
		pause(90 * time.Second)
	}
	w.sim.Heal()
	for _, i := range both {
		i.wire.heal()
	}
	w.await("somebody is connected", func() bool {
		return both[0].status().WA == reconnect.StatusConnected || both[1].status().WA == reconnect.StatusConnected
	})
	stop()
	for _, i := range both {
		i.kill()
		inOrder(t, i.instance)
	}
	for _, i := range crashed {
		i.wire.heal()
		i.kill()
	}
	require.Empty(t, c.wrong)
	for l, d := range c.longest {
		total.longest[l] = max(total.longest[l], d)
	}
	total.polls += c.polls
	w.close()
}
