package stability

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/stability/internal/book"
)

// MessageState says where a received message is that was not handled yet.
type MessageState string

// The states of a message.
const (
	MessageQueued      MessageState = MessageState(book.Queued)      // received on this connection, and not begun
	MessageInHand      MessageState = MessageState(book.InHand)      // with the program's handlers
	MessageAtService   MessageState = MessageState(book.AtService)   // not acknowledged, and delivered again at the next login
	MessageRefused     MessageState = MessageState(book.Refused)     // the same, because a handler returned false
	MessageKept        MessageState = MessageState(book.Kept)        // acknowledged and kept here: handed over again by and by
	MessageUndecrypted MessageState = MessageState(book.Undecrypted) // acknowledged, and asked of the phone
	MessageSetAside    MessageState = MessageState(book.SetAside)    // nothing is done before somebody asks; removed at authstore.Retention.SetAside, if that is set
	MessageLeftAlone   MessageState = MessageState(book.LeftAlone)   // at the service, not acknowledged: the process ended three times while it was handled
)

// MessageGroup counts messages.
type MessageGroup struct {
	Count  int
	Oldest time.Time // when the oldest of them was received; zero when there is none
	// Bytes is how much of their content is stored here, as it was decrypted: in memory and,
	// a third larger, in the store. 0 for PerhapsHandled, whose size is not known.
	Bytes int64
	// Why is ReceivedMessage.Why of the one that was tried last; empty where nothing
	// is known, and for groups of more than one state.
	Why string
}

// ReceivedMessages is the book of the messages that the service delivered to
// this instance: Total = Handled + Waiting + SetAside, at every moment. Total,
// Handled, Repeated and Removed count since New and know this process alone. Messages that wait
// or are set aside stand in the store too, except for those that the service has: a new
// holder of the lock goes on with it.
type ReceivedMessages struct {
	// Read reports whether this instance has read which messages wait. It is false while
	// it does not hold the lock: only an instance that holds it knows that. With a store
	// that keeps no book of messages there is nothing to read, and it is always true.
	Read bool

	Total    uint64
	Handled  uint64 // every handler returned true
	Repeated uint64 // came again after they had been handled, and were skipped
	Waiting  MessageGroup
	SetAside MessageGroup
	// Removed were set aside and nobody has dealt with them: they grew older than
	// authstore.Retention.SetAside, or had no content and more than 1,000 younger
	// ones had none either. They count in Total no more.
	Removed uint64
	By      map[MessageState]MessageGroup // what waits and what is set aside, by state; only what there is
	// Missed is By without the messages that nobody misses. Some are for the
	// phone alone, such as view-once messages. Of others the sender does not want
	// anybody to be told when they cannot be decrypted. These raise no incident.
	Missed map[MessageState]MessageGroup

	// PerhapsHandled are messages that an earlier process decrypted, and that
	// WhatsApp does not deliver any more. That process was killed, or lost the
	// backend, in the second after it had acknowledged such a message, before the
	// note of it was in the store. So the handlers have taken the message, unless
	// the account was away for so long that WhatsApp dropped it. It is not handed
	// over again: nearly always it would be handled twice, and the store does not
	// know who sent it.
	// It counts neither in Total nor in SetAside. It is removed when it has been
	// known for authstore.Retention.FinishedEvents. It becomes known a quarter of
	// an hour after a login.
	PerhapsHandled MessageGroup

	// Redelivers reports whether the Manager makes a new connection for what the program
	// refused: under Run, and by hand as soon as ScheduleReconnect has said how to
	// connect. Otherwise WhatsApp delivers it again when the program reconnects.
	Redelivers bool

	Text string // in words; empty while nothing waits for long, nothing is set aside and nothing was perhaps handled
	Do   string // what a person should do; empty when nothing is to be done
}

// isRead reports whether this instance has read which messages wait.
func (r *received) isRead() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.term.read || r.m.can.book == nil
}

func (r *received) status(now time.Time, redelivers bool) (out ReceivedMessages) {
	r.mu.Lock()
	sums := r.book.Sums()
	bytes, missed := r.sizes()
	removed := r.removals.done
	r.mu.Unlock()
	out = ReceivedMessages{Total: sums.Received, Handled: sums.Handled, Repeated: sums.Repeated, Removed: removed,
		By: make(map[MessageState]MessageGroup), Missed: make(map[MessageState]MessageGroup)}
	for st, g := range sums.States {
		group := MessageGroup{Count: g.Count, Oldest: g.Oldest, Bytes: bytes[st], Why: g.Why}
		out.By[MessageState(st)] = group
		into := &out.Waiting
		if st == book.SetAside {
			into = &out.SetAside
		}
		into.Count += group.Count
		into.Bytes += group.Bytes
		if into.Oldest.IsZero() || group.Oldest.Before(into.Oldest) {
			into.Oldest = group.Oldest
		}
	}
	if s := r.m.can.leftovers; s != nil {
		out.PerhapsHandled.Count, out.PerhapsHandled.Oldest = s.LeftoverEvents()
	}
	out.Read, out.Redelivers = r.isRead(), redelivers
	n, since := r.hanging(now, false)
	told := make(map[MessageState]MessageGroup)
	for st, g := range sums.Missed {
		out.Missed[MessageState(st)] = MessageGroup{Count: g.Count, Oldest: g.Oldest, Bytes: missed[st], Why: g.Why}
		told[MessageState(st)] = out.Missed[MessageState(st)]
	}
	if n == 0 { // a try that has just begun changes nothing yet
		for st, g := range sums.Again {
			is := told[MessageState(st)]
			if is.Count == 0 || g.Oldest.Before(is.Oldest) {
				is.Oldest = g.Oldest
			}
			is.Count += g.Count
			told[MessageState(st)] = is
		}
	}
	out.Text, out.Do = out.text(now, told), toDo(told, n > 0)
	if n > 0 {
		is := fmt.Sprintf("A handler of the program has not returned from a message for %s", keepalive.Span(now.Sub(since)))
		if n > 1 {
			is = fmt.Sprintf("Handlers of the program have not returned from %d messages, the first for %s", n, keepalive.Span(now.Sub(since)))
		}
		out.Text = strings.TrimSpace(is + ". Until then that counts as waiting. Other messages that are kept here are handed over meanwhile. " + out.Text)
	}
	return out
}

// text is about the groups of by, and about what was perhaps handled.
func (r ReceivedMessages) text(now time.Time, by map[MessageState]MessageGroup) string {
	var out []string
	say := func(s MessageState, one, many, then string) {
		g := by[s]
		switch ago := keepalive.Span(now.Sub(g.Oldest)); {
		case g.Count == 1:
			out = append(out, fmt.Sprintf("One message %s; it was received %s ago. %s", one, ago, then))
		case g.Count > 1:
			out = append(out, fmt.Sprintf("%d messages %s; the oldest was received %s ago. %s", g.Count, many, ago, then))
		}
	}
	login := "WhatsApp delivers refused messages again at the next login; this program makes a new connection for that by itself."
	if !r.Redelivers {
		login = "WhatsApp delivers refused messages again at the next login. The library was not told how to connect, so it waits for the program to do so."
	}
	say(MessageRefused, "was refused by the program's handlers", "were refused by the program's handlers", login)
	say(MessageKept, "waits here to be handed over to the program's handlers", "wait here to be handed over to the program's handlers",
		"This is tried again and again, with pauses of up to a quarter of an hour.")
	say(MessageUndecrypted, "could not be decrypted", "could not be decrypted", "The phone is asked for the content; it must be online.")
	hidden := func(s MessageState) int { return r.By[s].Count - r.Missed[s].Count }
	const needs = "Nobody needs to do anything: to read such a message, open WhatsApp on the phone."
	if n := hidden(MessageUndecrypted); n > 0 {
		out = append(out, counted(n, "is", "are")+" for the phone alone, such as a view-once message, or not to be told of. "+
			"The phone is asked for the content three times, and may not send it. "+needs)
	}
	say(MessageLeftAlone, "is left alone at WhatsApp, since the process ended while it was handled",
		"are left alone at WhatsApp, since the process ended while they were handled",
		"A message that was left alone is offered again after an hour, by an instance that has held the lock for an hour. Each further pause is twice as long, up to a day. A new build or a request offers it at once.")
	say(MessageSetAside, "was set aside", "were set aside", "See why, then hand it over again or remove it.")
	if n := hidden(MessageSetAside); n > 0 {
		out = append(out, counted(n, "was", "were")+" set aside without content, for the phone alone or not to be told of. "+needs)
	}
	const then = "The program's handlers have taken what they were given then, unless WhatsApp itself dropped it for its age; it is removed by itself."
	switch g := r.PerhapsHandled; {
	case g.Count == 1:
		out = append(out, fmt.Sprintf("One message was perhaps handled: a process was killed, or lost the backend, before it could note that; the message was received %s ago. %s",
			keepalive.Span(now.Sub(g.Oldest)), then))
	case g.Count > 1:
		out = append(out, fmt.Sprintf("%d messages were perhaps handled: a process was killed, or lost the backend, before it could note that; the oldest was received %s ago. %s",
			g.Count, keepalive.Span(now.Sub(g.Oldest)), then))
	}
	return strings.Join(out, " ")
}

// counted begins a sentence about n messages.
func counted(n int, one, many string) string {
	if n == 1 {
		return "One message " + one
	}
	return fmt.Sprintf("%d messages %s", n, many)
}

// toDo is for who reads about the groups of by, and whether a handler hangs.
func toDo(by map[MessageState]MessageGroup, hangs bool) string {
	var out []string
	say := func(is bool, do string) {
		if is {
			out = append(out, do)
		}
	}
	say(hangs, "Look in the program's handlers for a call that waits for ever. Restart the program if it does not return.")
	say(by[MessageRefused].Count+by[MessageKept].Count > 0,
		"Look in the program's log for why its handlers do not take messages: a database, a queue, another service.")
	say(by[MessageUndecrypted].Count > 0,
		"Open WhatsApp on the phone of this account, so that it is online and can send the content. If the content does not come, ask the sender to send the message again.")
	say(by[MessageLeftAlone].Count > 0, "Look in the program's log for where the process ended, and mend that. Then hand over again what was left alone.")
	say(by[MessageSetAside].Count > 0, "Look at what was set aside, and why. Then hand it over again if its content is here, or remove it.")
	return strings.Join(out, " ")
}

// ReceivedMessage is one received message that was not handled yet.
type ReceivedMessage struct {
	Entry      string // names it to Redeliver and PurgeMessage
	ID         types.MessageID
	Chat       types.JID
	Sender     types.JID
	Sent       time.Time // as the service says
	State      MessageState
	ReceivedAt time.Time
	Since      time.Time // when it came into this state
	LastTry    time.Time // zero before the first
	Tries      int
	Why        string
	HasContent bool // there is something to hand over
}

// Why Redeliver and PurgeMessage do not do what they are asked for.
var (
	// ErrNoMessage reports an entry that is not there (any more), or one without
	// content that was to be handed over.
	ErrNoMessage = errors.New("stability: there is no such message")
	// ErrMessageInHand reports a message that a handler has: wait until it returns.
	ErrMessageInHand = errors.New("stability: a handler has the message at the moment")
	// ErrMessageAtService reports a message that WhatsApp has. It cannot be purged, and
	// WhatsApp delivers a refused one again at the next login.
	ErrMessageAtService = errors.New("stability: WhatsApp has the message: it is not acknowledged")
	// ErrMessagesUnread reports that this instance has not read yet which messages
	// wait: see ReceivedMessages.Read.
	ErrMessagesUnread = errors.New("stability: this instance has not read yet which messages wait")
)

// whyNot is why nothing can be done about a message at the moment. The caller holds mu.
func (r *received) whyNot(k book.Key) error {
	if _, busy := r.inHand[k]; busy {
		return ErrMessageInHand
	}
	switch e, _ := r.book.Find(k); e.State {
	case book.Queued, book.AtService, book.Refused, book.LeftAlone:
		return ErrMessageAtService
	}
	return ErrNoMessage
}

// Messages lists the received messages that were not handled and that must not
// be forgotten with this process, oldest first: refused ones, kept ones,
// undecrypted ones and those that were set aside. No I/O. Empty in standby.
func (m *Manager) Messages() []ReceivedMessage {
	r := &m.received
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []ReceivedMessage
	for _, e := range r.book.Entries() {
		rec := r.more[e.Key]
		out = append(out, ReceivedMessage{
			Entry: recordID(e.Key), ID: rec.Info.ID, Chat: rec.Info.Chat, Sender: rec.Info.Sender, Sent: rec.Info.Timestamp,
			State: MessageState(e.State), ReceivedAt: e.First, Since: e.Since, LastTry: e.Last, Tries: e.Tries, Why: e.Why,
			HasContent: len(rec.Contents) > 0 && e.State != book.Refused,
		})
	}
	return out
}

// Redeliver hands a message over to the handlers again that was set aside or is
// kept here: soon, on the present or the next connection. Its row of tries begins
// anew. It needs the lock. ErrNoMessage, ErrMessageInHand, ErrMessageAtService,
// ErrMessagesUnread.
func (m *Manager) Redeliver(ctx context.Context, entry string) error {
	const op = "hand a message over again"
	if t, err := m.current(); err == nil && t != nil {
		if k, ok := m.received.leftAlone(entry); ok {
			m.received.offer(t, []book.Key{k}, true)
			return nil
		}
	}
	return m.onMessage(ctx, op, entry, func(r *received, k book.Key, rec *messageRecord) (bool, bool) {
		e, ok := r.book.Again(k, len(rec.Contents) > 0, time.Now())
		rec.Entry, rec.Deaths = e, min(rec.Deaths, maxDeaths-1)
		rec.Of = ownNames{} // whoever asks wants it handled by this account
		return ok, false
	})
}

// leftAlone is the message of an entry that is left alone.
func (r *received) leftAlone(entry string) (book.Key, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k := range r.more {
		if e, ok := r.book.Find(k); ok && e.State == book.LeftAlone && recordID(k) == entry {
			return k, true
		}
	}
	return book.Key{}, false
}

// PurgeMessage forgets a message that was set aside, is kept here, or could not
// be decrypted, with its content, for good. It needs the lock. ErrNoMessage,
// ErrMessageInHand, ErrMessageAtService, ErrMessagesUnread.
func (m *Manager) PurgeMessage(ctx context.Context, entry string) error {
	return m.onMessage(ctx, "purge a message", entry, func(r *received, k book.Key, rec *messageRecord) (bool, bool) {
		e, ok := r.book.Find(k)
		if !ok || e.State != book.SetAside && e.State != book.Kept && e.State != book.Undecrypted {
			return false, false
		}
		return true, true
	})
}

// onMessage changes an entry as f says, and writes it down before it returns.
func (m *Manager) onMessage(ctx context.Context, op, entry string, f func(*received, book.Key, *messageRecord) (ok, removed bool)) error {
	if _, err := m.require(); err != nil {
		return err
	}
	r := &m.received
	r.mu.Lock()
	var found, removed bool
	no := ErrNoMessage
	var rec messageRecord
	for k, x := range r.more {
		if !r.removals.going(k) && recordID(k) == entry {
			rec = x
			if found, removed = f(r, k, &rec); !found {
				no = r.whyNot(k)
			}
			break
		}
	}
	switch {
	case found && removed: // no handler is given it meanwhile
		r.removals.begin(rec.Key)
	case found:
		r.note(rec)
	}
	var is change
	if found && !removed {
		is = r.changed(rec.Key)
	}
	if !found && m.can.book != nil && !r.term.read {
		no = ErrMessagesUnread
	}
	r.mu.Unlock()
	if !found {
		return fmt.Errorf("stability: %s: %w", op, no)
	}
	var err error
	if !removed {
		err = r.write(ctx, is, true)
	} else { // not before the store knows it
		err = r.ahead(ctx, rec.Key, nil)
		r.mu.Lock()
		r.removals.end(rec.Key)
		if err == nil {
			r.book.Remove(rec.Key)
			delete(r.more, rec.Key)
			r.owe(rec.Key) // to whoever has read it before it was gone
		}
		r.mu.Unlock()
	}
	if err != nil {
		return fmt.Errorf("stability: %s: %w", op, err)
	}
	r.wake.ring()
	r.tell()
	return nil
}
