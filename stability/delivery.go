package stability

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.mau.fi/libsignal/signalerror"
	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability/internal/book"
)

// delivery follows one message from the moment before whatsmeow decrypts it to
// the moment when its handlers have returned. The event buffer of the device
// tells it of each part of the message (authstore.Delivery).
type delivery struct {
	a     *attachment
	key   book.Key
	named book.Key       // as its stanza names it: the sender may have another name in key
	began time.Time      // when it was taken in hand
	node  *waBinary.Node // its stanza; nil for one that is handed over from the store
	plain bool           // it is a newsletter's: it is not encrypted, and in no event buffer
	early bool           // then: whatsmeow acknowledges it before it is handled

	// Changed by the goroutine alone that handles the message.
	before messageRecord // what was known of it when it was taken in hand
	own    ownNames      // the account that was paired then
	term   int           // the one of then, see received.terms
	same   bool          // a part of what was known has come again: so it is that message

	mu       sync.Mutex        // guards what follows
	info     types.MessageInfo // the best that is known of it
	contents [][]byte          // of the parts that a handler panicked at
	parts    []*waE2E.Message  // that were handed over and are not finished
	aside    bool              // it was set aside
	judged   bool              // that was done now, at its first part that was refused: those behind it follow
	again    bool              // it was found before, and its sender has sent it once more
	acked    bool              // whatsmeow has acknowledged it, as far as is seen
	openPart
	fromBuffer
	byHandlers
	unreadable
	fromStore
}

// openPart is the part of a delivery that is at work.
type openPart struct {
	handed bool            // the Manager's handler was told of the part
	open   bool            // a part was handed over, and is not finished yet
	event  *events.Message // that part; nil for a kind whose content cannot be kept
	sent   *waE2E.Message  // its content as the handlers were given it: they may change the other one
	threw  bool            // a handler panicked at it
}

// fromBuffer is what the event buffer was asked for a delivery, and what it knew.
type fromBuffer struct {
	asked     bool       // it was asked for a part
	hashes    [][32]byte // of the parts that it was asked for
	plaintext []byte     // of the last of these, with its padding; nil before it is decrypted
	repeated  bool       // a part had been finished before
}

// byHandlers is what became of the parts of a delivery at the handlers.
type byHandlers struct {
	taken    bool   // a part was handled
	left     bool   // we kept it from the handlers
	unheard  bool   // there was no handler of the program's
	refused  bool   // a handler returned false
	panicked string // what a handler panicked with
	untried  bool   // then: whatsmeow itself did, before a handler was given it
	unsaved  bool   // then: its content could not be kept, and it is not acknowledged
}

// unreadable is why there was nothing of a delivery to hand over.
type unreadable struct {
	failed string // why it could not be decrypted
	hidden bool   // nobody is to be told that it could not be
	old    string // an old counter: it was decrypted before
}

// fromStore is about a delivery that whatsmeow does not make.
type fromStore struct {
	ours   bool   // it is handed over from the store
	why    string // then: why a handler did not take it
	poison bool   // then: it was not given to them again
}

// Why a message was not taken.
const (
	whyRefused = "a handler of the program returned false"
	whyUnheard = "the program has no event handler at the moment"
	whyPoison  = "the program's handlers did not take it, again and again, while they took others"
)

// Begin implements authstore.Delivery.
func (d *delivery) Begin(ctx context.Context, hash [32]byte, known *store.BufferedEvent) error {
	aside := false
	var plaintext []byte
	switch {
	case known == nil:
	case known.Plaintext != nil:
		d.a.m.received.standMark(ctx)
		plaintext = known.Plaintext
		raw, _, ok := unpadded(plaintext)
		aside = ok && (d.isAside(raw) || d.poisoned(raw))
	default:
		if err := d.a.m.received.settled(ctx, d.key, nil); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked, d.handed, d.plaintext = true, false, plaintext
	d.hashes = append(d.hashes, hash)
	if aside {
		d.aside = true
		return authstore.ErrPartDone
	}
	if known != nil && known.Plaintext == nil {
		d.repeated = true
	}
	return nil
}

// Failed implements authstore.Delivery. The entry is written before whatsmeow
// acknowledges the message.
func (d *delivery) Failed(ctx context.Context, err error) error {
	d.mu.Lock()
	if errors.Is(err, signalerror.ErrOldCounter) {
		d.old = "an old counter: it was decrypted before, here or by an earlier copy of the session"
		d.mu.Unlock()
		return err
	}
	d.failed = "it cannot be decrypted: " + firstLine(err.Error())
	rec := d.record(book.Undecrypted, d.failed)
	d.mu.Unlock()
	if saved := d.a.m.received.keepUndecrypted(ctx, d, rec); saved != nil && errors.Is(saved, context.Canceled) {
		return saved // it stays at the service
	}
	return err
}

// Finish implements authstore.Delivery. A message at which a handler panicked,
// or for which there was none, is kept before the event is finished and the message
// acknowledged. Behind the end of its term it is neither kept nor acknowledged.
func (d *delivery) Finish(ctx context.Context, plaintext []byte) error {
	d.mu.Lock()
	open, handed, threw := d.open, d.handed, d.threw
	d.open, d.handed, d.threw = false, false, false
	keep := false
	var other []byte // a part of another message than was known
	switch {
	case handed && !threw:
		d.taken = d.taken || open
		if open && len(d.parts) > 0 {
			d.parts = d.parts[:len(d.parts)-1]
		}
	case handed:
		keep = open && d.content()
	default:
		switch raw, silent, ok := unpadded(plaintext); {
		case ok && d.judged:
			d.mu.Unlock()
			return d.judge(raw)
		case silent && !threw:
			d.taken = true
		case ok:
			// A host that removed all handlers has removed the Manager's too, for a moment.
			d.contents, keep = append(d.contents, raw), true
			if !threw { // else it was one that comes before the Manager's
				d.panicked = "there was no event handler for it"
			}
			other = raw
		}
	}
	if !keep {
		var content *waE2E.Message
		if handed {
			content = d.sent
		}
		d.mu.Unlock()
		return d.a.m.received.settled(ctx, d.key, content)
	}
	d.mu.Unlock()
	if d.a.m.received.past(d) { // the store is another term's: the service delivers the message to that one
		return fmt.Errorf("stability: the message was not taken in its term: %w", context.Canceled)
	}
	if other != nil {
		d.learn()
		if err := d.a.m.received.split(ctx, d, other); err != nil {
			return err
		}
	}
	d.mu.Lock()
	rec := d.record(book.Kept, d.panicked)
	d.mu.Unlock()
	return d.keep(ctx, rec)
}

// keep writes the message down. Where its device is over that fails, and neither is the
// message acknowledged: it counts as refused then, for the service has it.
func (d *delivery) keep(ctx context.Context, rec messageRecord) error {
	err := d.a.m.received.keep(ctx, rec)
	if errors.Is(err, context.Canceled) && !d.a.t.loggedOut() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.unsaved = true
	}
	return err
}

// poisoned sets a part of a message aside that was refused too often, before it is
// handed over: a handler that was added before the client was attached would refuse it
// before the Manager hears of it. It reports whether that was done.
func (d *delivery) poisoned(raw []byte) bool {
	r := &d.a.m.received
	if d.before.State != book.Refused || len(d.before.Contents) > 0 && !d.before.has(raw) || !r.poisonous(d.key) {
		return false
	}
	d.same = true
	d.learn()
	return d.judge(raw) == nil
}

// judge sets the message aside with a part more.
func (d *delivery) judge(raw []byte) error {
	if d.a.m.received.past(d) { // the store is another term's
		return fmt.Errorf("stability: the message was not judged in its term: %w", context.Canceled)
	}
	d.mu.Lock()
	d.contents = append(d.contents, raw)
	rec := d.record(book.SetAside, whyPoison)
	d.mu.Unlock()
	err := d.a.m.received.setAside(rec)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil { // it goes on as if nothing had been judged
		d.contents = d.contents[:len(d.contents)-1]
		return err
	}
	d.judged = true
	return nil
}

// learn takes what the stanza says of the message, as the event has it, for a handler
// that has not been told of it yet.
func (d *delivery) learn() {
	in, ok := any(d.a.client.DangerousInternals()).(messageParser)
	if !ok {
		return
	}
	if info, err := in.ParseMessageInfo(d.node); err == nil && info != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.info = plainInfo(*info)
	}
}

// refusedFirst notes a part that a handler refused before the Manager heard of it: one
// that was added before the client was attached.
func (d *delivery) refusedFirst() {
	d.mu.Lock()
	raw, _, ok := unpadded(d.plaintext)
	d.mu.Unlock()
	if !ok {
		return // it was in no event buffer
	}
	var msg waE2E.Message
	if proto.Unmarshal(raw, &msg) != nil {
		return
	}
	d.mu.Lock()
	judged := d.judged
	d.mu.Unlock()
	if judged {
		if d.judge(raw) == nil { // else the next login brings this part as a message of its own
			d.finished()
		}
		return
	}
	d.learn()
	err := d.a.m.received.split(context.Background(), d, raw)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.parts = append(d.parts, &msg)
	d.left = d.left || err != nil
}

// untold notes a newsletter's message that a handler before the Manager's did not take. It
// is in no event buffer, and where whatsmeow has acknowledged it, nothing tells that it was
// refused.
func (d *delivery) untold() {
	if !d.plain || d.ours {
		return
	}
	d.mu.Lock()
	not := !d.handed && !d.left && (d.early || d.panicked != "" || d.unanswered() && d.a.admits())
	threw := d.panicked != ""
	d.mu.Unlock()
	n, _ := d.node.GetOptionalChildByTag("plaintext")
	raw, _ := n.Content.([]byte)
	var msg waE2E.Message
	r := &d.a.m.received
	if !not || len(raw) == 0 || proto.Unmarshal(raw, &msg) != nil || r.past(d) {
		return
	}
	d.learn()
	err := r.split(context.Background(), d, raw)
	if err == nil && !threw && r.poisonous(d.key) && d.judge(raw) == nil {
		d.dismiss()
		d.mu.Lock()
		defer d.mu.Unlock()
		d.aside = true
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case threw:
		d.contents = [][]byte{raw}
	case err != nil && !d.early:
		d.left = true
	default:
		d.refused, d.parts = true, append(d.parts, &msg)
	}
}

// unpadded is a decrypted message without its padding; ok is false for what is
// none. silent says that whatsmeow deals with it by itself, and gives no event.
func unpadded(b []byte) (raw []byte, silent, ok bool) {
	var msg waE2E.Message
	raw = withoutPadding(b)
	if len(raw) == 0 || proto.Unmarshal(raw, &msg) != nil {
		return nil, false, false
	}
	answer := protocolPart(&msg).GetPeerDataOperationRequestResponseMessage()
	return raw, answer.GetPeerDataOperationRequestType() == waE2E.PeerDataOperationRequestType_PLACEHOLDER_MESSAGE_RESEND, true
}

// protocolPart is what whatsmeow takes in m for a message of the protocol's own; nil where
// there is none.
func protocolPart(m *waE2E.Message) *waE2E.ProtocolMessage {
	if inner := m.GetDeviceSentMessage().GetMessage(); inner != nil {
		m = inner
	}
	return m.GetProtocolMessage()
}

func isProtocol(m *waE2E.Message) bool { return protocolPart(m) != nil }

// withoutPadding takes the padding off, whose last byte is its length; nil for
// what is not padded so.
func withoutPadding(b []byte) []byte {
	if len(b) == 0 || int(b[len(b)-1]) > len(b) {
		return nil
	}
	return b[:len(b)-int(b[len(b)-1])]
}

// content adds the open part to what is kept; false where that cannot be. The
// caller holds mu.
func (d *delivery) content() bool {
	if d.event == nil || d.event.RawMessage == nil {
		return false
	}
	sent := d.event.RawMessage
	if d.sent != nil {
		sent = d.sent
	}
	raw, err := proto.Marshal(sent)
	if err != nil {
		return false
	}
	d.contents = append(d.contents, raw)
	return true
}

func (d *delivery) record(s book.State, why string) messageRecord {
	now := time.Now()
	return messageRecord{
		Entry: book.Entry{Key: d.key, State: s, First: now, Since: now, Last: now, Tries: 1, Why: why, Hidden: d.hidden},
		Info:  d.info, Contents: d.contents, Of: d.own,
	}
}

// handing is told of an event before the handlers are. false keeps it from
// them: the service has the message for another day, or we have.
func (d *delivery) handing(info types.MessageInfo, evt *events.Message, deaf bool) bool {
	r := &d.a.m.received
	admits, aside := d.a.admits(), false
	var raw []byte
	var sent *waE2E.Message
	if admits && !d.ours {
		if sent = d.asSent(evt); sent != nil && len(d.before.Contents) > 0 {
			raw, _ = proto.Marshal(sent)
		}
		if aside = d.isAside(raw); !aside && r.split(context.Background(), d, raw) != nil {
			admits = false
		}
	}
	keep := !admits && d.early && !d.ours && evt != nil // it is acknowledged: nobody delivers it again
	if keep && sent == nil {
		sent = d.asSent(evt)
	}
	d.mu.Lock()
	judged, before := d.judged, d.aside // at a part before
	d.mu.Unlock()
	poisonous := evt != nil && (judged || !before && r.poisonous(d.key))
	again := admits && sent != nil && r.resent(d, sent)
	if aside || again {
		d.dismiss()
	}
	d.mu.Lock()
	d.info, d.event, d.sent, d.handed, d.threw = plainInfo(info), evt, nil, true, false
	if sent != nil && !aside && !again && (admits || keep) {
		d.sent = sent
		d.parts = append(d.parts, d.sent)
	}
	switch {
	case aside:
		d.aside = true
		d.mu.Unlock()
		return false
	case again:
		d.again = true
		d.mu.Unlock()
		return false
	case !admits && !keep:
		d.left = true
	case keep, deaf && (evt == nil || !judged):
		d.unheard = true
		d.mu.Unlock()
		return false
	}
	if d.left || !poisonous || !d.content() {
		d.open = !d.left
		d.mu.Unlock()
		return !d.left
	}
	rec := d.record(book.SetAside, whyPoison)
	d.mu.Unlock()
	err := r.setAside(rec)
	if err == nil { // else the service's next delivery of it is handed over beside what is done with it here
		d.dismiss()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.aside, d.left = err == nil, err != nil
	return false
}

// asSent is the content of the event as whatsmeow decrypted it: handlers that stand before
// the Manager's may have written into the event. nil where there is none.
func (d *delivery) asSent(evt *events.Message) *waE2E.Message {
	if evt == nil {
		return nil
	}
	d.mu.Lock()
	raw := withoutPadding(d.plaintext)
	d.mu.Unlock()
	var sent waE2E.Message
	if len(raw) > 0 && proto.Unmarshal(raw, &sent) == nil {
		return &sent
	}
	return proto.Clone(evt.RawMessage).(*waE2E.Message)
}

// finished marks what was decrypted of the message as finished, which whatsmeow
// does only for a message that all handlers took.
func (d *delivery) finished() {
	if d.node == nil {
		return // it is handed over from here
	}
	ctx := context.Background()
	for _, hash := range d.known(ctx, d.encrypted()...) {
		_ = d.a.device.EventBuffer.ClearBufferedEventPlaintext(ctx, hash)
	}
}

// dismiss is finished for a message that is kept from the handlers though the service has
// it: whatsmeow acknowledges it at the next login. It does so only for what is in the event
// buffer, so the others are acknowledged here.
func (d *delivery) dismiss() {
	d.mu.Lock()
	buffered := d.asked
	d.mu.Unlock()
	if buffered {
		d.finished()
	} else if in, ok := any(d.a.client.DangerousInternals()).(acknowledger); ok && !d.early && d.node != nil {
		in.SendAck(context.Background(), d.node, 0)
	}
}

// undecryptable is told of the event of that name.
func (d *delivery) undecryptable(evt *events.UndecryptableMessage) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.info = plainInfo(evt.Info)
	d.hidden = evt.DecryptFailMode == events.DecryptFailHide
	if kind, ok := d.withheld(); ok {
		d.failed, d.hidden = whyWithheld(kind)
	} else if d.failed == "" {
		d.failed = "it cannot be decrypted"
	}
}

// withheld reports whether WhatsApp has sent the message without its content, and its
// word for the kind of such a message; "" where it gives none.
func (d *delivery) withheld() (kind string, ok bool) {
	if d.node == nil || len(d.node.GetChildrenByTag("enc")) > 0 {
		return "", false
	}
	n, ok := d.node.GetOptionalChildByTag("unavailable")
	a := n.AttrGetter()
	return a.OptionalString("type"), ok
}

// whyWithheld says why there is no content. A kind that has a name is meant for the phone
// alone; without one the phone can send the content.
func whyWithheld(kind string) (why string, hidden bool) {
	if kind == "" {
		return "it cannot be decrypted: WhatsApp has not sent its content to this device", false
	}
	return "it is for the phone alone (" + kind + ")", true
}

// keepParts makes the parts that are not finished what is kept of the message.
// With d.mu held.
func (d *delivery) keepParts() {
	d.contents = nil
	for _, m := range d.parts {
		if raw, err := proto.Marshal(m); err == nil && len(raw) > 0 {
			d.contents = append(d.contents, raw)
		}
	}
}

// declined is the outcome where a handler returned false. With d.mu held.
//
// whatsmeow acknowledges messages from the account's own phone whatever the handlers
// say, so the service does not deliver them again.
func (d *delivery) declined() book.Outcome {
	d.keepParts()
	ofPhone := d.node != nil && d.node.AttrGetter().OptionalString("category") == "peer"
	if len(d.contents) > 0 && (d.early || ofPhone && slices.ContainsFunc(d.parts, isProtocol)) {
		return book.Saved
	}
	return book.Declined
}

// unanswered reports whether a newsletter's message was not acknowledged: whatsmeow says
// in no other way that a handler returned false for it. With d.mu held.
func (d *delivery) unanswered() bool {
	return d.plain && !d.early && !d.acked && d.a.hears.Load()
}

func isNewsletter(message *waBinary.Node) bool {
	return message.AttrGetter().OptionalJIDOrEmpty("from").Server == types.NewsletterServer
}

// outcome says what became of the message, when its handlers have returned.
func (d *delivery) outcome() (o book.Outcome, why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.left:
		return book.Left, ""
	case d.ours && d.poison:
		return book.Poison, whyPoison
	case d.ours && len(d.contents) > 0:
		return book.Saved, d.why
	case d.ours:
		return book.Handled, ""
	case d.aside, d.again:
		return book.Repeat, ""
	case d.unheard:
		return d.declined(), whyUnheard
	case d.refused:
		return d.declined(), whyRefused
	case d.panicked != "":
		if d.open { // there is no event buffer for messages of its kind
			d.content()
		}
		if len(d.contents) == 0 {
			return book.Odd, d.panicked + "; its content could not be kept"
		}
		if d.unsaved {
			return book.Declined, d.panicked
		}
		return book.Saved, d.panicked
	case d.failed != "":
		return book.Lost, d.failed
	case d.unanswered() && !d.a.admits():
		return book.Left, ""
	case d.unanswered():
		return d.declined(), whyRefused
	case d.open && d.asked: // and nobody finished it
		d.keepParts()
		return book.Declined, whyRefused
	case d.open || d.taken:
		return book.Handled, ""
	case !d.a.admits():
		return book.Left, ""
	case d.repeated:
		return book.Repeat, ""
	case d.old != "":
		return book.Odd, d.old
	}
	return book.Odd, "whatsmeow gave it to no handler: its form is not known"
}

// plainInfo is info without what cannot be written down.
func plainInfo(info types.MessageInfo) types.MessageInfo {
	info.VerifiedName = nil
	return info
}

func firstLine(s string) string {
	for i, c := range s {
		if c == '\n' {
			return s[:i]
		}
	}
	return s
}

// panickedWith is how a panic of a handler is told.
func panickedWith(value any) string {
	return fmt.Sprintf("a handler of the program panicked: %s", firstLine(fmt.Sprint(value)))
}
