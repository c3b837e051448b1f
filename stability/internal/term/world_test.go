package term

import (
	"fmt"
	"reflect"
	"time"

	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/reconnect"
)

// world is the worst that can surround a Core: evidence comes at any moment,
// late, twice, or from an older connection, and every effect may fail or take
// for ever. It knows the truth that the Core only hears of, and judges.
type world struct {
	c    *Core
	now  time.Time
	long Effect // the loop is carrying it out; nil while it waits

	open    int // the connection whose socket is open; 0 while none is
	device  int // that the caller holds; 0 while none
	devices int
	paired  bool // what the store says of it
	deleted bool // somebody deleted it in the store
	client  int  // attached last
	on      int  // the device that it stands on
	clients int
	live    int // clients that were not retired
	ready   int // the client that was last said to be ready
	leaving bool
	cut     bool
	asked   bool // somebody wants the account to go on, since the last end
	wanted  bool // somebody wants codes, and nothing has come of it yet
	saved   reconnect.State
	known   map[int]fact       // by connection
	last    reconnect.Decision // about the last end
	begun   time.Time          // when a term behind a yield did; zero for another
	again   bool               // and its holder had been the one
	unfit   time.Time          // since when attempts fail for a reason of this instance

	heard  int       // the connection that the next five are about
	silent bool      // the service says nothing
	alive  time.Time // it last said something, or answered a ping
	ping   int       // the connection of the ping that is under way; 0 while none is
	failed int       // pings in a row that were not answered

	broken string
}

// fact is what the world knows of a connection.
type fact struct {
	login, ended, told bool
}

var origin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func config() Config {
	u := uint64(1)
	return Config{
		Random: func() float64 { u = u*6364136223846793005 + 1442695040888963407; return float64(u>>11) / (1 << 53) },
		Healer: autoheal.New(autoheal.Policy{Attempts: 3, Failures: 3, Budget: 1}), Holder: "a", ConnectTimeout: 30 * time.Second, DialTimeout: time.Minute,
		PairingRounds: 3, DeletedGrace: time.Second, PausePoll: 100 * time.Millisecond,
	}
}

func newWorld(rules []rule, duties []duty) *world {
	w := &world{now: origin, known: map[int]fact{}}
	w.c = New(config(), reconnect.State{}, w.now)
	w.c.rules, w.c.duties = rules, duties
	w.saved = w.c.State()
	return w
}

func (w *world) clone() *world {
	x := *w
	x.c = w.c.Clone()
	x.known = make(map[int]fact, len(w.known))
	for k, v := range w.known {
		x.known[k] = v
	}
	return &x
}

// violated notes the first invariant that does not hold.
func (w *world) violated(invariant, format string, args ...any) {
	if w.broken == "" {
		w.broken = invariant + ": " + fmt.Sprintf(format, args...)
	}
}

func (w *world) note(conn int, f func(*fact)) {
	k := w.known[conn]
	f(&k)
	w.known[conn] = k
}

// bring gives evidence and looks at what the Core makes of it.
func (w *world) bring(e Evidence) {
	before, phase := w.c.conn, w.c.phase
	effects := w.c.Handle(e, w.now)
	for _, f := range effects {
		w.carryOut(f, before.number)
	}
	if n := before.number; n != 0 && n != w.c.conn.number && !w.known[n].told {
		w.violated("ToldOnce", "%T puts another connection in place of %d, and nobody was told of its end", e, n)
	}
	if err := w.c.Fault(); err != nil {
		w.violated("NoFault", "%v", err)
	}
	if phase == Working && w.c.phase == Yielding {
		w.judgeYield(before)
	}
	w.check()
}

// carryOut carries an effect out. Before is the connection that was the newest
// when the evidence came.
func (w *world) carryOut(f Effect, before int) {
	if Long(f) {
		if w.long != nil {
			w.violated("OneLoop", "%T while %T is under way", f, w.long)
		}
		w.long = f
	}
	k := &w.c.conn
	switch f := f.(type) {
	case Bind:
		if w.c.phase&ending != 0 {
			w.violated("NothingBeginsWhileEnding", "a socket is bound")
		}
		if w.on != w.device {
			w.violated("OneClientOnADevice", "a client on device %d connects, and %d is the present one", w.on, w.device)
		}
		if w.open != 0 && w.open != f.Conn {
			w.violated("OneConnection", "%d is open, and %d is bound", w.open, f.Conn)
		}
		w.open = f.Conn
	case Cut:
		if w.open == f.Conn {
			w.open = 0
		}
	case Ping:
		if w.ping == f.Conn {
			w.violated("OnePing", "a ping while one is under way on %d", f.Conn)
		}
		w.ping = f.Conn
	case ForgetDevice:
		w.device = 0
	case RetireClient:
		w.live--
	case Connect:
		switch {
		case w.c.phase != Working:
			w.violated("NothingBeginsWhileEnding", "an attempt begins in %v", w.c.phase)
		case w.on != w.device:
			w.violated("OneClientOnADevice", "a client on device %d connects, and %d is the present one", w.on, w.device)
		case w.open != 0:
			w.violated("OneConnection", "%d is open, and an attempt begins", w.open)
		case !reflect.DeepEqual(w.saved, w.c.State()):
			w.violated("NoAttemptUnrecorded", "the state that is written down is not the one with the attempt")
		case w.c.cfg.OnRequest && w.c.client.auto && !w.c.linked() && !w.wanted:
			w.violated("NoCodeBeforeAsked", "a connection for pairing begins, and nobody asked for one")
		case w.saved.NotBefore.After(w.now):
			w.violated("NoAttemptInABan", "banned until %v", w.saved.NotBefore)
		}
		w.judgePlan()
	case ShowCode:
		if w.c.linked() {
			w.violated("NoCodeForALinkedDevice", "a code is shown in %v", w.c.device)
		}
	case Announce:
		if f.What == NewsDisconnected {
			n := k.number
			if before != 0 {
				n = before // the newest one has just begun
			}
			if w.known[n].told {
				w.violated("ToldOnce", "the end of %d is told again", n)
			}
			w.note(n, func(k *fact) { k.told = true })
		}
	case TellLoop:
		if w.c.phase == Broken && len(w.saved.Restarts) == 0 {
			w.violated("NoHealUnrecorded", "no restart is written down")
		}
	case TearDown:
		if !w.leaving && !w.c.why.Healing && !w.c.why.Unfit {
			w.violated("NothingEndsByItself", "the term is torn down, and nobody asked for it")
		}
	}
}

// judgeYield looks at whether the lock may be given up now.
func (w *world) judgeYield(k connection) {
	keep := w.c.began.Add(w.c.policy.YieldPause(w.c.yields))
	if y, _ := w.c.State().LastYield(); y.By != w.c.cfg.Holder || y.To != "" || !w.c.Unsaved() {
		w.violated("NoYieldUnrecorded", "the lock is given up, and the state that will be saved does not say so")
	}
	switch last := w.lastEnd(); {
	case !last.OfInstance():
		w.violated("OnlyTheUnfitYield", "the last end was for %v", last.Reason)
	case k.phase&between == 0:
		w.violated("OnlyTheUnfitYield", "the connection is %v", k.phase)
	case !w.again && w.c.conns == 0:
		w.violated("OnlyTheUnfitYield", "this term has made no attempt")
	case w.now.Before(keep):
		w.violated("OnlyTheUnfitYield", "it was got back only just")
	}
}

// lastEnd is the newest end as the state has it.
func (w *world) lastEnd() reconnect.Cause {
	st := w.c.State()
	return reconnect.Cause{Reason: st.LastDisconnectReason, Code: st.LastDisconnectCode}
}

// judgePlan looks at whether an attempt may begin after the last end.
func (w *world) judgePlan() {
	if d := w.last; d.Reason != "" && !d.ShouldReconnect && w.c.linked() && !w.asked {
		w.violated("TerminalBeatsPlan", "an attempt begins after %v, which forbids it", d.Reason)
	}
	w.asked = false
}

// check judges what must always hold.
func (w *world) check() {
	c, k := w.c, &w.c.conn
	if k.phase&down != 0 {
		w.last = k.decision
	}
	switch {
	case k.phase&down != 0 && w.lastEnd().OfInstance() && !k.seen.has(wasUp):
		if w.unfit.IsZero() {
			w.unfit = w.now
		}
	case k.phase&(down|Up) != 0:
		w.unfit = time.Time{}
	}
	if k.phase == Up && w.heard != k.number {
		w.heard, w.silent, w.alive, w.ping, w.failed = k.number, false, w.now, 0, 0
	}
	v := c.View(w.now, Sight{Up: w.open == k.number && k.number != 0})
	w.wanted = w.wanted && !v.Parked && !v.Ready
	switch {
	case v.Ready && (!w.known[k.number].login || w.open != k.number || w.known[k.number].ended):
		w.violated("ViewIsTrue", "connected is shown on %d: login %v, socket %d, ended %v", k.number, w.known[k.number].login, w.open, w.known[k.number].ended)
	case v.Ready != (v.Status == reconnect.StatusConnected):
		w.violated("ViewIsTrue", "ready %v, status %v", v.Ready, v.Status)
	case w.leaving && !v.Ending:
		w.violated("AnEndIsAnEnd", "the term was ended and is %v", c.phase)
	case w.cut && k.phase&live != 0:
		w.violated("AnEndIsAnEnd", "the term was cut, and the connection is %v", k.phase)
	case w.known[k.number].ended && k.phase&live != 0:
		w.violated("AnEndIsAnEnd", "connection %d ended and is %v", k.number, k.phase)
	case k.phase == Over && c.client.number == w.client && !w.known[k.number].told:
		w.violated("ToldOnce", "connection %d is over, and nobody was told", k.number)
	case w.live > 1:
		w.violated("OneClientOnADevice", "%d clients are in use", w.live)
	case k.phase&down != 0 && k.decision.ShouldReconnect && k.decision.NextRetryAt.IsZero():
		w.violated("ViewIsTrue", "a reconnect without a time")
	case v.Ending && !v.Planned.IsZero():
		w.violated("ViewIsTrue", "the term ends, and an attempt is planned")
	case v.Parked && !v.Planned.IsZero() && c.client.auto && c.phase == Working && c.conn.phase&between != 0 && !w.asked:
		w.violated("ViewIsTrue", "it says that nothing happens, and an attempt is planned")
	}
	if w.open != 0 && w.open == k.number && k.phase&live != 0 {
		before := fmt.Sprint(c.phase, c.device, c.save, c.client, c.conn.phase)
		v := c.View(w.now, Sight{Gone: &SocketGone{Conn: k.number, Cause: reconnect.Cause{Reason: reconnect.ReasonConnectionClosed}}})
		if v.Ready || v.Conn&live != 0 {
			w.violated("ViewIsTrue", "the socket is gone, and %v is shown", v.Conn)
		}
		if before != fmt.Sprint(c.phase, c.device, c.save, c.client, c.conn.phase) {
			w.violated("ViewIsTrue", "looking changed it")
		}
	}
}

// rest judges a loop that waits: it needs a deadline, or somebody who was told
// what is asked of them.
func (w *world) rest() {
	c, k, a := w.c, &w.c.conn, &w.c.client
	if w.deleted && w.device == w.on && k.phase&live != 0 && k.deadline.IsZero() {
		w.violated("NeverAtRest", "the device is deleted, and the connection goes on")
	}
	if c.phase == Working && k.phase&between != 0 && c.save == Saved && a.phase == Attached && !w.unfit.IsZero() &&
		!w.now.Before(w.unfit.Add(c.policy.YieldAfter)) && !w.now.Before(c.keepUntil()) {
		w.violated("TheUnfitYieldInTime", "attempts fail since %v, and the lock is kept", w.unfit)
	}
	if !c.Next(w.now).IsZero() {
		return
	}
	switch {
	case c.phase == Finished, k.phase == Up:
	case c.phase != Working:
		w.violated("NeverAtRest", "%v, and nothing is due", c.phase)
	case k.phase&live != 0 || k.phase&(Ended|Drained) != 0:
		w.violated("NeverAtRest", "the connection is %v, and nothing is due", k.phase)
	case a.phase != Attached || !a.auto || !a.can && w.ready != a.number: // Run or the host makes a client, or sets it up
	case !c.Parked():
		w.violated("NeverAtRest", "a client of Run's waits for nothing: %v", k.phase)
	}
}

// idle lets the loop do what is due, as long as none of it takes long.
func (w *world) idle() {
	for range 50 {
		if w.long != nil || w.broken != "" {
			return
		}
		if k := &w.c.conn; k.socket && k.phase&live != 0 && w.open != k.number {
			w.ended(k.number)
			w.bring(SocketGone{Conn: k.number, Cause: reconnect.Cause{Reason: reconnect.ReasonConnectionClosed}})
		}
		w.see()
		w.bring(Tick{Held: true, Up: w.up()})
		if next := w.c.Next(w.now); w.long == nil && (next.IsZero() || next.After(w.now)) {
			w.rest()
			return
		}
	}
	w.violated("NeverAtRest", "the loop goes round and round")
}

// up reports whether the newest connection's socket is open.
func (w *world) up() bool { return w.open != 0 && w.open == w.c.conn.number }

// see lets the loop see how alive the connection is.
func (w *world) see() {
	c, n := w.c, w.c.conn.number
	judged := c.phase == Working && c.Ready(w.up())
	if judged && !w.silent {
		w.alive = w.now
	}
	dead := judged && (w.failed >= 2 || w.now.Sub(w.alive) >= 5*time.Minute)
	if dead {
		w.asked = false
	}
	w.bring(Seen{Up: w.up(), Of: keepalive.Observation{LastReadAt: w.alive}})
	if dead {
		w.note(n, func(k *fact) { k.ended = true })
	}
	switch ended := c.conn.phase&down != 0; {
	case judged && dead && !ended:
		w.violated("SilenceEnds", "%d unanswered pings, silence for %v, and the connection is %v", w.failed, w.now.Sub(w.alive), c.conn.phase)
	case judged && !dead && ended:
		w.violated("QuietIsLeftAlone", "%d unanswered pings, silence for %v, and the connection ends", w.failed, w.now.Sub(w.alive))
	}
}

// pinged lets the ping that is under way come to an end.
func (w *world) pinged(answered, failed bool) {
	n := w.ping
	if w.ping = 0; n == 0 {
		return
	}
	if n == w.heard && n == w.c.conn.number && w.c.conn.phase == Up {
		switch {
		case answered:
			w.failed, w.alive = 0, w.now
		case failed:
			w.failed++
		}
	}
	w.bring(Pinged{Conn: n, Answered: answered, Failed: failed})
}

// ended notes that evidence has come of an end of the newest connection.
func (w *world) ended(conn int) {
	if conn == w.c.conn.number && conn != 0 && w.c.conn.phase&live != 0 {
		w.note(conn, func(k *fact) { k.ended = true })
		w.asked = false
	}
}
