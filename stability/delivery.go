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
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability/internal/book"
	"github.com/wastability/wastability/stability/internal/course"
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

	// Changed by the goroutine alone that handles the message.
	before messageRecord // what was known of it when it was taken in hand
	own    ownNames      // the account that was paired then
	term   int           // the one of then, see presentTerm.number
	same   bool          // a part of what was known has come again: so it is that message

	mu      sync.Mutex        // guards what follows
	info    types.MessageInfo // the best that is known of it
	course  course.Course     // what has happened to it; its origin does not change, and is read without mu
	content content
	hashes  [][32]byte // of the parts that the event buffer was asked for
}

// ours reports whether the message is handed over from the store.
func (d *delivery) ours() bool { return d.course.Origin == course.Store }

// early reports whether whatsmeow acknowledges the message before it is handled.
func (d *delivery) early() bool { return d.course.Origin == course.Early }

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
	d.keepThrown(d.course.Begin(!aside && known != nil && known.Plaintext == nil))
	d.content.plaintext = plaintext
	d.hashes = append(d.hashes, hash)
	if aside {
		d.course.SetAside()
		return authstore.ErrPartDone
	}
	return nil
}

// keepThrown keeps the content of the part before, if a handler panicked at it and nothing
// has finished it: its kind is in no event buffer. With mu held.
func (d *delivery) keepThrown(before course.Part) {
	if before == course.Threw {
		d.content.keepOpen()
	}
}

// Failed implements authstore.Delivery. The entry is written before whatsmeow
// acknowledges the message.
func (d *delivery) Failed(ctx context.Context, err error) error {
	d.mu.Lock()
	if errors.Is(err, signalerror.ErrOldCounter) {
		d.course.OldCounter()
		d.mu.Unlock()
		return err
	}
	d.course.Unreadable("it cannot be decrypted: "+firstLine(err.Error()), d.course.Hidden())
	rec := d.record(book.Undecrypted, d.course.WhyUnread())
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
	part := d.course.Finish()
	keep := false
	var other []byte // a part of another message than was known
	switch part {
	case course.Open:
		d.content.finish()
	case course.Threw:
		keep = d.content.keepOpen()
	case course.Untold, course.Spoilt:
		switch raw, silent, ok := unpadded(plaintext); {
		case ok && d.course.Judged():
			d.mu.Unlock()
			return d.judge(raw)
		case silent && part == course.Untold:
			d.course.Took()
		case ok:
			// A host that removed all handlers has removed the Manager's too, for a moment.
			d.content.keep(raw)
			keep, other = true, raw
			if part == course.Untold { // else it was one that comes before the Manager's
				d.course.Nobody()
			}
		}
	}
	if !keep {
		var content *waE2E.Message
		if part.Told() {
			content = d.content.sent
		}
		d.mu.Unlock()
		return d.a.m.received.settled(ctx, d.key, content)
	}
	d.mu.Unlock()
	if d.a.m.received.past(d) { // the store is another term's: the service delivers the message to that one
		return fmt.Errorf("stability: the term ended before the message was taken: %w", context.Canceled)
	}
	if other != nil {
		d.learn()
		if err := d.a.m.received.split(ctx, d, other); err != nil {
			return err
		}
	}
	d.mu.Lock()
	rec := d.record(book.Kept, d.course.WhyKept())
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
		d.course.Unsaved()
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
		return fmt.Errorf("stability: the term ended before the outcome of the message was decided: %w", context.Canceled)
	}
	d.mu.Lock()
	d.content.keep(raw)
	rec := d.record(book.SetAside, course.WhyPoison)
	d.mu.Unlock()
	err := d.a.m.received.setAside(rec)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil { // it goes on as if nothing had been judged
		d.content.drop()
		return err
	}
	d.course.Judge()
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
	raw, _, ok := unpadded(d.content.plaintext)
	d.mu.Unlock()
	if !ok {
		return // it was in no event buffer
	}
	var msg waE2E.Message
	if proto.Unmarshal(raw, &msg) != nil {
		return
	}
	d.mu.Lock()
	judged := d.course.Judged()
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
	d.content.parts = append(d.content.parts, &msg)
	if err != nil {
		d.course.Leave()
	}
}

// untold notes a newsletter's message that a handler before the Manager's did not take. It
// is in no event buffer, and where whatsmeow has acknowledged it, nothing tells that it was
// refused.
func (d *delivery) untold() {
	d.mu.Lock()
	not, threw := d.course.Unnoticed(d.sight()), d.course.Threw()
	d.mu.Unlock()
	if !not {
		return
	}
	n, _ := d.node.GetOptionalChildByTag("plaintext")
	raw, _ := n.Content.([]byte)
	var msg waE2E.Message
	r := &d.a.m.received
	if len(raw) == 0 || proto.Unmarshal(raw, &msg) != nil || r.past(d) {
		return
	}
	d.learn()
	err := r.split(context.Background(), d, raw)
	if err == nil && !threw && r.poisonous(d.key) && d.judge(raw) == nil {
		d.dismiss()
		d.mu.Lock()
		defer d.mu.Unlock()
		d.course.SetAside()
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case threw:
		d.content.kept = [][]byte{raw}
	case err != nil && !d.early():
		d.course.Leave()
	default:
		d.course.Refused()
		d.content.parts = append(d.content.parts, &msg)
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

func (d *delivery) record(s book.State, why string) messageRecord {
	now := time.Now()
	return messageRecord{
		Entry: book.Entry{Key: d.key, State: s, First: now, Since: now, Last: now, Tries: 1, Why: why, Hidden: d.course.Hidden()},
		Info:  d.info, Contents: d.content.kept, Of: d.own,
	}
}

// sight is what there is to see when the handlers have returned. With d.mu held.
//
// whatsmeow acknowledges messages from the account's own phone whatever the handlers
// say, so the service does not deliver them again.
func (d *delivery) sight() course.Sight {
	ofPhone := d.node != nil && d.node.AttrGetter().OptionalString("category") == "peer"
	return course.Sight{
		Admits: d.a.admits(), Hears: d.a.hears.Load(),
		OfPhone: ofPhone && slices.ContainsFunc(d.content.parts, isProtocol),
		Content: len(d.content.kept) > 0,
	}
}

// originOf says where a message comes from.
func originOf(message *waBinary.Node, synchronousAck bool) course.Origin {
	switch {
	case !isNewsletter(message):
		return course.Encrypted
	case synchronousAck:
		return course.Newsletter
	}
	return course.Early
}

func isNewsletter(message *waBinary.Node) bool {
	return message.AttrGetter().OptionalJIDOrEmpty("from").Server == types.NewsletterServer
}

// outcome says what became of the message, when its handlers have returned.
func (d *delivery) outcome() (o book.Outcome, why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.sight()
	switch d.course.Keeps(s) {
	case course.Parts:
		d.content.keepParts()
	case course.OpenPart:
		d.content.keepOpen()
	}
	s.Content = len(d.content.kept) > 0
	return d.course.Outcome(s)
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
