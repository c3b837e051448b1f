package term

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/reconnect"
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
	case c.parked:
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
	return fmt.Sprint(c.phase, c.device, c.parked, c.yieldAt.IsZero(), c.yieldAt.After(w.now), c.unfitAt.IsZero(), c.cfg.OnRequest, c.asked, w.wanted, min(c.rounds, 4), c.save, c.client.phase, c.client.auto, c.client.can, c.client.again, c.client.soon, c.client.plan,
		c.conn.phase, c.conn.call, c.conn.socket, c.conn.seen, c.conn.cause.Reason, len(c.conn.codes), c.machine.State().Status,
		w.ready == w.client, w.open == c.conn.number, w.open != 0, w.device != 0, w.on == w.device, w.deleted, w.asked, fmt.Sprintf("%T", w.long),
		due.IsZero(), due.After(w.now), w.silent, w.ping != 0, min(w.failed, 2))
}

// breadthFirst tries every move in every state that can be reached in depth
// moves, where states that differ only in their times count as one.
func breadthFirst(rules []rule, duties []duty, depth, atMost int) (states int, walk []int, broken string) {
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
					if seen[k] = true; len(seen) >= atMost {
						return len(seen), nil, ""
					}
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
	states, walk, broken := breadthFirst(table, duties, stabilitytest.Pick(5, 6), stabilitytest.Pick(20_000, 100_000))
	fail(t, walk, broken)
	t.Logf("%d states", states)
	require.Greater(t, states, 1000)
}

func TestRandomWalksKeepTheInvariants(t *testing.T) {
	begun := time.Now()
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

// defects are one-line mistakes in the tables. Each must break an invariant.
var defects = []struct {
	name string
	make func(rules []rule, duties []duty)
}{
	{"a socket is taken while the term ends", rewrite(onSocket, Leaving, NoConn|Over, socketOfHost)},
	{"the host's own attempt is taken beside ours", rewrite(onSocket, Working, Waiting, func(c *Core, e Evidence) {
		c.begin(Waiting, Returned)
		c.bind()
		c.conn.deadline = c.now.Add(time.Minute)
	})},
	{"the end of the term is not heard", rewrite(onStop, Working, anyConn, nil)},
	{"a term that is cut keeps its connection", rewrite(onCutTerm, Working, Up, stop2)},
	{"a stanza that ends the connection is not heard", rewrite(onSawEnd, Working, Up, nil)},
	{"silence is not heard", rewrite(onSeen, Working, Up, nil)},
	{"a connection is ended because it is quiet", rewrite(onSeen, Working, Up, func(c *Core, e Evidence) {
		s := e.(Seen)
		s.Of.LastReadAt = time.Time{}
		see(c, s)
	})},
	{"a ping is sent while one is under way", rewrite(onSeen, Working, Up, func(c *Core, e Evidence) { c.vital.pinging = false; see(c, e) })},
	{"pings of an earlier connection count", rewrite(onPingsFailed, Working, Up, func(c *Core, e Evidence) { c.vital.failed += e.(PingsFailed).InARow })},
	{"a closed socket is not heard", rewrite(onSocketGone, Working, Up, nil)},
	{"a program that closes the connection of Run's client has left for good", rewrite(onSocketGone, Working, Up, func(c *Core, e Evidence) {
		c.client.auto, c.client.can = false, true
		socketGone(c, e)
		c.client.auto = true
	})},
	{"a login is believed behind the end", rewrite(onToldLogin, Working, Ended, func(c *Core, e Evidence) { c.loggedIn() })},
	{"what connect returned is not heard", rewrite(onCallReturned, Working, Opening, nil)},
	{"the answer about the lock is not heard", rewrite(onLockAsked, Working, Drained, nil)},
	{"nothing follows an end that was brought to its very end", rewrite(onCleanedUp, Working, Ended, func(c *Core, e Evidence) { c.tell(); c.to(Over) })},
	{"an end is not told", rewrite(onCleanedUp, Working, Ended, func(c *Core, e Evidence) { c.to(Over); c.follow() })},
	{"an end is told again", rewrite(onLate, Working, Ended, func(c *Core, e Evidence) { c.conn.seen &^= toldEnd; c.tell() })},
	{"the end of a connection that the host's own takes the place of is not told", rewrite(onSocket, Working, Ended, func(c *Core, e Evidence) {
		c.begin(Waiting, Returned)
		c.bind()
		c.conn.deadline = c.now.Add(time.Minute)
	})},
	{"the deletion of a device is not heard", rewrite(onDeviceDeleted, Working, Up, deviceMarked)},
	{"a client that becomes ready while a loop is broken is forgotten", rewrite(onReady, Breaking, anyConn, nil)},
	{"whoever asks is not heard", rewrite(onAsk, Working, anyConn, nil)},
	{"codes are offered before somebody asks", rewrite(onReady, Working, anyConn, func(c *Core, e Evidence) { c.asked = true; ready(c, e) })},
	{"a redelivery is taken for a wish for codes", rewrite(onAgain, Working, live|Ended|Drained, func(c *Core, e Evidence) { ask(c, e); againSoon(c, e) })},
	{"a redelivery brings an account back that waits until somebody asks", rewrite(onAgain, Working, between, func(c *Core, e Evidence) { againNow(c, Again{}) })},
	{"a redelivery comes back behind an end that forbids it", rewrite(onAgain, Working, live|Ended|Drained, func(c *Core, e Evidence) {
		againSoon(c, e)
		c.client.again = c.client.again || c.client.soon
	})},
	{"an operator's wish breaks a ban", rewrite(onAgain, Working, Over, func(c *Core, e Evidence) {
		c.client.can = true
		c.begin(Opening, Running)
		c.do(Connect{Conn: c.conn.number})
	})},
	{"a device is used by a client that let go of it", rewrite(onGivenUp, Working, anyConn, func(c *Core, e Evidence) {
		if e.(GivenUp).Shut {
			c.dropDevice(Spoilt)
		}
	})},
	{"codes are shown on a connection that is logged in", rewrite(onCodes, Working, Up, func(c *Core, e Evidence) {
		c.to(Offering)
		c.conn.codes, c.conn.until = []string{"a"}, c.now
	})},
	{"a restart that was not recorded breaks the loop", rewrite(onRestartRecorded, Breaking, anyConn, func(c *Core, e Evidence) { c.phase = Broken; c.do(TellLoop{}) })},
	{"an attempt that takes too long keeps the lock", rewrite(onOverdue, Working, Dialed, nil)},
	{"what the lock is given up for was told, and it is kept", rewrite(onLoopTold, Yielding, anyConn, nil)},
	{"a holder that cannot connect keeps the lock", func(_ []rule, d []duty) {
		dutyNamed(d, "give the lock up to an instance that may be fit").at = func(*Core) (time.Time, bool) { return time.Time{}, false }
	}},
	{"the lock is given up, and nobody learns by whom", func(_ []rule, d []duty) {
		dutyNamed(d, "give the lock up to an instance that may be fit").do = func(c *Core) { c.phase = Yielding; c.do(TellLoop{}) }
	}},
	{"the lock is given up for a trouble that everybody would have", func(_ []rule, d []duty) {
		dutyNamed(d, "give the lock up to an instance that may be fit").at = func(c *Core) (time.Time, bool) {
			return c.now, c.conn.phase == Over && c.save == Saved && c.conn.cause.Reason == reconnect.ReasonServiceUnavailable
		}
	}},
	{"the lock is given up again as soon as it was got back", func(_ []rule, d []duty) {
		dutyNamed(d, "give the lock up to an instance that may be fit").at = func(c *Core) (time.Time, bool) {
			_, due := yieldDue(c)
			return c.now, due
		}
	}},
	{"an attempt is made before it is written down", func(_ []rule, d []duty) {
		duties := dutyNamed(d, "make the attempt")
		duties.at = func(c *Core) (time.Time, bool) {
			return c.attemptAt(), c.client.plan == Recorded && c.client.can && c.conn.phase&between != 0
		}
		dutyNamed(d, "write the state down").at = func(*Core) (time.Time, bool) { return time.Time{}, false }
	}},
	{"an attempt is made that nobody recorded", func(_ []rule, d []duty) {
		dutyNamed(d, "record the attempt that is due").do = func(c *Core) { c.planTo(Recorded) }
	}},
	{"a login that does not finish is waited for without end", func(_ []rule, d []duty) {
		dutyNamed(d, "end a connection on which the next step did not happen in time").at = func(*Core) (time.Time, bool) { return time.Time{}, false }
	}},
	{"the last code is shown for ever", func(_ []rule, d []duty) {
		dutyNamed(d, "show the next code, or give up showing them").at = func(*Core) (time.Time, bool) { return time.Time{}, false }
	}},
	{"a stable connection is found stable again and again", func(_ []rule, d []duty) {
		dutyNamed(d, "forget a trouble behind a connection that has proved stable").do = func(*Core) {}
	}},
}

func stop2(c *Core, e Evidence) { c.leave(Dropped, e.(CutTerm).Why) }

// rewrite puts one more rule in front of the table, with the steps that the
// one in its place allows.
func rewrite(on kind, term Phase, conn Conn, do func(*Core, Evidence)) func([]rule, []duty) {
	return func(rules []rule, _ []duty) {
		rules[0] = rule{on, term, conn, do, anyConn, anyTerm, "a defect"}
	}
}

func dutyNamed(d []duty, what string) *duty {
	return &d[slices.IndexFunc(d, func(d duty) bool { return d.what == what })]
}

// withRoom is a copy of the tables, with room for one rule in front.
func withRoom() ([]rule, []duty) {
	return append([]rule{{on: kinds}}, table...), slices.Clone(duties)
}

// rare are the defects that few walks find, with the seed of one that does. The
// search begins there, and goes on if the tables or the moves have changed.
var rare = map[string]uint64{
	"a ping is sent while one is under way":                                  6488,
	"a redelivery is taken for a wish for codes":                             6152,
	"a redelivery brings an account back that waits until somebody asks":     1317,
	"the deletion of a device is not heard":                                  1150,
	"a client that becomes ready while a loop is broken is forgotten":        832,
	"a redelivery comes back behind an end that forbids it":                  567,
	"a term that is cut keeps its connection":                                492,
	"codes are shown on a connection that is logged in":                      456,
	"an attempt that takes too long keeps the lock":                          421,
	"a program that closes the connection of Run's client has left for good": 320,
}

func TestEveryDefectInTheTablesIsFound(t *testing.T) {
	for _, d := range defects {
		t.Run(d.name, func(t *testing.T) {
			rules, duties := withRoom()
			d.make(rules, duties)
			from := max(rare[d.name], 1)
			for n := range uint64(8000) {
				if walk, broken := randomWalk(rules, duties, from+n, 300); broken != "" {
					walk = shrink(rules, duties, walk, broken)
					t.Logf("after %d walks, in %d moves: %s", n+1, len(walk), broken)
					return
				}
			}
			t.Fatal("no invariant was broken")
		})
	}
}

func TestEveryRuleAndEveryDutyIsReached(t *testing.T) {
	rules, todo := withRoom()
	reached := make([]int, len(rules))
	done := map[string]int{}
	for i := range rules {
		if do := rules[i].do; do != nil {
			rules[i].do = func(c *Core, e Evidence) { reached[i]++; do(c, e) }
		}
	}
	for i := range todo {
		d := todo[i]
		todo[i].do = func(c *Core) { done[d.what]++; d.do(c) }
	}
	for seed := uint64(1); seed < 2000; seed++ {
		_, broken := randomWalk(rules, todo, seed, 300)
		require.Empty(t, broken)
	}
	for i, r := range rules {
		if r.do != nil && reached[i] == 0 {
			t.Errorf("no walk came to rule %d (%d in %v, %v): %s", i, r.on, r.term, r.conn, r.why)
		}
	}
	for _, d := range duties {
		require.NotZero(t, done[d.what], d.what)
	}
}

func TestEveryEvidenceHasARuleInEveryPhase(t *testing.T) {
	for on := onStop; on < kinds; on++ {
		for term := Working; term <= Finished; term <<= 1 {
			for conn := NoConn; conn <= Over; conn <<= 1 {
				if !slices.ContainsFunc(table, func(r rule) bool { return r.on == on && r.term&term != 0 && r.conn&conn != 0 }) {
					t.Errorf("no rule for evidence %d in %v with %v", on, term, conn)
				}
			}
		}
	}
}
