package stability_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types/events"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// moods say how often a handler fails for a text before it takes it.
type moods struct {
	mu    sync.Mutex
	fails map[string]int
	hang  time.Duration // the next handler takes so long
	took  map[string]int
}

func (m *moods) handle(e *events.Message) (refuse bool) {
	text := e.Message.GetConversation()
	m.mu.Lock()
	left, hang := m.fails[text], m.hang
	m.hang = 0
	if left > 0 {
		m.fails[text]--
	} else {
		m.took[text]++
	}
	m.mu.Unlock()
	time.Sleep(hang)
	switch {
	case left == 0:
		return false
	case len(text)%2 == 0:
		panic("not today")
	}
	return true
}

func (m *moods) set(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func TestBookBalancesWhateverHappens(t *testing.T) {
	t.Parallel()
	memory := 184 // 200 with the others
	if stabilitytest.Race {
		memory = 24
	}
	for _, on := range []struct {
		backend string
		first   uint64 // seed
		walks   int
	}{
		{"memory", 0, stabilitytest.Pick(memory, 7000)},
		{"local", 10_000, stabilitytest.Pick(8, 2000)},
		{"firestore", 20_000, stabilitytest.Pick(8, 1000)},
	} {
		if only := os.Getenv("WASTABILITY_BACKEND"); only != "" && only != on.backend {
			continue
		}
		t.Run(on.backend, func(t *testing.T) {
			for seed := on.first; seed < on.first+uint64(on.walks); seed++ {
				t.Run(fmt.Sprint(seed), func(t *testing.T) {
					t.Parallel()
					bubble(t, func(t *testing.T) { balancedWalk(t, on.backend, seed) })
				})
			}
		})
	}
}

// The service says that it has delivered all, and its connection is dead by the time that
// the handlers are that far.
func TestBacklogOfADeadConnectionIsAtTheService(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithAutoHeal(noHeal)).run().pair()
		time.Sleep(2 * time.Second)
		a.stop()
		const n = 20
		carol := w.writer()
		for i := range n {
			_, err := carol.Send(w.account.JID(), fmt.Sprint("text ", i))
			require.NoError(t, err)
		}
		b := w.named("b", stability.WithAutoHeal(noHeal))
		var with atomic.Int32
		b.refuse = func(e *events.Message) bool {
			if e.Message.GetConversation() != "" && with.Add(1) == 1 {
				time.Sleep(5 * time.Second)
			}
			return false
		}
		b.run()
		w.await("the first is with its handler", func() bool { return with.Load() == 1 })
		time.Sleep(time.Second)
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		w.sim.Fault(wasim.DialHang()).From("b").Always().Now()
		time.Sleep(2 * time.Minute)
		r := b.balanced()
		require.EqualValues(t, n, r.Total, "%+v", r)
		require.Equal(t, n-int(r.Handled), r.By[stability.MessageAtService].Count)
		require.Less(t, len(b.written()), n)
		w.sim.Heal()
		w.await("all are handled", func() bool { return len(b.written()) == n })
		time.Sleep(time.Minute)
		require.Len(t, b.written(), n)
		require.Empty(t, w.device().Pending())
		b.balanced()
		b.stop()
	})
}

func balancedWalk(t *testing.T, backend string, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 7))
	w := newWorld(t)
	w.memory = serverOf(t, backend)
	m := &moods{fails: make(map[string]int), took: make(map[string]int)}
	var labels []string
	start := func() *named {
		labels = append(labels, fmt.Sprint("i", len(labels)))
		n := w.named(labels[len(labels)-1], stability.WithAutoHeal(noHeal))
		n.refuse = m.handle
		return n.run()
	}
	a := start().pair()
	require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
	carol := w.writer().On()
	var sent []string
	missed := make(map[string]string) // texts that could not be read, by id
	var ids []string                  // their ids, in order
	mild := seed%2 == 1               // nothing that makes a message be handled twice
	twice := false                    // a kill, or a handler that outlived its term, lies between
	write := func(unreadable bool) {
		text := fmt.Sprintf("%0*d", 4+rng.IntN(2), len(sent))
		if rng.IntN(3) == 0 {
			m.set(func() { m.fails[text] = 1 + rng.IntN(3) })
		}
		send := carol.SendMessage
		if unreadable {
			send = carol.SendUnreadable
		}
		id, err := send(w.account.JID(), &waE2E.Message{Conversation: proto.String(text)})
		require.NoError(t, err)
		t.Log("sent", text, id, unreadable)
		sent = append(sent, text)
		if unreadable {
			missed[id], ids = text, append(ids, id)
		}
	}
	for range 25 {
		what := rng.IntN(17)
		if mild && (what == 9 || what == 12) {
			what = 4
		}
		switch what {
		case 0, 1, 2, 3:
			for range 1 + rng.IntN(4) {
				write(false)
			}
		case 4:
			write(true)
		case 5:
			carol.Off()
		case 6:
			carol.On()
		case 7:
			faults := []wasim.Fault{wasim.FIN(), wasim.Reset(), wasim.StreamError("515"), wasim.BlackHole()}
			w.sim.Fault(faults[rng.IntN(len(faults))]).For(w.account.JID()).Now()
		case 8:
			t.Log("hand-over")
			b := start()
			time.Sleep(time.Duration(rng.IntN(3000)) * time.Millisecond)
			a.stop()
			a = b
			a.ready()
		case 9:
			t.Log("crash")
			twice = true
			a.wire.hang(anyCall)
			w.sim.Partition(labels[len(labels)-1])
			a.vanish()
			b := start().ready()
			a.wire.heal()
			a.kill()
			a = b
		case 10:
			t.Log("outage")
			a.wire.fail(anyCall)
			time.Sleep(time.Duration(rng.IntN(20)) * time.Second)
			a.wire.heal()
		case 11:
			a.m.Reconnect()
		case 12:
			twice = true
			m.set(func() { m.hang = time.Duration(rng.IntN(90)) * time.Second })
		case 14:
			t.Log("the phone answers late")
			w.account.Phone().Late()
		case 15:
			w.account.Phone().On()
		case 16:
			if len(ids) == 0 {
				continue
			}
			id := ids[rng.IntN(len(ids))]
			t.Log("sent again", missed[id], id)
			require.NoError(t, carol.SendAs(id, w.account.JID(), &waE2E.Message{Conversation: proto.String(missed[id])}))
		default:
			time.Sleep(time.Duration(rng.IntN(20)) * time.Minute)
		}
		time.Sleep(time.Duration(rng.IntN(5000)) * time.Millisecond)
		a.balanced()
	}
	carol.On()
	w.account.Phone().On()
	m.set(func() { clear(m.fails); m.hang = 0 })
	// At most longer than it takes to believe an innocent message. Where nothing waits, half of the
	// mild walks take as long, and show that nothing more comes of it.
	for n := 0; n == 0 || n < 4 && (seed%4 == 1 || a.balanced().Waiting.Count > 0); n++ {
		time.Sleep(20 * time.Minute)
	}
	for range 2 { // what was handled without its receipt going out is acknowledged at the next login, and what was sent once more at the one behind it
		a.m.Reconnect()
		time.Sleep(time.Minute)
		a.ready()
	}
	r := a.balanced()
	require.Zero(t, r.Waiting.Count, "%+v", a.m.Messages())
	require.Zero(t, r.SetAside.Count, "%+v", a.m.Messages())
	require.Empty(t, w.device().Pending(), "nothing waits at the service")
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, text := range sent {
		require.NotZero(t, m.took[text], "lost: %s", text)
		if !twice {
			require.Equal(t, 1, m.took[text], "handled twice: %s", text)
		}
	}
	a.stop()
}
