package term

import (
	"errors"
	"fmt"
	"time"

	"github.com/wastability/wastability/reconnect"
)

// A move is one thing that the surroundings of a Core may do at any moment.
type move struct {
	name string
	do   func(*world)
}

var errFails = errors.New("it fails")

func cause(r reconnect.Reason) reconnect.Cause {
	c := reconnect.Cause{Reason: r, Source: reconnect.SourceTap}
	if r == reconnect.ReasonTemporaryBan {
		c.Expire = time.Hour
	}
	return c
}

// reasons are one of each kind.
var reasons = []reconnect.Reason{
	reconnect.ReasonLoggedOut, reconnect.ReasonAccountBanned, reconnect.ReasonTemporaryBan, reconnect.ReasonConnectionReplaced,
	reconnect.ReasonRestartRequired, reconnect.ReasonServiceUnavailable, reconnect.ReasonConnectRejected, reconnect.ReasonConnectionClosed,
	reconnect.ReasonPairingFailed, reconnect.ReasonMultideviceMismatch, reconnect.ReasonUntrustedServer, reconnect.ReasonIntentional,
}

// moves are all of them, by name.
var moves = func() (all []move) {
	add := func(name string, do func(*world)) { all = append(all, move{name, do}) }
	for _, d := range []time.Duration{100 * time.Millisecond, time.Second, 20 * time.Second, time.Minute, 20 * time.Minute} {
		add(fmt.Sprintf("wait %v", d), func(w *world) { w.now = w.now.Add(d); w.idle() })
	}
	add("loop", (*world).idle)
	// The call that the loop is carrying out comes to an end.
	add("finish", func(w *world) { w.finish(false) })
	add("fail", func(w *world) { w.finish(true) })
	for _, r := range reasons {
		add("fail with "+string(r), func(w *world) {
			if f, ok := w.long.(Connect); ok {
				w.long = nil
				w.ended(f.Conn)
				w.bring(CallReturned{Conn: f.Conn, Failed: true, Ends: true, Cause: cause(r)})
			}
		})
		add("stanza "+string(r), func(w *world) {
			w.ended(w.c.conn.number)
			w.bring(SawEnd{Client: w.client, Cause: cause(r)})
		})
		add("event "+string(r), func(w *world) {
			if w.c.conn.seen.has(sawEnd) {
				w.ended(w.c.conn.number)
			}
			w.bring(ToldEnd{Client: w.client, Cause: cause(r), FromStanza: true, TapSees: true})
		})
		add("host says "+string(r), func(w *world) {
			if w.client != 0 {
				w.ended(w.c.conn.number)
				w.bring(HostEnd{Cause: cause(r)})
				w.ended(w.c.conn.number)
			}
		})
	}
	add("event of an older client", func(w *world) {
		if w.client > 1 {
			w.bring(ToldEnd{Client: w.client - 1, Cause: cause(reconnect.ReasonLoggedOut)})
			w.bring(SawEnd{Client: w.client - 1, Cause: cause(reconnect.ReasonLoggedOut)})
			w.bring(ToldLogin{Client: w.client - 1, Up: true})
			w.bring(SawEnd{Client: w.client, Cause: cause(reconnect.ReasonConnectionReplaced), Behind: true})
		}
	})
	add("socket of an older connection goes", func(w *world) {
		if n := w.c.conn.number; n > 1 {
			w.bring(SocketGone{Conn: n - 1, Cause: cause(reconnect.ReasonConnectionClosed)})
			w.bring(CleanedUp{Conn: n - 1})
			w.bring(CallReturned{Conn: n - 1, Failed: true, Ends: true, Cause: cause(reconnect.ReasonLoggedOut)})
		}
	})
	// The socket.
	add("socket", func(w *world) {
		if w.client == 0 {
			return
		}
		w.bring(Socket{Client: w.client})
	})
	add("socket dies", func(w *world) { w.open = 0 })
	for _, by := range []Closer{ByOther, ByPause, ByReset, ByClient} {
		add(fmt.Sprintf("socket gone %d", by), func(w *world) {
			if n := w.open; n != 0 && n == w.c.conn.number {
				w.open = 0
				if w.c.conn.socket {
					w.ended(n)
				}
				comes := by == ByClient && w.c.client.auto && w.c.linked() && w.c.conn.phase&live != 0
				w.bring(SocketGone{Conn: n, By: by, Cause: cause(reconnect.ReasonConnectionClosed)})
				if k := &w.c.conn; comes && k.number == n && k.phase == Ended && !k.decision.ShouldReconnect {
					w.violated("ClosingIsNoGoodbye", "the program closed the connection of Run's client, and nothing follows %v", k.cause.Reason)
				}
			}
		})
	}
	// How alive it is.
	add("silence", func(w *world) { w.silent = w.c.conn.phase == Up })
	add("it is heard again", func(w *world) { w.silent = false })
	add("ping answered", func(w *world) { w.pinged(true, false) })
	add("ping not answered", func(w *world) { w.pinged(false, true) })
	add("ping broken off", func(w *world) { w.pinged(false, false) })
	for _, n := range []int{0, 2} {
		add(fmt.Sprintf("%d of whatsmeow's pings fail", n), func(w *world) {
			if w.c.conn.phase == Up {
				w.failed = max(w.failed, n)
				if n == 0 {
					w.failed = 0
				}
			}
			w.bring(PingsFailed{Client: w.client, InARow: n, Answered: w.now})
		})
	}
	add("pings of an earlier connection failed", func(w *world) {
		w.bring(PingsFailed{Client: w.client, InARow: 5, Answered: w.c.conn.started.Add(-time.Second)})
	})
	up := (*world).up
	// The login.
	add("success", func(w *world) { w.bring(SawLogin{Client: w.client}) })
	add("service stanza", func(w *world) { w.bring(SawService{Client: w.client, Up: up(w)}) })
	for _, sees := range []bool{true, false} {
		add(fmt.Sprintf("login sees=%v", sees), func(w *world) {
			if n := w.c.conn.number; n != 0 {
				w.note(n, func(k *fact) { k.login = true })
			}
			w.bring(ToldLogin{Client: w.client, Up: up(w), TapSees: sees})
		})
	}
	// Pairing and the device.
	for _, n := range []int{6, 1, 0} {
		add(fmt.Sprintf("%d codes", n), func(w *world) { w.bring(Codes{Client: w.client, Codes: make([]string, n), Up: up(w)}) })
	}
	add("passkey", func(w *world) { w.bring(PasskeyAsked{Client: w.client, Up: up(w)}) })
	add("passkey failed", func(w *world) {
		if w.c.conn.phase == Passkey && up(w) {
			w.ended(w.c.conn.number)
		}
		w.bring(PasskeyFailed{Client: w.client, Up: up(w)})
	})
	add("phone accepts", func(w *world) {
		if w.device != 0 && w.on == w.device {
			w.paired, w.asked, w.wanted = true, true, false
		}
		w.bring(PhoneAccepted{Client: w.client})
	})
	for _, paired := range []bool{true, false} {
		add(fmt.Sprintf("device paired=%v", paired), func(w *world) {
			if w.device == 0 && w.c.phase&holding != 0 {
				w.devices++
				w.device, w.paired, w.deleted, w.asked = w.devices, paired, false, true
				w.wanted = w.wanted && !paired
				w.bring(DeviceRead{Paired: paired})
			}
		})
	}
	add("device deleted", func(w *world) {
		if w.device != 0 && w.c.device == Paired {
			w.deleted = true
			w.bring(DeviceDeleted{})
		}
	})
	add("device restored", func(w *world) {
		if w.c.phase&holding != 0 && w.c.client.phase&(Attached|Replaced) != 0 {
			w.ended(w.c.conn.number)
		}
		w.asked = true
		w.bring(DeviceRestored{})
	})
	// The attachment.
	for _, auto := range []bool{true, false} {
		add(fmt.Sprintf("attach auto=%v", auto), func(w *world) { w.attach(auto, false) })
	}
	add("attach begins", func(w *world) {
		if w.device != 0 && w.client != 0 && w.c.phase&holding != 0 {
			w.ended(w.c.conn.number)
			w.open = 0
			w.bring(Replace{Client: w.client, Cause: cause(reconnect.ReasonIntentional)})
		}
	})
	add("late", func(w *world) { w.bring(Late{Conn: w.c.conn.number}) })
	add("attach, something hangs", func(w *world) { w.attach(true, true) })
	add("ready", func(w *world) {
		if w.client != 0 && w.c.client.auto && w.ready != w.client { // once a client
			if !w.c.Parked() { // Run has waited until a code may be offered
				w.asked = true
			}
			w.ready = w.client
			w.bring(Ready{Client: w.client})
		}
	})
	add("schedule", func(w *world) { w.asked = true; w.bring(Schedule{At: w.now}) })
	add("codes on request", func(w *world) {
		if w.devices == 0 { // an option, given before all else
			w.c.cfg.OnRequest = true
		}
	})
	add("phone code", func(w *world) { w.bring(PhoneCode{Conn: w.c.conn.number}) })
	add("ask", func(w *world) {
		w.asked, w.wanted = true, true
		w.unfit = time.Time{}
		if w.bring(Ask{}); w.c.phase&holding != 0 && w.c.Parked() {
			w.violated("WhoAsksIsHeard", "it is parked all the same")
		}
	})
	add("again", func(w *world) {
		n := w.c.conn.number
		live := w.c.conn.phase&live != 0
		w.wanted = true
		w.unfit = time.Time{}
		w.bring(Again{Reason: reconnect.ReasonRequested})
		if live && w.c.conn.number == n && w.c.conn.phase&down != 0 {
			w.note(n, func(k *fact) { k.ended = true })
		}
		w.asked = true
	})
	add("again by itself", func(w *world) {
		n := w.c.conn.number
		live := w.c.conn.phase&live != 0
		w.bring(Again{Reason: reconnect.ReasonRedelivery, Unasked: true})
		if live && w.c.conn.number == n && w.c.conn.phase&down != 0 {
			w.note(n, func(k *fact) { k.ended = true })
		}
	})
	add("overdue", func(w *world) {
		if w.c.conn.phase&(Opening|Dialed|Foreign|Waiting) != 0 {
			w.ended(w.c.conn.number)
		}
		w.bring(Overdue{Conn: w.c.conn.number})
	})
	for name, r := range map[string]reconnect.Reason{"yield": reconnect.ReasonConnectRejected, "stop": reconnect.ReasonUntrustedServer} {
		add("behind a "+name+" of its own", func(w *world) { w.behind("a", r) })
	}
	add("behind another's yield", func(w *world) { w.behind("b", reconnect.ReasonNetworkUnreachable) })
	add("logged out", func(w *world) {
		if w.c.conn.phase == Up {
			w.ended(w.c.conn.number)
			w.bring(LoggedOut{Conn: w.c.conn.number})
		}
	})
	// The term.
	add("prove", func(w *world) { w.bring(ProveStore{}) })
	add("stop", func(w *world) {
		w.leaving = true
		w.bring(Stop{Why: Why{Yielded: true, Err: errFails}})
	})
	add("cut", func(w *world) {
		w.leaving, w.cut = true, true
		w.ended(w.c.conn.number)
		w.bring(CutTerm{Why: Why{Err: errFails}, Cause: cause(reconnect.ReasonLockLost)})
	})
	return all
}()

// behind begins a term behind one that was given up for a reason.
func (w *world) behind(by string, r reconnect.Reason) {
	if !w.pristine() {
		return
	}
	cfg := config()
	m := reconnect.NewMachine(cfg.Reconnect, reconnect.State{}, cfg.Random)
	m.Attempt(w.now)
	d := m.Disconnected(cause(r), w.now)
	m.Yielded(by, cause(r), !d.ShouldReconnect, w.now)
	cfg.Again, cfg.OnRequest = by == cfg.Holder, w.c.cfg.OnRequest
	rules, duties := w.c.rules, w.c.duties
	w.now = w.now.Add(time.Second)
	w.c = New(cfg, m.State(), w.now)
	w.c.rules, w.c.duties = rules, duties
	w.saved, w.begun, w.again = m.State(), w.now, cfg.Again
	w.last = d
	w.asked = !cfg.Again
}

// pristine reports that nothing has happened in this term.
func (w *world) pristine() bool {
	return w.devices == 0 && w.c.conns == 0 && w.c.phase == Working && w.long == nil && w.clients == 0 && w.begun.IsZero()
}

// attach is what Attach does, all at once; what comes between its steps is in
// the moves that fall between two of them otherwise.
func (w *world) attach(auto, hangs bool) {
	if w.device == 0 || w.c.phase&ending != 0 {
		return
	}
	device := w.device
	if w.client != 0 {
		w.ended(w.c.conn.number)
		w.bring(Replace{Client: w.client, Cause: cause(reconnect.ReasonIntentional)})
		w.open = 0
		w.bring(Retire{Client: w.client})
		if hangs {
			w.bring(GivenUp{Client: w.client, Shut: w.device == w.on})
		}
		if w.device != device {
			return
		}
	}
	w.unfit = time.Time{} // another client tells
	w.clients++
	w.client, w.on, w.live = w.clients, device, w.live+1
	w.bring(Attach{Client: w.client, Auto: auto, Tapped: true})
}

// finish lets what the loop is carrying out come to an end.
func (w *world) finish(fails bool) {
	var err error
	if fails {
		err = errFails
	}
	f := w.long
	w.long = nil
	switch f := f.(type) {
	case Connect:
		if fails {
			w.ended(f.Conn)
		}
		w.bring(CallReturned{Conn: f.Conn, Failed: fails, Ends: fails, Cause: cause(reconnect.ReasonNetworkUnreachable), Up: w.open == f.Conn})
	case CleanUp:
		if w.open == f.Conn {
			w.open = 0
		}
		if fails { // a handler does not return
			w.bring(Late{Conn: f.Conn})
			w.ended(w.c.conn.number)
			w.bring(GivenUp{Client: w.client, Shut: w.device == w.on && w.device != 0})
		}
		w.bring(CleanedUp{Conn: f.Conn})
	case AskLock:
		if fails { // another instance has it
			w.leaving, w.cut = true, true
			w.bring(CutTerm{Why: Why{Err: errFails}, Cause: cause(reconnect.ReasonLockLost)})
		}
		w.bring(LockAsked(f))
	case SaveState:
		if !fails {
			w.saved = f.State
		}
		w.bring(SaveDone{Err: err})
	case RecordRestart:
		if !fails {
			w.saved = f.State
		}
		w.bring(RestartRecorded{Err: err, At: f.At})
	case TellLoop:
		w.leaving = true
		w.bring(LoopTold{})
	case TearDown:
		w.ended(w.c.conn.number)
		w.bring(StepDown{Why: f.Why, Cause: cause(reconnect.ReasonLockLost)})
		w.open = 0
		w.bring(Retire{Client: w.client})
		w.bring(TornDown{})
	}
}
