package stability

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/stability/internal/book"
)

// fromPhone keeps a message whose content the phone has sent. whatsmeow
// acknowledges the phone's answer whatever the handlers say, so it is written
// down first, and handed over from there. False where that cannot be.
func (r *received) fromPhone(a *attachment, evt *events.Message) bool {
	if isEmpty(evt.RawMessage) {
		return true // it answers nothing: what was missed is asked for again
	}
	if _, ok := any(a.client.DangerousInternals()).(dispatcher); !ok {
		return false
	}
	raw, err := proto.Marshal(evt.RawMessage)
	if err != nil {
		return false
	}
	now, users := time.Now(), a.names(evt.Info)
	rec := messageRecord{Info: plainInfo(evt.Info), Contents: [][]byte{raw}, OfPhone: true}
	if asked := evt.SourceWebMsg.GetKey().GetID(); asked != "" {
		rec.Info.ID = asked // where it is an edit, evt.Info has the id of the edited message
	}
	id, sum := rec.Info.ID, sumOf(evt.RawMessage)
	r.mu.Lock()
	term := r.term.number
	var found, waits, known bool // missed here; it waits here, or may; and so does its content
	for _, e := range r.book.Entries() {
		if e.Key.ID != id || !users.sent(e.Key) {
			continue
		}
		if e.State == book.Undecrypted || e.State == book.SetAside && len(r.more[e.Key].Contents) == 0 {
			rec.Entry, found = e, true
			break
		}
	}
	if !found { // the program asked for it by itself, or somebody has sent it again
		rec.Key = book.Key{ID: id, Chat: evt.Info.Chat.String()}
		if evt.Info.IsGroup {
			rec.Key.Sender = evt.Info.Sender.String()
		}
		rec.First = now
		waits, known = r.waits(rec.Key, evt, users)
	}
	had := !found && (known || r.had(id, sum, users, now))
	same := found && slices.ContainsFunc(r.lately, func(f foundMessage) bool {
		return f.key == rec.Key && f.Sum == sum
	})
	if same { // what could not be read was sent once more
		r.book.Remove(rec.Key)
		delete(r.more, rec.Key)
	}
	if waits && !had { // another message under its id
		rec.Key.Copy = sum[:min(len(sum), 16)]
		_, had = r.book.Find(rec.Key)
	}
	var removed change
	if same {
		removed = r.changed(rec.Key)
	}
	r.mu.Unlock()
	if same {
		_ = r.write(context.Background(), removed, false) // else the phone is asked once more
	}
	if had || same {
		return true
	}
	rec.State, rec.Since, rec.Last, rec.Tries, rec.Why = book.Kept, now, time.Time{}, 0, "the phone has sent its content"
	rec.Found = []foundNote{{OfPhone: true, Asked: !found && !waits, Sum: sum, At: now}}
	if err := r.ahead(context.Background(), rec.Key, &rec); err != nil {
		return false // the handlers are given it now, whatever comes of it
	}
	r.mu.Lock()
	if r.term.number != term { // the next holder hands it over: the row is there
		r.mu.Unlock()
		return true
	}
	e, ok := r.book.Recovered(rec.Key, rec.Why, now)
	if !found {
		e, ok = r.book.Keep(rec.Key, rec.Why, now)
	}
	var surplus []book.Key
	if ok {
		rec.Entry = e
		r.note(rec)
		for _, n := range rec.Found {
			surplus = r.found(rec.Key, n, now)
		}
	}
	is := r.changed(rec.Key)
	r.mu.Unlock()
	r.forget(surplus)
	_ = r.write(context.Background(), is, false) // whoever has written beside it, before it was known here, has written something older
	if !ok {                                     // its sender has sent it again meanwhile
		return r.fromPhone(a, evt)
	}
	r.wake.ring()
	return true
}

// waits reports whether the message that the phone has sent is with the handlers,
// at the service, or kept here. known says that it is the same one, as far as is known. The
// caller holds mu.
func (r *received) waits(k book.Key, evt *events.Message, users userNames) (waits, known bool) {
	_, waits = r.book.Find(k)
	sum := sumOf(evt.RawMessage)
	anyOf := func(k book.Key) bool {
		contents := r.more[k].Contents
		is := func(raw []byte) bool {
			var m waE2E.Message
			return proto.Unmarshal(raw, &m) != nil || sumOf(&m) == sum
		}
		if d := r.inHand[k]; d != nil {
			d.mu.Lock()
			defer d.mu.Unlock()
			if sent := d.content.sent; sent != nil {
				return sumOf(sent) == sum || slices.ContainsFunc(contents, is)
			}
		}
		return len(contents) == 0 || slices.ContainsFunc(contents, is)
	}
	known = waits && anyOf(k)
	for _, e := range r.book.Entries() {
		if e.Key != k && e.Key.ID == k.ID && users.sent(e.Key) {
			known = known || anyOf(e.Key)
		}
	}
	return waits, known
}

// userNames are the phone numbers and LIDs of whoever may have sent a message.
type userNames []string

// names are those that an answer of the phone speaks of. A user has two, and the answer may
// have the other one than the message.
func (a *attachment) names(info types.MessageInfo) (users userNames) {
	ctx, dev := context.Background(), a.device
	for _, j := range []types.JID{info.Sender, info.SenderAlt, info.Chat} {
		users = append(users, j.User)
		var other types.JID
		switch j.Server {
		case types.DefaultUserServer:
			other, _ = dev.LIDs.GetLIDForPN(ctx, j)
		case types.HiddenUserServer:
			other, _ = dev.LIDs.GetPNForLID(ctx, j)
		}
		users = append(users, other.User)
	}
	if own := []string{dev.GetJID().User, dev.GetLID().User}; info.IsFromMe || slices.Contains(own, info.Sender.User) {
		users = append(users, own...)
	}
	return slices.DeleteFunc(users, func(u string) bool { return u == "" })
}

// users are the names of whoever has sent the message of d.
func (d *delivery) users(ctx context.Context) (users userNames) {
	for _, j := range d.senders(ctx) {
		users = append(users, j.User)
	}
	return users
}

// sent reports whether one of the users has sent the message.
func (u userNames) sent(k book.Key) bool {
	return slices.Contains(u, senderOf(k))
}

// ask asks the phone for a message that could not be decrypted. whatsmeow asks
// once, after five seconds, which a restart forgets. sent: the request went out, or
// there was none to make.
func (r *received) ask(t *term, a *attachment, e book.Entry) (sent bool) {
	r.mu.Lock()
	ok := r.still(e)
	info := r.more[e.Key].Info
	r.mu.Unlock()
	if !ok {
		return true
	}
	ctx, cancel := context.WithTimeout(t.patience, ioTimeout)
	defer cancel()
	t.m.mu.Lock()
	own := t.own
	t.m.mu.Unlock()
	req := a.client.BuildUnavailableMessageRequest(info.Chat, info.Sender, info.ID)
	_, err := a.client.SendMessage(ctx, own.ToNonAD(), req, whatsmeow.SendRequestExtra{Peer: true})
	if err != nil && !errors.Is(err, context.Canceled) {
		t.m.cfg.logger.Debug("the phone could not be asked for a message", "error", err)
	}
	is := func(target error) bool { return errors.Is(err, target) }
	sent = err == nil || is(whatsmeow.ErrMessageTimedOut) || is(context.DeadlineExceeded) || is(context.Canceled) // or may be
	r.becomes(func() (book.Entry, bool) { return r.book.Asked(e.Key, sent, time.Now()) })
	return sent
}
