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
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/internal/link"
	core "github.com/wastability/wastability/stability/internal/term"
)

// attachment is one client in a term: the client, its way to the network, and
// the attempt that its newest connection began with. It turns what the client
// and its socket do into evidence.
type attachment struct {
	t       *term
	m       *Manager
	number  int
	client  *whatsmeow.Client
	link    *link.Link
	tapped  bool            // the client logs to a Manager's logger
	auto    bool            // Run looks after it; else the host does, by hand
	device  *store.Device   // that it was made on
	life    context.Context // ends when this client is of no more use
	over    context.CancelFunc
	wire    atomic.Pointer[link.Conn] // the connection that messages may be handed over from
	refuse  atomic.Bool               // no message is handed to the host any more
	sees    atomic.Bool               // the tap has seen a stanza: it is not blind
	hears   atomic.Bool               // and one that went out
	heard   atomic.Bool               // the host has had a handler
	since   time.Time                 // when it was attached
	sending chan struct{}             // cap 1: one Manager.Send at a time
	kept    atomic.Pointer[string]    // the id of its message, which the tap need not keep
	served  atomic.Bool               // and one on this connection that only comes behind a login

	// guarded by Manager.mu
	at        attempt
	dialing   *link.Conn // the dialer is telling of it
	connect   func(context.Context) error
	scheduled func(context.Context) error // asked for; not accepted yet
	vitals    vitals
	appState  map[string]struct{} // collections that could not be synced
}

// noAddress is the address of an account that is not paired.
var noAddress = types.EmptyJID

// received looks at a stanza in the goroutine that read it, before whatsmeow
// handles it. It must be quick.
func (a *attachment) received(st stanza, arg any) {
	if a.m.cfg.hides(st.tag) {
		return
	}
	a.sees.Store(true)
	a.link.Received(st.tag, st.typ)
	if link.IsMessage(st.tag) {
		a.m.received.arrived(keyIn(arg))
	}
	switch {
	case st.tag == "success":
		a.t.note(core.SawLogin{Client: a.number})
	case st.ends:
		if st.cause.Reason.Class() == reconnect.ClassPermanent {
			// whatsmeow deletes the device next, and does not tell the store why.
			a.m.store.SetDeleteReason(a.t.deleteReason(st.cause.Reason))
		}
		a.t.note(core.SawEnd{Client: a.number, Cause: st.cause, Behind: a.link.Draining()})
	case forUsers(st.tag) && !a.served.Swap(true):
		a.t.noteWith(func() core.Evidence { return core.SawService{Client: a.number, Up: a.t.up()} })
	}
	if st.limit != "" {
		a.m.sends.restricted(st.limit)
	}
	if st.typ == "result" {
		a.m.counts.ponged(st.id)
	}
	if st.ack.id != "" && a.m.sends.answered(st.ack) {
		a.t.wake.ring()
	}
}

// forUsers reports whether the service sends such stanzas only to clients that
// are logged in.
func forUsers(tag string) bool {
	switch tag {
	case "message", "appdata", "receipt", "notification", "presence", "chatstate", "call", "ib", "ack":
		return true
	}
	return false
}

// handle sees every event of the client, before the host's handlers do. false
// keeps a message from them: whatsmeow does not acknowledge it, and the server
// delivers it again on the next connection.
func (a *attachment) handle(evt any) bool {
	a.m.RecordEvent(evt)
	switch e := evt.(type) {
	case *events.Message:
		return a.hands(e.Info, e)
	case *events.UndecryptableMessage:
		if d := a.m.received.of(e.Info, nil); d != nil {
			d.undecryptable(e)
		}
		a.onVital(evt)
	case *events.FBMessage:
		return a.hands(e.Info, nil)
	case *events.Connected:
		a.onConnected()
	case *events.QR:
		a.t.noteWith(func() core.Evidence {
			return core.Codes{Client: a.number, Codes: e.Codes, Up: a.t.up()}
		})
	case *events.PairSuccess:
		a.onPaired(e.ID)
		a.m.received.belongs(ownNames{e.ID.User, e.LID.User})
	case *events.OfflineSyncCompleted:
		if a.admits() && !a.link.Draining() { // else what the service has delivered is with it still
			a.m.received.synced()
		}
	case *events.Disconnected:
		// The raw connection tells, and knows which one it was.
	default:
		if !a.onVital(evt) && !a.onPasskey(evt) && !a.onAppState(evt) {
			a.onEvent(evt)
		}
	}
	return true
}

// admits says whether a message may be handed over now. A message that is
// decrypted after the wire was cut could not be answered or acknowledged any more.
func (a *attachment) admits() bool {
	if a.refuse.Load() {
		return false
	}
	c := a.wire.Load()
	return c == nil || !isClosed(c.Down())
}

// admit says, before a message is decrypted, whether it may be handled. end is
// called when it was.
func (a *attachment) admit(ctx context.Context, message *waBinary.Node) (handling context.Context, end func(), ok bool) {
	if a.refuse.Load() {
		return ctx, nil, false
	}
	d, end, ok := a.m.received.begin(ctx, a, message)
	if !ok {
		return ctx, nil, false
	}
	return authstore.WithDelivery(ctx, d), end, true
}

// lateHandlers is how long a host may take to register its handlers.
const lateHandlers = 2 * time.Minute

// deaf reports whether the host has no handler that could hear of a message, and
// has had one or may still register it. A host that never has one does not want
// messages. It is called from an event handler.
func (a *attachment) deaf() bool {
	n, known := a.link.HostHandlers()
	if n > 0 {
		a.heard.Store(true)
	}
	return known && n == 0 && (a.heard.Load() || time.Since(a.since) < lateHandlers)
}

// hands says whether the handlers are given a message; evt is nil for one whose
// content cannot be kept.
func (a *attachment) hands(info types.MessageInfo, evt *events.Message) bool {
	deaf := a.deaf()
	if evt != nil && evt.UnavailableRequestID != "" { // what its sender has sent may be with the handlers
		return !a.m.received.fromPhone(a, evt) && a.admits()
	}
	if d := a.m.received.of(info, evt); d != nil {
		return d.handing(info, evt, deaf)
	}
	return a.admits()
}

// onEvent takes evidence from an event.
func (a *attachment) onEvent(evt any) {
	cause, ends := reconnect.Classify(evt)
	if !ends {
		return
	}
	_, made := evt.(*events.PairError) // by whatsmeow itself
	a.t.note(core.ToldEnd{Client: a.number, Cause: cause, FromStanza: !made, TapSees: a.sees.Load()})
}

func (a *attachment) onConnected() {
	a.t.noteWith(func() core.Evidence {
		return core.ToldLogin{Client: a.number, Up: a.t.up(), TapSees: a.sees.Load()}
	})
}

// onPaired notes that a phone accepted the device. The server asks for a new
// connection next.
func (a *attachment) onPaired(id types.JID) {
	a.t.hostLogout.Store(false)
	a.t.noteWith(func() core.Evidence {
		if a.t.client == a {
			a.t.own = id
		}
		return core.PhoneAccepted{Client: a.number}
	})
}

// giveUp retires a client of which something is still running. Its calls go
// on, so the device that it stands on ends here, before there is another: from
// now on nothing of this client reads or writes the store. Two clients on one
// device would take messages from each other, and what one of them has
// decrypted would be an old counter for the other, which acknowledges it.
func (a *attachment) giveUp() {
	t := a.t
	ctx, cancel := context.WithTimeout(context.Background(), ioTimeout)
	defer cancel()
	var err error
	select {
	case t.loading <- struct{}{}: // nobody gets a device meanwhile
		defer func() { <-t.loading }()
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	t.m.mu.Lock()
	present := t.device == a.device
	t.m.mu.Unlock()
	if present && err == nil {
		t.endDevice(true)
	}
	t.noteWith(func() core.Evidence {
		a.at = attempt{} // whatever of it is left is left to itself
		return core.GivenUp{Client: a.number, Shut: present && err == nil}
	})
	if present && err != nil {
		// A new term has a device of its own in any case.
		t.stop(fmt.Errorf("%w: a handler does not return, and its device cannot be ended: %w", ErrStopping, err))
	}
}

// endBudget is how long Run waits for the handlers of an ended connection
// before it goes on with a new client.
const endBudget = 15 * time.Second

// finish runs the link's procedure and gives the context of the attempt back.
func (a *attachment) finish(ctx context.Context, conn int) error {
	a.m.mu.Lock()
	at := a.at
	returned := a.t.core.Returned()
	a.m.mu.Unlock()
	if conn == 0 || at.number != conn { // it is over, or never came to dial
		return nil
	}
	var err error
	switch {
	case at.link != nil:
		err = at.link.End(ctx)
	case returned:
		a.client.Disconnect() // not through our dialer
	}
	if at.cancel != nil {
		at.cancel()
	}
	return err
}

// retire cuts what the client has open and waits until it is gone. An error
// means that something of it is still running.
func (a *attachment) retire(ctx context.Context, cause error) (err error) {
	a.link.Cut(cause)
	var conn int
	a.t.noteWith(func() core.Evidence {
		if !a.t.core.Over() {
			conn = a.at.number
		}
		if errors.Is(cause, errReplacedClient) {
			return core.Replace{Client: a.number, Cause: cutCause(cause)}
		}
		return core.StepDown{Why: why(cause), Cause: cutCause(cause)}
	})
	if err = a.finish(ctx, conn); err != nil {
		a.m.cfg.logger.Warn("a handler is still running behind a connection that is over", "error", err)
	}
	err = errors.Join(err, a.link.Abandon(ctx))
	a.t.note(core.Retire{Client: a.number})
	return err
}

// quiesce lets what was received be handled while it can still be answered.
// New messages are refused by now, so the server keeps them for who is next.
func (a *attachment) quiesce(ctx context.Context) {
	a.m.mu.Lock()
	l := a.t.socket()
	live := a.t.core.Ready(a.t.up())
	a.m.mu.Unlock()
	if !live {
		return
	}
	if err := l.Quiesce(ctx); err != nil {
		a.m.cfg.logger.Warn("a handler did not finish in time before the hand-over", "error", err)
	}
}
