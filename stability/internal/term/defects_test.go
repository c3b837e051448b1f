package term

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/reconnect"
)

type defect struct {
	name, breaks string
	make         func(rules []rule, duties []duty)
}

// defects are one-line mistakes in the tables. Each must break the invariant
// that is named.
var defects = []defect{
	{"a socket is taken while the term ends", "NothingBeginsWhileEnding", rewrite(onSocket, Leaving, NoConn|Over, socketOfHost)},
	{"the host's own attempt is taken beside ours", "ToldOnce", rewrite(onSocket, Working, Waiting, func(c *Core, e Evidence) {
		c.begin(Waiting, Returned)
		c.bind()
		c.conn.deadline = c.now.Add(time.Minute)
	})},
	{"the end of the term is not heard", "AnEndIsAnEnd", rewrite(onStop, Working, anyConn, nil)},
	{"a term that is cut keeps its connection", "ViewIsTrue", rewrite(onCutTerm, Working, Up, stop2)},
	{"a stanza that ends the connection is not heard", "ViewIsTrue", rewrite(onSawEnd, Working, Up, nil)},
	{"silence is not heard", "SilenceEnds", rewrite(onSeen, Working, Up, nil)},
	{"a connection is ended because it is quiet", "QuietIsLeftAlone", rewrite(onSeen, Working, Up, func(c *Core, e Evidence) {
		s := e.(Seen)
		s.Of.LastReadAt = time.Time{}
		see(c, s)
	})},
	{"a ping is sent while one is under way", "OnePing", rewrite(onSeen, Working, Up, func(c *Core, e Evidence) { c.vital.pinging = false; see(c, e) })},
	{"pings of an earlier connection count", "QuietIsLeftAlone", rewrite(onPingsFailed, Working, Up, func(c *Core, e Evidence) { c.vital.failed += e.(PingsFailed).InARow })},
	{"a closed socket is not heard", "ViewIsTrue", rewrite(onSocketGone, Working, Up, nil)},
	{"a program that closes the connection of Run's client has left for good", "ClosingIsNoGoodbye", rewrite(onSocketGone, Working, Up, func(c *Core, e Evidence) {
		c.client.auto, c.client.can = false, true
		socketGone(c, e)
		c.client.auto = true
	})},
	{"a login is believed behind the end", "AnEndIsAnEnd", rewrite(onToldLogin, Working, Ended, func(c *Core, e Evidence) { c.loggedIn() })},
	{"what connect returned is not heard", "NeverAtRest", rewrite(onCallReturned, Working, Opening, nil)},
	{"the answer about the lock is not heard", "NeverAtRest", rewrite(onLockAsked, Working, Drained, nil)},
	{"nothing follows an end that was brought to its very end", "NeverAtRest", rewrite(onCleanedUp, Working, Ended, func(c *Core, e Evidence) { c.tell(); c.to(Over) })},
	{"an end is not told", "ToldOnce", rewrite(onCleanedUp, Working, Ended, func(c *Core, e Evidence) { c.to(Over); c.follow() })},
	{"an end is told again", "ToldOnce", rewrite(onLate, Working, Ended, func(c *Core, e Evidence) { c.conn.seen &^= toldEnd; c.tell() })},
	{"the end of a connection that the host's own takes the place of is not told", "ToldOnce", rewrite(onSocket, Working, Ended, func(c *Core, e Evidence) {
		c.begin(Waiting, Returned)
		c.bind()
		c.conn.deadline = c.now.Add(time.Minute)
	})},
	{"the deletion of a device is not heard", "NeverAtRest", rewrite(onDeviceDeleted, Working, Up, deviceMarked)},
	{"a client that becomes ready while a loop is broken is forgotten", "NeverAtRest", rewrite(onReady, Breaking, anyConn, nil)},
	{"whoever asks is not heard", "WhoAsksIsHeard", rewrite(onAsk, Working, anyConn, nil)},
	{"codes are offered before somebody asks", "NoCodeBeforeAsked", rewrite(onReady, Working, anyConn, func(c *Core, e Evidence) { c.wish = Asked; ready(c, e) })},
	{"a redelivery is taken for a wish for codes", "NoCodeBeforeAsked", rewrite(onAgain, Working, live|Ended|Drained, func(c *Core, e Evidence) { ask(c, e); againSoon(c, e) })},
	{"a redelivery brings an account back that waits until somebody asks", "NoCodeBeforeAsked", rewrite(onAgain, Working, between, func(c *Core, e Evidence) { againNow(c, Again{}) })},
	{"a redelivery comes back behind an end that forbids it", "TerminalBeatsPlan", rewrite(onAgain, Working, live|Ended|Drained, func(c *Core, e Evidence) {
		againSoon(c, e)
		if c.client.back == IfAllowed {
			c.client.back = AtOnce
		}
	})},
	{"an operator's wish breaks a ban", "NoAttemptInABan", rewrite(onAgain, Working, Over, func(c *Core, e Evidence) {
		c.client.can = true
		c.begin(Opening, Running)
		c.do(Connect{Conn: c.conn.number})
	})},
	{"a device is used by a client that let go of it", "OneClientOnADevice", rewrite(onGivenUp, Working, anyConn, func(c *Core, e Evidence) {
		if e.(GivenUp).Shut {
			c.dropDevice(Spoilt)
		}
	})},
	{"codes are shown on a connection that is logged in", "NoCodeForALinkedDevice", rewrite(onCodes, Working, Up, func(c *Core, e Evidence) {
		c.to(Offering)
		c.conn.codes, c.conn.until = []string{"a"}, c.now
	})},
	{"a restart that was not recorded breaks the loop", "NoHealUnrecorded", rewrite(onRestartRecorded, Breaking, anyConn, func(c *Core, e Evidence) { c.phase = Broken; c.do(TellLoop{}) })},
	{"an attempt that takes too long keeps the lock", "AnEndIsAnEnd", rewrite(onOverdue, Working, Dialed, nil)},
	{"what the lock is given up for was told, and it is kept", "AnEndIsAnEnd", rewrite(onLoopTold, Yielding, anyConn, nil)},
	{"a holder that cannot connect keeps the lock", "TheUnfitYieldInTime", func(_ []rule, d []duty) {
		dutyNamed(d, "give the lock up to an instance that may be fit").at = func(*Core) (time.Time, bool) { return time.Time{}, false }
	}},
	{"the lock is given up, and nobody learns by whom", "NoYieldUnrecorded", func(_ []rule, d []duty) {
		dutyNamed(d, "give the lock up to an instance that may be fit").do = func(c *Core) { c.phase = Yielding; c.do(TellLoop{}) }
	}},
	{"the lock is given up for a trouble that everybody would have", "OnlyTheUnfitYield", func(_ []rule, d []duty) {
		dutyNamed(d, "give the lock up to an instance that may be fit").at = func(c *Core) (time.Time, bool) {
			if c.conn.phase == Over && c.save == Saved && c.conn.cause.Reason == reconnect.ReasonServiceUnavailable {
				return c.now, true
			}
			return yieldDue(c)
		}
	}},
	{"the lock is given up again as soon as it was got back", "OnlyTheUnfitYield", func(_ []rule, d []duty) {
		dutyNamed(d, "give the lock up to an instance that may be fit").at = func(c *Core) (time.Time, bool) {
			_, due := yieldDue(c)
			return c.now, due
		}
	}},
	{"an attempt is made before it is written down", "NoAttemptUnrecorded", func(_ []rule, d []duty) {
		duties := dutyNamed(d, "make the attempt")
		duties.at = func(c *Core) (time.Time, bool) {
			return c.attemptAt(), c.client.plan == Recorded && c.client.can && c.conn.phase&between != 0
		}
		dutyNamed(d, "write the state down").at = func(*Core) (time.Time, bool) { return time.Time{}, false }
	}},
	{"an attempt is made that nobody recorded", "NoAttemptUnrecorded", func(_ []rule, d []duty) {
		dutyNamed(d, "record the attempt that is due").do = func(c *Core) { c.planTo(Recorded) }
	}},
	{"a login that does not finish is waited for without end", "NeverAtRest", func(_ []rule, d []duty) {
		dutyNamed(d, "end a connection on which the next step did not happen in time").at = func(*Core) (time.Time, bool) { return time.Time{}, false }
	}},
	{"the last code is shown for ever", "NeverAtRest", func(_ []rule, d []duty) {
		dutyNamed(d, "show the next code, or give up showing them").at = func(*Core) (time.Time, bool) { return time.Time{}, false }
	}},
	{"a socket of the host's is taken, and the one before it stays open", "OneConnection", rewrite(onSocket, Working, Waiting|Up, func(c *Core, e Evidence) {
		c.end(cause(reconnect.ReasonConnectionClosed))
		c.tell()
		c.begin(Waiting, Returned)
		c.bind()
		c.conn.deadline = c.now.Add(time.Minute)
	})},
	{"the state is written down while the loop is busy", "OneLoop", rewrite(onProveStore, Working, anyConn, func(c *Core, e Evidence) { saveState(c) })},
	{"a deleted device ends the term", "NothingEndsByItself", rewrite(onDeviceDeleted, Working, anyConn, func(c *Core, e Evidence) { c.leave(Leaving, Why{}) })},
	{"a device that a phone accepted counts as deleted", "NoFault", rewrite(onPhoneAccepted, Working, live, func(c *Core, e Evidence) { c.deviceTo(Deleted) })},
	{"a stable connection is found stable again and again", "NeverAtRest", func(_ []rule, d []duty) {
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
			others := map[string]int{}
			for n := range uint64(8000) {
				walk, broken := randomWalk(rules, duties, from+n, 300)
				switch name, _, _ := strings.Cut(broken, ":"); name {
				case d.breaks:
					walk = shrink(rules, duties, walk, broken)
					t.Logf("after %d walks, in %d moves: %s", n+1, len(walk), broken)
					return
				default:
					others[name]++
				}
			}
			t.Fatalf("%s was not broken, but others by so many walks: %v", d.breaks, others)
		})
	}
}

// An invariant that no defect breaks may be one that cannot fail.
func TestEveryInvariantIsBrokenByADefect(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	_, list, _ := strings.Cut(string(doc), "These always hold:")
	named := regexp.MustCompile(`(?m)^//\t(\w+) `).FindAllStringSubmatch(list, -1)
	require.NotEmpty(t, named)
	for _, m := range named {
		require.True(t, slices.ContainsFunc(defects, func(d defect) bool { return d.breaks == m[1] }), m[1])
	}
	for _, d := range defects {
		require.True(t, slices.ContainsFunc(named, func(m []string) bool { return m[1] == d.breaks }), "%s is not in doc.go", d.breaks)
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
