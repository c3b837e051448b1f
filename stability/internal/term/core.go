package term

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/reconnect"
)

// Config is what a Core decides by. All of it is needed.
type Config struct {
	Reconnect      reconnect.Policy
	Keepalive      keepalive.Policy
	Random         func() float64 // numbers in [0,1)
	Healer         autoheal.Healer
	ConnectTimeout time.Duration // from an open socket to the login
	DialTimeout    time.Duration // from the dialer to an open socket, when the host connects by itself
	PairingRounds  int           // sets of codes that are offered before somebody must ask
	OnRequest      bool          // none is offered before somebody asks
	DeletedGrace   time.Duration // how long a connection may go on whose device was deleted
	Holder         string        // who holds the lock in this term
	Again          bool          // and gave it up before, in this very process
	Crashed        bool          // the last connection was not handed over
	HealInProcess  bool          // a heal begins a new term in the same process
	PausePoll      time.Duration // how often a paused term is looked at before an attempt
}

var (
	// ErrEndedBefore is the cause of a cut of an attempt that is over already.
	ErrEndedBefore = errors.New("stability: this attempt was ended before it connected")
	// ErrSuperseded is the cause of a cut when the client connected anew.
	ErrSuperseded = errors.New("stability: a newer attempt took its place")
)

// Core is the whole decision state of one term. It is not safe for concurrent
// use, and it is pure: it reads no clock, starts nothing and does no I/O.
type Core struct {
	cfg     Config
	policy  reconnect.Policy // with its defaults
	rules   []rule
	duties  []duty
	machine *reconnect.Machine
	fault   error // a step that the tables do not allow

	phase    Phase
	why      Why
	graceful bool
	verdict  autoheal.Verdict // of the last failed attempt
	slow     time.Time        // no attempt before: the budget of restarts is spent
	crashed  bool             // the term before this one was not handed over

	began   time.Time       // when this term did
	yields  int             // how often its holder gave the lock up before in this trouble
	unfitAt time.Time       // the first attempt of this term that failed for a reason that may be its own; zero: none
	unfit   reconnect.Yield // the newest such reason
	yieldAt time.Time       // when to give the lock up; zero: not

	device Device
	wish   Wish
	rounds int       // sets of codes offered since somebody asked, and attempts at it that failed
	offer  time.Time // no attempt for pairing before
	kept   time.Time // the next attempt for pairing as an earlier term has planned it; the state has it until it is made

	save   Save
	saveAt time.Time     // when to try again after an error
	pause  time.Duration // and how long to wait after the next one

	repair bool // the next connection fetches the whole app state again

	client attachment
	conn   connection
	conns  int // how many there were
	vital  vital

	now     time.Time
	held    bool // the lock was trusted at the last tick
	up      bool // and the socket was open
	effects []Effect
}

// attachment is a client in this term.
type attachment struct {
	phase  Client
	number int
	auto   bool // Run looks after it; else the host does, by hand
	tapped bool
	can    bool   // somebody said how to connect
	back   Return // behind the end of the present connection
	silent bool   // the plan was made because nobody told the host of the end
	tries  int    // since the connection was lost
	plan   Plan
	at     time.Time // of the plan
}

// connection is one attempt to connect and what becomes of it. It ends once.
type connection struct {
	phase    Conn
	number   int
	call     Call
	socket   bool // the dialer saw it
	seen     seen
	started  time.Time
	deadline time.Time // by then the next step must have happened; zero: whenever
	stable   time.Time // once it is up: when it has proved stable
	cause    reconnect.Cause
	decision reconnect.Decision

	codes []string // not shown yet
	code  string   // shown now
	until time.Time
}

// seen is a set of what has been seen of a connection.
type seen uint16

const (
	sawLogin    seen = 1 << iota // the tap saw the service accept the login
	sawService                   // and what only clients get that are logged in
	sawEnd                       // and a stanza that ends it
	toldEarly                    // whatsmeow told of a login before there was a socket
	toldUnseen                   // whatsmeow told of a login that the tap did not see
	forPairing                   // the device was not paired when it began
	codeOffered                  // a code was shown on it
	toldEnd                      // the observers know of its end
	hostKnows                    // the host reported its end
	ofNoUse                      // it ended because its client is of no more use
	typed                        // a code to type into the phone was given out
	wasUp                        // it was logged in
)

func (s seen) has(x seen) bool { return s&x != 0 }

// New returns the Core of a term that begins now, behind a saved state.
func New(cfg Config, st reconnect.State, now time.Time) *Core {
	c := &Core{
		cfg: cfg, policy: cfg.Reconnect.Defaults(), rules: table, duties: duties,
		machine: reconnect.NewMachine(cfg.Reconnect, st, cfg.Random),
		phase:   Working, device: Unread, save: Saved,
		client: attachment{phase: NoClient, plan: NoPlan},
		conn:   connection{phase: NoConn},
		vital:  vital{monitor: keepalive.New(cfg.Keepalive)},
		now:    now,
	}
	c.pause = min(c.policy.InitialDelay, c.policy.StoreRetry)
	c.crashed = cfg.Crashed || st.Status == reconnect.StatusConnected || len(st.Restarts) > 0 && now.Sub(st.Restarts[len(st.Restarts)-1]) < time.Minute
	c.resumeUnfit(st, now)
	// After a ban nobody wants to be asked for a scan by every new process.
	c.wish = Open
	if c.machine.Resume(now).Action == reconnect.ActionStop {
		c.wish = Parked
	}
	return c
}

// Handle takes evidence and returns what is to be done. It answers at once:
// what View says next holds it already.
func (c *Core) Handle(e Evidence, now time.Time) []Effect {
	c.now, c.effects = now, nil
	client, conn := from(e)
	if client != 0 && client != c.client.number || conn != 0 && conn != c.conn.number {
		return nil // of one before the newest
	}
	if t, ok := e.(Tick); ok {
		c.tick(t)
		return c.effects
	}
	for i := range c.rules {
		if r := &c.rules[i]; r.on == e.on() && r.term&c.phase != 0 && r.conn&c.conn.phase != 0 {
			phase, before := c.phase, c.conn
			if r.do != nil {
				r.do(c, e)
			}
			c.judge(r, e, phase, before)
			return c.effects
		}
	}
	c.wrong("no rule for %T in %v with %v", e, c.phase, c.conn.phase)
	return c.effects
}

// judge finds fault with a step that its rule does not allow.
func (c *Core) judge(r *rule, e Evidence, phase Phase, before connection) {
	if c.phase != phase && c.phase&r.then == 0 {
		c.wrong("%T: the term went from %v to %v", e, phase, c.phase)
	}
	if (c.conn.phase != before.phase || c.conn.number != before.number) && c.conn.phase&r.to == 0 {
		c.wrong("%T: the connection went from %v to %v", e, before.phase, c.conn.phase)
	}
}

// wrong notes a step that the tables do not allow. Tests look at it; in
// production it is one line in the log.
func (c *Core) wrong(format string, args ...any) {
	c.fault = fmt.Errorf("term: "+format, args...)
	c.do(Log{Level: slog.LevelError, Text: "a step that the table of the term does not allow", Attrs: []any{"error", c.fault}})
}

// Fault is the last step that the tables do not allow; nil while all is well.
func (c *Core) Fault() error { return c.fault }

func (c *Core) do(e Effect) { c.effects = append(c.effects, e) }

func (c *Core) log(level slog.Level, text string, attrs ...any) { c.do(Log{level, text, attrs}) }

// The steps of the smaller phases.

func (c *Core) deviceTo(p Device) {
	if deviceMoves[c.device]&p == 0 && c.device != p {
		c.wrong("the device went from %v to %v", c.device, p)
	}
	c.device = p
}

func (c *Core) planTo(p Plan) {
	if planMoves[c.client.plan]&p == 0 && c.client.plan != p {
		c.wrong("the plan went from %v to %v", c.client.plan, p)
	}
	c.client.plan = p
}

func (c *Core) clientTo(p Client) {
	if clientMoves[c.client.phase]&p == 0 {
		c.wrong("the attachment went from %v to %v", c.client.phase, p)
	}
	c.client.phase = p
}

func (c *Core) saveTo(p Save) {
	if saveMoves[c.save]&p == 0 && c.save != p {
		c.wrong("saving went from %v to %v", c.save, p)
	}
	c.save = p
}

// changed notes that the state is newer than what is written down.
func (c *Core) changed() {
	if c.save&(Saving|Stale) != 0 {
		c.saveTo(Stale)
		return
	}
	c.saveTo(Unsaved)
}

func (c *Core) linked() bool { return c.device&linked != 0 }

// Clone returns a Core that goes on from the same point, for looking ahead.
func (c *Core) Clone() *Core {
	d := *c
	d.machine, d.vital.monitor, d.effects = c.machine.Clone(), c.vital.monitor.Clone(), nil
	return &d
}
