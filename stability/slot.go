package stability

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.mau.fi/whatsmeow"
	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/internal/link"
)

// slot is one client of a term: the client, its way to the network, the
// connection it has now and what is planned next. Fields below mu are guarded
// by Manager.mu.
type slot struct {
	s      *session
	m      *Manager
	client *whatsmeow.Client
	link   *link.Link
	tapped bool            // the client logs to a Manager's logger
	auto   bool            // Run looks after it; else the host does, by hand
	device *store.Device   // that it was made on
	life   context.Context // ends when this client is of no more use
	over   context.CancelFunc
	wire   atomic.Pointer[link.Conn] // the connection that messages may be handed over from
	refuse atomic.Bool               // no message is handed to the host any more
	sees   atomic.Bool               // the tap has seen a stanza: it is not blind
	served atomic.Bool               // and one on this connection that only comes behind a login

	// guarded by Manager.mu
	conn      *connection // the present attempt or connection; nil between them
	past      *connection // the one before
	connect   func(context.Context) error
	planned   bool
	recorded  bool // the planned attempt is in the state that is saved
	plannedAt time.Time
	unasked   bool // by hand: planned because nobody told the host of the end
	again     bool // somebody asked to come back at once
	attempts  int  // since the connection was lost
	codes     []string
	code      QR
	codeUntil time.Time
	hadCodes  bool
	passkey   bool // the code was scanned, and WhatsApp asks for a passkey
	retired   bool
	vitals    vitals
	appState  map[string]struct{} // collections that could not be synced
}

// connection is one attempt to connect and what becomes of it. It ends once.
type connection struct {
	link      *link.Conn // nil until the dialer saw it
	cancel    context.CancelFunc
	started   time.Time
	returned  bool      // Connect returned nil
	success   bool      // the server accepted the login, as the tap saw
	stanza    bool      // the tap saw a stanza that ends it
	early     bool      // whatsmeow said Connected before the connection was seen
	doubt     bool      // whatsmeow said Connected, and the tap saw no login
	connected bool      // and still is, unless ended
	deadline  time.Time // by then the next step must have happened
	ended     bool
	unpaired  bool // it is for pairing
	offered   bool // a code to scan was shown on it
	told      bool // the observers know of the end
	reported  bool // the host knows of the end: it called HandleDisconnected
	cause     reconnect.Cause
	decision  reconnect.Decision
}

// abort makes Connect return while it is under way in the loop, so that nothing
// waits for dial and handshake. What was not dialed yet is cut when it is.
func (c *connection) abort() {
	if c.cancel != nil && !c.returned && c.link != nil {
		go c.link.Cut(errEndedBefore) // it may wait for a write
	}
}

func (c *connection) up() bool {
	return c != nil && !c.ended && c.link != nil && !isClosed(c.link.Down())
}

// ready reports whether the client is logged in on a live connection.
func (sl *slot) ready() bool { return sl.conn != nil && sl.conn.connected && sl.conn.up() }

// received looks at a stanza in the goroutine that read it, before whatsmeow
// handles it. It must be quick.
func (sl *slot) received(st stanza) {
	if sl.m.cfg.hides(st.tag) {
		return
	}
	sl.sees.Store(true)
	sl.link.Received(st.tag, st.typ)
	success, cause := st.tag == "success", st.cause
	if !success && !st.ends {
		if forUsers(st.tag) && !sl.served.Swap(true) {
			sl.m.mu.Lock()
			defer sl.m.mu.Unlock()
			if sl.conn != nil {
				sl.believeLocked(sl.conn)
			}
		}
		return
	}
	if cause.Reason.Class() == reconnect.ClassPermanent {
		// whatsmeow deletes the device next, and does not tell the store why.
		sl.m.store.SetDeleteReason(string(cause.Reason))
	}
	sl.m.mu.Lock()
	defer sl.m.mu.Unlock()
	c := sl.conn
	if success && c != nil {
		c.success = true
		sl.m.noteCompatLocked(relyTap, "")
	}
	if c == nil {
		c = sl.past
	}
	if success || c == nil || sl.link.Draining() {
		return
	}
	c.stanza = true
	sl.endLocked(c, cause)
}

// forUsers reports whether the service sends such stanzas only to clients that
// are logged in.
func forUsers(tag string) bool {
	switch tag {
	case "message", "receipt", "notification", "presence", "chatstate", "call", "ib", "ack":
		return true
	}
	return false
}

// handle sees every event of the client, before the host's handlers do. false
// keeps a message from them: whatsmeow does not acknowledge it, and the server
// delivers it again on the next connection.
func (sl *slot) handle(evt any) bool {
	sl.m.RecordEvent(evt)
	switch e := evt.(type) {
	case *events.Message:
		return sl.admits()
	case *events.Connected:
		sl.onConnected()
	case *events.QR:
		sl.onCodes(e.Codes)
	case *events.PairSuccess:
		sl.onPaired(e.ID)
	case *events.Disconnected:
		// The raw connection tells, and knows which one it was.
	default:
		if !sl.onVital(evt) && !sl.onPasskey(evt) && !sl.onAppState(evt) {
			sl.onEvent(evt)
		}
	}
	return true
}

// admits says whether a message may be handed over now. What is decrypted
// after the wire was cut could not be answered or acknowledged any more.
func (sl *slot) admits() bool {
	if sl.refuse.Load() {
		return false
	}
	c := sl.wire.Load()
	return c == nil || !isClosed(c.Down())
}

// admit says, before a message is decrypted, whether it may be handled. end is
// called when it was.
func (sl *slot) admit(message *waBinary.Node) (end func(), ok bool) {
	if sl.refuse.Load() {
		return nil, false
	}
	return sl.m.inHand.begin(message)
}

// onEvent takes evidence from an event. Events come late and from other
// goroutines, so what cannot belong to the present connection is left out.
func (sl *slot) onEvent(evt any) {
	cause, ends := reconnect.Classify(evt)
	if !ends {
		return
	}
	sl.m.mu.Lock()
	defer sl.m.mu.Unlock()
	c := sl.conn
	if c == nil {
		c = sl.past // before the next attempt it can be about no other
	}
	if c == nil {
		return
	}
	switch evt.(type) {
	case *events.PairError:
	default:
		// These events come from stanzas, and the tap sees every stanza: an
		// event without one was left over from an earlier connection. A tap
		// that is blind says nothing.
		if sl.tapped && sl.sees.Load() && !c.stanza {
			return
		}
	}
	sl.endLocked(c, cause)
}

func (sl *slot) onConnected() {
	sl.m.mu.Lock()
	defer sl.m.mu.Unlock()
	c := sl.conn
	// whatsmeow may say Connected seconds after the link died.
	if !c.up() || c.connected {
		if c != nil && c.link == nil && !c.ended {
			c.early = true // past our dialer, and the attempt has not returned yet
		}
		return
	}
	if sl.tapped && !c.success {
		if sl.sees.Load() {
			// Left over from an earlier connection, or the tap missed the login.
			c.doubt = true
			sl.believeLocked(c)
			return
		}
		sl.m.noteCompatLocked(relyTap, "the logger given to the client shows no received stanza: why a connection ended is known later, and less exactly")
	}
	sl.connectedLocked(c)
}

// believeLocked ends the doubt about a login that the tap has not seen: the
// service sends what only a client gets that is logged in, or the time for the
// login is over and the connection has lasted.
func (sl *slot) believeLocked(c *connection) {
	over := !c.deadline.IsZero() && !time.Now().Before(c.deadline)
	if !c.doubt || c.connected || !c.up() || !sl.served.Load() && !over {
		return
	}
	sl.m.noteCompatLocked(relyTap, "the logger given to the client shows received stanzas, but not the login: a login is believed a little later")
	sl.connectedLocked(c)
}

// connectedLocked notes that the client is logged in.
func (sl *slot) connectedLocked(c *connection) {
	now := time.Now()
	before := sl.s.machine.State()
	c.connected = true
	if !sl.s.deleted { // else its time is short
		c.deadline = time.Time{}
	}
	sl.vitals = vitals{verdict: sl.vitals.verdict, queueAt: now.Add(sl.m.queueEvery()), handledAt: now}
	sl.s.machine.Connected(now)
	sl.s.paired, sl.s.rounds, sl.s.dirty = true, 0, true
	sl.clearCodesLocked()
	e := Event{Kind: EventConnected, Attempt: sl.attempts}
	if !before.DisconnectedSince.IsZero() {
		e.Offline = now.Sub(before.DisconnectedSince)
	}
	sl.attempts = 0
	sl.m.cfg.logger.Info("connected", "attempt", e.Attempt, "offline", e.Offline)
	sl.m.eventLocked(e)
	if sl.s.repair {
		sl.s.repair = false
		sl.s.wg.Go(func() { sl.resync(c) })
	}
	sl.s.poke()
}

// onDial is told by the dialer of each new attempt, also of one that the host
// began by itself.
func (sl *slot) onDial(lc *link.Conn) {
	sl.m.mu.Lock()
	defer sl.m.mu.Unlock()
	if sl.retired || sl.s.ending {
		lc.Cut(ErrStopping)
		return
	}
	switch c := sl.conn; {
	case c != nil && c.link == nil && !c.ended:
		c.link = lc
	case c != nil && c.link == nil && c.cancel != nil && !c.returned:
		// Somebody ended our attempt before it came to dial.
		c.link = lc
		lc.Cut(errEndedBefore)
	default:
		if c != nil {
			// The client has given the earlier one up.
			sl.endLocked(c, reconnect.Cause{Reason: reconnect.ReasonConnectionClosed, Source: reconnect.SourceRaw})
			if c.link != nil {
				c.link.Cut(errSuperseded)
			}
			sl.past = c
		}
		sl.conn = &connection{link: lc, started: time.Now(), returned: true, deadline: time.Now().Add(dialBudget + sl.m.cfg.connectTimeout)}
		if until, ok := sl.s.machine.Allowed(time.Now()); !ok {
			lc.Cut(fmt.Errorf("stability: the account is banned until %s: connecting before would make it worse", until.Format(time.RFC3339)))
			return
		}
		sl.s.machine.Attempt(time.Now())
		sl.s.dirty = true
		sl.attempts++
		sl.m.eventLocked(Event{Kind: EventConnecting, Attempt: sl.attempts})
	}
	sl.wire.Store(lc)
	sl.served.Store(false)
	sl.s.poke()
}

var (
	errSuperseded  = errors.New("stability: a newer attempt took its place")
	errEndedBefore = errors.New("stability: this attempt was ended before it came to anything")
)

// dialBudget is how long dial, TLS, upgrade and handshake may take together
// when the host connects by itself.
const dialBudget = time.Minute

// endLocked notes why a connection ended. The first cause ends it; later ones
// can only make the reason better.
func (sl *slot) endLocked(c *connection, cause reconnect.Cause) {
	if c == nil || (c != sl.conn && (sl.conn != nil || sl.recorded)) {
		return // of an older connection than the one that counts
	}
	if cause.Reason == reconnect.ReasonMultideviceMismatch && sl.s.paired {
		cause.Reason = reconnect.ReasonConnectRejected // no code is shown that a phone could scan
	}
	now := time.Now()
	if !c.ended {
		c.ended, c.cause = true, cause
		c.abort()
		c.decision = sl.s.slowLocked(sl.s.machine.Disconnected(cause, now), now)
		sl.s.dirty = true
		c.offered = sl.hadCodes
		sl.clearCodesLocked()
		sl.m.broadcastLocked()
		sl.s.poke()
		return
	}
	best := reconnect.Better(c.cause, cause)
	if best.Reason == c.cause.Reason && best.Code == c.cause.Code && best.Expire == c.cause.Expire {
		c.cause = best
		return
	}
	c.cause = best
	c.decision = sl.s.slowLocked(sl.s.machine.Disconnected(best, now), now)
	sl.s.dirty = true
	if c.told {
		sl.m.cfg.logger.Info("a better reason became known", "reason", best.Reason, "code", best.Code, "detail", best.Detail)
		sl.m.eventLocked(Event{Kind: EventReasonKnown, Reason: best.Reason, Detail: best.Detail, Decision: c.decision})
	}
	if c != sl.conn { // its end was already acted upon
		sl.followLocked(c)
	}
	sl.s.poke()
}

// rawDownLocked ends a connection whose socket is known to be gone.
func (sl *slot) rawDownLocked() {
	c := sl.conn
	if c == nil || c.ended || c.link == nil || !isClosed(c.link.Down()) {
		return
	}
	cause, _ := reconnect.Classify(nil)
	cause.Source, cause.Err = reconnect.SourceRaw, c.link.Err()
	switch {
	case errors.Is(cause.Err, errPaused):
		cause.Reason, cause.Detail = reconnect.ReasonConnectionLost, "this process was paused for longer than the lease allows without a confirmation"
	case errors.Is(cause.Err, link.ErrReset):
		cause.Reason, cause.Detail = reconnect.ReasonRestartRequired, "this program reset the connection"
	case errors.Is(cause.Err, link.ErrDisconnected) && sl.s.paired:
		cause.Reason, cause.Detail = reconnect.ReasonIntentional, "this program closed the connection"
	case sl.hadCodes && !sl.passkey && len(sl.codes) == 0 && time.Until(sl.codeUntil) < time.Second:
		// The service counts the life of the last code too.
		cause.Reason, cause.Detail = reconnect.ReasonQRExpired, "no code was scanned in time"
	case errors.Is(cause.Err, link.ErrDisconnected):
		// whatsmeow itself does so when a pairing fails, and says why next.
	default:
		if more, ok := reconnect.Classify(cause.Err); ok && more.Reason.Outranks(cause.Reason) {
			more.Source = reconnect.SourceRaw
			cause = more
		}
	}
	sl.endLocked(c, cause)
}

// expire ends a connection on which the next step did not happen in time.
func (sl *slot) expire(c *connection) {
	sl.m.mu.Lock()
	defer sl.m.mu.Unlock()
	if c.ended || c != sl.conn {
		return
	}
	if sl.s.deleted {
		sl.endLocked(c, reconnect.Cause{Reason: reconnect.ReasonLoggedOut, Source: reconnect.SourceHost, Detail: "the host deleted the device"})
		return
	}
	if sl.believeLocked(c); c.connected {
		return
	}
	c.deadline = time.Time{}
	sl.endLocked(c, reconnect.Cause{
		Reason: reconnect.ReasonTimedOut, Source: reconnect.SourceRaw,
		Detail: "the server accepted the connection, but the login did not finish in time",
	})
}

// attempt makes the planned attempt. It returns when Connect has.
func (sl *slot) attempt() {
	m := sl.m
	m.mu.Lock()
	if !sl.planned || sl.conn != nil || sl.s.ending || sl.retired {
		m.mu.Unlock()
		return
	}
	now := time.Now()
	if !sl.recorded {
		// First into the state, which is saved before the attempt begins.
		sl.s.machine.Attempt(now)
		sl.recorded, sl.s.dirty = true, true
		m.mu.Unlock()
		return
	}
	sl.planned, sl.recorded, sl.again, sl.unasked = false, false, false, false
	sl.attempts++
	ctx, cancel := context.WithCancel(context.Background())
	c := &connection{started: now, cancel: cancel, unpaired: !sl.s.paired}
	sl.conn = c
	connect := sl.connect
	m.eventLocked(Event{Kind: EventConnecting, Attempt: sl.attempts})
	m.mu.Unlock()

	sl.refreshVersion()
	err := connect(ctx)

	m.mu.Lock()
	defer m.mu.Unlock()
	cause, ends := reconnect.Classify(err)
	switch {
	case err != nil && sl.s.ending && sl.s.graceful && !c.ended:
		sl.stepDownLocked(c, sl.s.cause)
	case err != nil && ends:
		sl.endLocked(c, refine(cause, c.link))
	case c.ended:
	default:
		c.returned = true
		// What comes next may have come already.
		if c.early && c.up() && !c.connected {
			sl.connectedLocked(c)
		}
		if !c.connected && !sl.hadCodes && c.deadline.IsZero() {
			c.deadline = time.Now().Add(m.cfg.connectTimeout)
		}
		if c.link == nil {
			m.cfg.logger.Error("this connection did not go through the Manager's dialer: no fence and no clean end; pass proxies to WithTransport, not to the client")
		}
	}
}

// refine tells a link that was dropped in the handshake from a server that did
// not answer: for whatsmeow both are a hello with its parts missing.
func refine(cause reconnect.Cause, l *link.Conn) reconnect.Cause {
	if cause.Reason != reconnect.ReasonTimedOut || l == nil || l.Err() == nil {
		return cause
	}
	raw, ends := reconnect.Classify(l.Err())
	if !ends || raw.Reason != reconnect.ReasonConnectionClosed {
		return cause
	}
	raw.Detail = "the connection was closed during the handshake"
	return raw
}

// end brings an ended connection to its very end, so that the client can be
// used again, and plans what follows.
func (sl *slot) end(c *connection) {
	// Observers hear the best reason that the end brings to light, but they do
	// not wait for a handler that is stuck.
	tell := time.AfterFunc(time.Second, func() {
		sl.m.mu.Lock()
		defer sl.m.mu.Unlock()
		sl.tellLocked(c)
	})
	ctx, cancel := context.WithCancel(sl.s.rush)
	if sl.auto { // Run can make a new client; a host by hand may not
		cancel()
		ctx, cancel = context.WithTimeout(sl.s.rush, endBudget)
	}
	stop := func() bool { return true }
	if !sl.auto { // it may go on for long; a new client ends the wait
		stop = context.AfterFunc(sl.life, cancel)
	}
	err := sl.finish(ctx, c)
	stop()
	cancel()
	if err != nil {
		sl.m.cfg.logger.Warn("a handler of the old connection is still running; going on with a new client", "error", err)
		sl.giveUp()
	}
	sl.m.mu.Lock()
	replaced := c.cause.Reason == reconnect.ReasonConnectionReplaced
	sl.m.mu.Unlock()
	if replaced {
		sl.s.confirmLock()
	}
	tell.Stop()

	sl.m.mu.Lock()
	defer sl.m.mu.Unlock()
	sl.tellLocked(c)
	if sl.conn == c {
		sl.conn = nil
	}
	sl.past = c
	if !errors.Is(c.cause.Err, errReplacedClient) { // else the client in its place decides
		sl.followLocked(c)
	}
	sl.s.poke()
}

// giveUp retires a client of which something is still running. What runs goes
// on, so the device that it stands on ends here, before there is another: from
// now on nothing of this client reads or writes the store. Two clients on one
// device would take messages from each other, and what one of them has
// decrypted would be an old counter for the other, which acknowledges it.
func (sl *slot) giveUp() {
	s := sl.s
	ctx, cancel := context.WithTimeout(context.Background(), ioTimeout)
	defer cancel()
	var err error
	select {
	case s.loading <- struct{}{}: // nobody gets a device meanwhile
		defer func() { <-s.loading }()
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	s.m.mu.Lock()
	present := s.device == sl.device
	s.m.mu.Unlock()
	if present && err == nil {
		s.endDevice(true)
	}
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	sl.retireLocked()
	if present && err == nil {
		s.device, s.deleted = nil, false
	} else if present {
		// A new term has a device of its own in any case.
		s.stopLocked(fmt.Errorf("%w: a handler does not return, and its device cannot be ended: %w", ErrStopping, err), true)
	}
}

// endBudget is how long Run waits for the handlers of an ended connection
// before it goes on with a new client.
const endBudget = 15 * time.Second

// finish runs the link's procedure and gives the context of the attempt back.
func (sl *slot) finish(ctx context.Context, c *connection) error {
	var err error
	switch {
	case c.link != nil:
		err = c.link.End(ctx)
	case c.returned:
		sl.client.Disconnect() // not through our dialer
	}
	if c.cancel != nil {
		c.cancel()
	}
	return err
}

// tellLocked reports the end of a connection, once.
func (sl *slot) tellLocked(c *connection) {
	if c.told {
		return
	}
	c.told = true
	sl.m.cfg.logger.Info("disconnected", "reason", c.cause.Reason, "code", c.cause.Code, "detail", c.cause.Detail,
		"attempt", c.decision.RetryCount, "delay", c.decision.Delay, "reconnect", c.decision.ShouldReconnect)
	sl.m.eventLocked(Event{Kind: EventDisconnected, Reason: c.cause.Reason, Detail: c.cause.Detail, Decision: c.decision})
	if c.decision.Status == reconnect.StatusNeedsPairing && c.cause.Reason != reconnect.ReasonQRExpired {
		sl.m.eventLocked(Event{Kind: EventNeedsPairing, Reason: c.cause.Reason, Detail: c.cause.Detail})
	}
}

// followLocked does what the decision about an ended connection says.
func (sl *slot) followLocked(c *connection) {
	d, s := c.decision, sl.s
	s.repair = s.repair || d.Repair
	switch c.cause.Reason {
	case reconnect.ReasonLoggedOut, reconnect.ReasonAccountLocked, reconnect.ReasonAccountBanned:
		s.dropDeviceLocked()
		sl.retireLocked()
	case reconnect.ReasonPairingFailed:
		// Whatever the pairing left in the device makes it useless.
		s.device = nil
		sl.retireLocked()
	default:
		s.deletedLocked()
	}
	switch {
	case sl.again && !s.machine.State().NotBefore.After(time.Now()):
		sl.planLocked(time.Now())
	case d.ShouldReconnect && sl.auto:
		sl.planLocked(d.NextRetryAt)
	case d.ShouldReconnect && sl.connect != nil && (!c.returned || !c.reported) && !sl.planned:
		// An error of the host's connect function, or an end of which
		// whatsmeow told nobody.
		sl.unasked = c.returned
		sl.planLocked(d.NextRetryAt)
	case !d.ShouldReconnect:
		sl.planned, sl.recorded = false, false // a terminal cause beats a queued attempt
		if sl.auto {
			s.parkOrOfferLocked(sl, c.cause.Reason, c.unpaired && !c.offered)
		}
	}
	sl.s.healLocked(d.Counted)
	sl.s.poke()
}

func (sl *slot) planLocked(at time.Time) {
	if sl.retired {
		return
	}
	sl.planned, sl.recorded, sl.plannedAt = true, false, at
	sl.s.poke()
}

// retireLocked says that this client is of no more use.
func (sl *slot) retireLocked() {
	if sl.retired {
		return
	}
	sl.retired, sl.planned = true, false
	sl.refuse.Store(true)
	sl.m.broadcastLocked()
	sl.over()
}

// retire cuts what the client has open and waits until it is gone. An error
// means that something of it is still running.
func (sl *slot) retire(ctx context.Context, cause error) (err error) {
	sl.link.Cut(cause)
	sl.m.mu.Lock()
	c := sl.conn
	if c != nil {
		if errors.Is(cause, ErrStopping) || errors.Is(cause, ErrClosed) || errors.Is(cause, errHealing) {
			sl.stepDownLocked(c, cause)
		} else if !c.ended || !errors.Is(cause, errReplacedClient) { // why it ended is known better
			sl.endLocked(c, severCause(cause))
		}
	}
	sl.m.mu.Unlock()
	if c != nil {
		if err = sl.finish(ctx, c); err != nil {
			sl.m.cfg.logger.Warn("a handler is still running behind a connection that is over", "error", err)
		}
		sl.m.mu.Lock()
		sl.tellLocked(c)
		sl.conn, sl.past = nil, c
		sl.m.mu.Unlock()
	}
	sl.m.mu.Lock()
	sl.retireLocked()
	sl.m.mu.Unlock()
	return err
}

// stepDownLocked ends a connection because this instance hands over. An attempt
// that is cut short for it says nothing about the outage, whose reason stays
// for who comes next.
func (sl *slot) stepDownLocked(c *connection, why error) {
	cause := reconnect.Cause{Reason: reconnect.ReasonIntentional, Source: reconnect.SourceHost, Err: why, Detail: "this instance steps down"}
	if c.connected || c.ended {
		sl.endLocked(c, cause)
		return
	}
	st := sl.s.machine.State()
	c.ended, c.cause = true, cause
	c.decision = reconnect.Decision{Status: st.Status, Reason: cause.Reason, RetryCount: st.RetryCount, Action: reconnect.ActionNone, Detail: cause.Detail}
	sl.clearCodesLocked()
	sl.m.broadcastLocked()
}

// quiesce lets what was received be handled while it can still be answered.
// New messages are refused by now, so the server keeps them for who is next.
func (sl *slot) quiesce(ctx context.Context) {
	sl.m.mu.Lock()
	c := sl.conn
	live := c.up() && c.connected
	sl.m.mu.Unlock()
	if !live {
		return
	}
	if err := c.link.Quiesce(ctx); err != nil {
		sl.m.cfg.logger.Warn("a handler did not finish in time before the hand-over", "error", err)
	}
}
