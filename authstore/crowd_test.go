package authstore_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// Real clients write to each other and into groups, all at once, in real time:
// whatsmeow's own mutexes would stop a bubble's clock. Every message arrives
// once, and none is undecryptable. One client sends one message after the
// other, as whatsmeow's own lock makes it do; clients send at once.
//
// WASTABILITY_CROWD=1 runs the counts of the requirement, 50,000 messages at up
// to 5 ms and 2,000 at up to 200 ms; that takes longer than a full run should
// (-timeout 30m).
func TestManyClientsInGroupsLoseNothing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		clients  int
		latency  time.Duration // of every call of the store, at most
		messages int
	}{
		{2, 5 * time.Millisecond, crowdSize(100, 6_000, 25_000)},
		{5, 5 * time.Millisecond, crowdSize(200, 10_000, 25_000)},
		{5, 200 * time.Millisecond, crowdSize(0, 1_000, 2_000)},
	} {
		if c.messages > 0 {
			t.Run(fmt.Sprint(c.clients, "_", c.latency), func(t *testing.T) { crowd(t, c.clients, c.latency, c.messages) })
		}
	}
}

func crowdSize(def, full, whole int) int {
	if os.Getenv("WASTABILITY_CROWD") == "1" {
		return whole
	}
	return stabilitytest.Pick(def, full)
}

func crowd(t *testing.T, clients int, latency time.Duration, messages int) {
	s := wasim.New(wasim.WithTB(t))
	hosts := make([]*host, clients)
	var accounts []*wasim.Account
	for i := range hosts {
		hosts[i] = newHost(t, s, fmt.Sprint("49170000100", i), 0)
		accounts = append(accounts, hosts[i].acct)
	}
	groups := []*wasim.Group{s.NewGroup("numbers", accounts...), s.NewLIDGroup("lids", accounts...)}
	want := make([]map[string]int, clients)
	for i := range want {
		want[i] = make(map[string]int)
	}
	var mu sync.Mutex
	expect := func(text string, to ...int) {
		mu.Lock()
		defer mu.Unlock()
		for _, i := range to {
			want[i][text]++
		}
	}
	others := func(i int) (out []int) {
		for j := range hosts {
			if j != i {
				out = append(out, j)
			}
		}
		return out
	}
	settle := func(what string) {
		t.Helper()
		for i, h := range hosts {
			h.arrives(t, what, func() bool { return len(h.texts) >= len(want[i]) })
		}
	}

	// First contact, one after the other: two first messages that cross are a
	// matter of the protocol, not of the store.
	for i, h := range hosts {
		for _, j := range others(i) {
			text := fmt.Sprintf("hello %d %d", i, j)
			expect(text, j)
			_, err := h.send(hosts[j].acct.JID(), text)
			require.NoError(t, err)
			settle("a greeting")
		}
	}
	for i, h := range hosts {
		for g, group := range groups {
			text := fmt.Sprintf("hello %d group %d", i, g)
			expect(text, others(i)...)
			_, err := h.send(group.JID(), text)
			require.NoError(t, err)
			settle("a greeting in a group")
		}
	}
	for _, h := range hosts {
		h.kv.SetLatency(latency)
	}
	commits, reads := traffic(hosts)
	var broken, received atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for i, h := range hosts {
		r := rand.New(rand.NewPCG(uint64(i), 7))
		wg.Go(func() {
			for n := range messages / clients {
				to, text := hosts[others(i)[r.IntN(clients-1)]], fmt.Sprintf("%d from %d", n, i)
				jid, who := to.acct.JID(), []int(nil)
				if r.IntN(2) == 0 {
					jid, who = groups[r.IntN(len(groups))].JID(), others(i)
				} else {
					for j := range hosts {
						if hosts[j] == to {
							who = []int{j}
						}
					}
				}
				expect(text, who...)
				received.Add(int64(len(who)))
				again, err := h.send(jid, text)
				if broken.Add(int64(again)); err != nil {
					t.Errorf("send %d of %d: %v", n, i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	settle("all messages")
	took := time.Since(start)
	for i, h := range hosts {
		h.mu.Lock()
		require.Equal(t, want[i], h.texts, "each once")
		require.Zero(t, h.undecryptable)
		h.mu.Unlock()
		require.Zero(t, h.acct.Devices()[0].Stats().RetryReceipts)
	}
	after, readsAfter := traffic(hosts)
	t.Logf("%d sent, %d received in %s; %d broken windows; %.2f commits and %.3f reads for a message sent or received",
		messages, received.Load(), took.Round(time.Millisecond), broken.Load(),
		float64(after-commits)/float64(int64(messages)+received.Load()), float64(readsAfter-reads)/float64(int64(messages)+received.Load()))
	s.Close()
	for _, h := range hosts {
		h.kv.SetLatency(0)
		h.end(t)
	}
}

// arrives is wait for as long as something comes: a slow store lets messages
// queue up for minutes, and what is lost never comes.
func (h *host) arrives(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for {
		h.mu.Lock()
		ok, ch := cond(), h.waiting
		h.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-ch:
		case <-time.After(2 * time.Minute):
			require.FailNow(t, "waited in vain for "+what)
		}
	}
}

func traffic(hosts []*host) (commits, reads int64) {
	for _, h := range hosts {
		commits, reads = commits+h.kv.Commits(), reads+h.kv.Reads()
	}
	return commits, reads
}
