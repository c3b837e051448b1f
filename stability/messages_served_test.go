package stability_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// served compares the account with the books of the service and of the handlers: a message
// that was brought in this term, that is not acknowledged, and that no handler took, waits
// or is set aside.
func (i *instance) served() {
	i.w.t.Helper()
	synctest.Wait() // what was written is read
	begun, has := stability.Accounts(i.m)
	r := i.m.Status().Messages.Received
	if begun.IsZero() {
		require.Equal(i.w.t, r.By[stability.MessageInHand].Count, r.Waiting.Count+r.SetAside.Count, "what waits is the holder's: %+v", r)
		return
	}
	for _, m := range i.w.device().Unacknowledged() {
		if m.Login.Before(begun) || i.w.took.has(m.ID) {
			continue
		}
		sender := ""
		if !m.Participant.IsEmpty() {
			sender = m.Participant.String()
		}
		require.True(i.w.t, has(m.ID, m.From.String(), sender), "%s is in none of the three places: %+v", m.ID, r)
	}
}

// taken are the ids of the messages that a handler took.
type taken struct {
	mu  sync.Mutex
	ids map[string]int
}

func (t *taken) add(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ids == nil {
		t.ids = make(map[string]int)
	}
	t.ids[id]++
}

func (t *taken) has(id string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ids[id] > 0
}

// Handlers are slow, and the connection or the store goes while one has a message and others
// wait behind it.
func TestBookAgreesWithTheServiceBehindSlowHandlersAndLongOutages(t *testing.T) {
	t.Parallel()
	for seed := range uint64(stabilitytest.Pick(8, 2000)) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			bubble(t, func(t *testing.T) { slowWalk(t, seed) })
		})
	}
}

func slowWalk(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 11))
	w := newWorld(t)
	var mu sync.Mutex
	took, sent := make(map[string]int), 0
	slow, down, keyless := time.Duration(0), false, true
	set := func(f func()) {
		mu.Lock()
		defer mu.Unlock()
		f()
	}
	handle := func(e *events.Message) bool {
		mu.Lock()
		wait, isDown, panics := slow, down, keyless && e.Message.Conversation == nil && e.Info.IsGroup
		mu.Unlock()
		time.Sleep(wait)
		switch text := e.Message.GetConversation(); {
		case panics:
			panic("no text")
		case isDown && len(text)%2 == 0:
			panic("down")
		case isDown:
			return true
		case text != "":
			set(func() { took[text]++ })
		}
		return false
	}
	label := ""
	start := func() *named {
		label += "i"
		n := w.named(label, stability.WithAutoHeal(noHeal))
		n.refuse = handle
		return n.run()
	}
	a := start().pair()
	carol := w.writer().On()
	write := func(n int) {
		for range n {
			_, err := carol.SendMessage(w.account.JID(), text(fmt.Sprintf("%0*d", 4+rng.IntN(2), sent)))
			require.NoError(t, err)
			sent++
		}
	}
	look := func(d time.Duration) {
		for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second) {
			a.balanced()
		}
	}
	outages, groups := 0, 0
	outage := func() { // the term ends
		outages++
		write(rng.IntN(3))
		a.wire.fail(anyCall)
		look(time.Duration(35+rng.IntN(20)) * time.Second)
		a.wire.heal()
		a.ready()
	}
	for range 8 {
		set(func() { slow = time.Duration(rng.IntN(2)) * time.Duration(2+rng.IntN(8)) * time.Second })
		switch rng.IntN(7) {
		case 0: // a backlog, and the connection that brought it goes
			w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
			w.sim.Fault(wasim.DialHang()).From(label).Always().Now()
			time.Sleep(2 * time.Second)
			write(1 + rng.IntN(12))
			w.sim.Heal()
			a.ready()
			time.Sleep(time.Duration(rng.IntN(3000)) * time.Millisecond)
			w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
			w.sim.Fault(wasim.DialHang()).From(label).Always().Now()
			look(time.Duration(20+rng.IntN(40)) * time.Second)
			w.sim.Heal()
			a.ready()
		case 1: // handlers take nothing, the store goes when they are back, and the term with it
			set(func() { down, slow = true, 0 })
			write(1 + rng.IntN(12))
			time.Sleep(time.Duration(30+rng.IntN(60)) * time.Second)
			set(func() { down = false })
			outage()
		case 2:
			write(1 + rng.IntN(3))
			outage()
		case 3: // the first message of a group brings a key
			groups++
			group := w.sim.NewGroup(fmt.Sprint("team ", groups), w.account, w.peer().Account())
			_, err := w.peer().SendMessage(t.Context(), group.JID(), text(fmt.Sprintf("%04d", sent)))
			require.NoError(t, err)
			sent++
		case 4:
			write(1 + rng.IntN(12))
			time.Sleep(time.Duration(rng.IntN(3000)) * time.Millisecond)
			faults := []wasim.Fault{wasim.FIN(), wasim.Reset(), wasim.StreamError("515"), wasim.BlackHole()}
			w.sim.Fault(faults[rng.IntN(len(faults))]).For(w.account.JID()).Now()
		case 5: // another instance takes the lock, and a handler outlives the term of the first
			set(func() { down, slow = true, 2*time.Minute })
			write(1 + rng.IntN(3))
			time.Sleep(time.Second)
			set(func() { down, slow = false, 0 })
			outages++
			former := a
			former.wire.hang(anyCall)
			a = start().ready()
			former.wire.heal()
			for range 150 {
				time.Sleep(time.Second)
				former.balanced()
				a.balanced()
			}
			former.kill()
		case 6:
			write(rng.IntN(12))
			time.Sleep(time.Duration(rng.IntN(5)) * time.Minute)
		}
		look(time.Duration(rng.IntN(20)) * time.Second)
	}
	set(func() { slow, keyless = 0, false })
	time.Sleep(80 * time.Minute)
	a.m.Reconnect()
	time.Sleep(time.Minute)
	a.ready()
	r := a.balanced()
	require.Zero(t, r.Waiting.Count+r.SetAside.Count, "%+v", a.m.Messages())
	require.Empty(t, w.device().Pending())
	mu.Lock()
	defer mu.Unlock()
	require.Len(t, took, sent, "each is handled")
	twice := 0
	for _, n := range took {
		twice += n - 1
	}
	require.LessOrEqual(t, twice, 2*outages, "only what was in hand when a term ended: %v", took)
	a.stop()
}
