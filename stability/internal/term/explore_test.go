package term

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability/stabilitytest"
)

// play makes the moves and returns the first invariant that did not hold.
func play(rules []rule, duties []duty, walk []int) string {
	w := newWorld(rules, duties)
	for _, m := range walk {
		moves[m].do(w)
		if w.broken != "" {
			return w.broken
		}
	}
	return ""
}

// shrink leaves out of a walk whatever is not needed to break the same
// invariant.
func shrink(rules []rule, duties []duty, walk []int, broken string) []int {
	name, _, _ := strings.Cut(broken, ":")
	for size := len(walk) / 2; size > 0; {
		shorter := false
		for at := 0; at+size <= len(walk); {
			try := slices.Delete(slices.Clone(walk), at, at+size)
			if strings.HasPrefix(play(rules, duties, try), name+":") {
				walk, shorter = try, true
			} else {
				at += size
			}
		}
		if !shorter {
			size /= 2
		}
	}
	return walk
}

// asCode prints a walk as a test.
func asCode(walk []int, broken string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n// %s\nrequire.Empty(t, playNamed(\n", broken)
	for _, m := range walk {
		fmt.Fprintf(&b, "\t%q,\n", moves[m].name)
	}
	b.WriteString("))\n")
	return b.String()
}

// playNamed plays a walk as asCode prints it.
func playNamed(names ...string) string {
	walk := make([]int, len(names))
	for i, name := range names {
		walk[i] = slices.IndexFunc(moves, func(m move) bool { return m.name == name })
		if walk[i] < 0 {
			return "no move is called " + name
		}
	}
	return play(table, duties, walk)
}

// number is the move with that name.
func number(name string) int {
	return slices.IndexFunc(moves, func(m move) bool { return m.name == name })
}

// natural is a move of surroundings that mean well, or in which attempts fail.
func natural(w *world, r *rand.Rand, fails bool) int {
	pick := func(names ...string) int { return number(names[r.IntN(len(names))]) }
	c := w.c
	if w.pristine() && r.IntN(6) == 0 {
		return pick("behind a yield of its own", "behind a stop of its own", "behind another's yield", "codes on request")
	}
	_, recording := w.long.(RecordRestart)
	switch {
	case w.long != nil && !(recording && r.IntN(4) > 0): // Run does not wait for the record of a restart
		if _, connects := w.long.(Connect); connects && fails && r.IntN(3) > 0 {
			return number("fail")
		} else if connects && c.conn.phase == Opening && r.IntN(4) > 0 {
			return number("socket")
		}
		return pick("finish", "finish", "finish", "finish", "fail", "stop")
	case w.device == 0:
		return pick("device paired=true", "device paired=true", "device paired=false")
	case c.client.phase != Attached:
		return pick("attach auto=true", "attach auto=true", "attach auto=false")
	case c.client.auto && w.ready != w.client:
		return number("ready")
	case !c.client.auto && c.conn.phase&between != 0 && c.client.plan == NoPlan:
		return number("schedule")
	case c.conn.phase&(Dialed|Waiting) != 0 && c.linked():
		return pick("success", "login sees=true", "login sees=false")
	case c.conn.phase&(Dialed|Waiting) != 0:
		return pick("6 codes", "1 codes")
	case c.conn.phase&pairing != 0:
		return pick("passkey", "passkey failed", "phone accepts", "phone code", "wait 1m0s")
	case c.Parked():
		return number("ask")
	case w.ping != 0:
		return pick("ping answered", "ping answered", "ping not answered", "ping broken off", "wait 1s")
	case c.conn.phase == Up && r.IntN(8) == 0:
		return number("silence")
	case c.conn.phase == Up && r.IntN(8) == 0:
		return number("again by itself")
	}
	return pick("wait 100ms", "wait 1s", "wait 20s", "wait 1m0s", "loop", "loop")
}

// randomWalk makes up to n random moves and returns those that it made, with
// the invariant that they broke.
func randomWalk(rules []rule, duties []duty, seed uint64, n int) (walk []int, broken string) {
	r := rand.New(rand.NewPCG(seed, 1))
	w := newWorld(rules, duties)
	calm := []int{0, 3, 12}[r.IntN(3)] // natural moves for each that is not
	fails := r.IntN(4) == 0
	for len(walk) < n && w.broken == "" && w.c.phase != Finished {
		m := r.IntN(len(moves))
		if r.IntN(calm+1) > 0 {
			m = natural(w, r, fails)
		}
		if !w.leaving && (moves[m].name == "stop" || moves[m].name == "cut") && r.IntN(5) > 0 {
			continue // else every walk is short
		}
		walk = append(walk, m)
		moves[m].do(w)
	}
	return walk, w.broken
}

// key is what of a world decides what can happen next, times aside.
func (w *world) key() string {
	c := w.c
	due := c.Next(w.now)
	st := c.machine.State()
	return fmt.Sprint(c.client.silent, c.client.tapped, c.repair, c.crashed, c.verdict.Action, c.vital.pinging, st.NotBefore.After(w.now), min(st.Failures, 3), len(st.Restarts),
		c.conn.decision.ShouldReconnect, c.kept.IsZero(), c.offer.After(w.now), w.leaving, w.cut, w.live, c.phase, c.device, c.wish, c.yieldAt.IsZero(), c.yieldAt.After(w.now), c.unfitAt.IsZero(), c.cfg.OnRequest, w.wanted, min(c.rounds, 4), c.save, c.client.phase, c.client.auto, c.client.can, c.client.back, c.client.plan,
		c.conn.phase, c.conn.call, c.conn.socket, c.conn.seen, c.conn.cause.Reason, len(c.conn.codes), st.Status,
		w.ready == w.client, w.open == c.conn.number, w.open != 0, w.device != 0, w.on == w.device, w.deleted, w.asked, fmt.Sprintf("%T", w.long),
		due.IsZero(), due.After(w.now), w.silent, w.ping != 0, min(w.failed, 2))
}

// breadthFirst tries every move in every state that can be reached in depth
// moves, where states that differ only in their times count as one.
func breadthFirst(rules []rule, duties []duty, depth int) (states int, walk []int, broken string) {
	type node struct {
		w    *world
		walk []int
	}
	seen := map[string]bool{}
	level := []node{{w: newWorld(rules, duties)}}
	for range depth {
		var next []node
		for _, n := range level {
			for i, m := range moves {
				w := n.w.clone()
				m.do(w)
				walk := append(slices.Clone(n.walk), i)
				if w.broken != "" {
					return len(seen), walk, w.broken
				}
				if k := w.key(); !seen[k] {
					seen[k] = true
					next = append(next, node{w, walk})
				}
			}
		}
		level = next
	}
	return len(seen), nil, ""
}

func fail(t *testing.T, walk []int, broken string) {
	t.Helper()
	if broken != "" {
		t.Fatal(asCode(shrink(table, duties, walk, broken), broken))
	}
}

func TestEveryShortWalkKeepsTheInvariants(t *testing.T) {
	depth := stabilitytest.Pick(5, 6)
	states, walk, broken := breadthFirst(table, duties, depth)
	fail(t, walk, broken)
	t.Logf("%d states behind every walk of %d moves", states, depth)
	require.Greater(t, states, 10_000)
}

func TestRandomWalksKeepTheInvariants(t *testing.T) {
	begun := time.Now()
	// A second of walks by default, the same ones each time: a failure is the doing
	// of the change. Full size plays new ones for a minute.
	least, atLeast := stabilitytest.Pick(300_000, 1_000_000), stabilitytest.Pick(0, time.Minute)
	// Behind the walks of TestEveryRuleAndEveryDutyIsReached; new ones at full size alone.
	seed := stabilitytest.Pick(2000, uint64(begun.UnixNano()))
	steps, walks := 0, 0
	for time.Since(begun) < atLeast || steps < least {
		walk, broken := randomWalk(table, duties, seed, 300)
		fail(t, walk, broken)
		steps, walks, seed = steps+len(walk), walks+1, seed+1
	}
	t.Logf("%d walks, %d steps, %.0f a second", walks, steps, float64(steps)/time.Since(begun).Seconds())
}
