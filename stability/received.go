package stability

import (
	"context"
	"strings"
	"sync"
	"time"

	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/stability/internal/book"
)

// received is the book of what this instance receives. It stands in memory and in the
// store; owed.go says what happens where the two differ. It also knows which
// messages are being handled, by whichever client of the Manager: a handler may
// outlive its connection, its client and its term, and the service delivers the
// message again meanwhile. The second one is left alone then, unacknowledged,
// until the first has returned.
type received struct {
	m    *Manager
	wake doorbell // look again at what is due

	mu     sync.Mutex // guards what follows; never held across I/O or a callback
	book   book.Book
	more   map[book.Key]messageRecord // of entries that the store has
	noted  uint64                     // how often one was put there
	inHand map[book.Key]*delivery
	lately []foundMessage // missed, and here since, oldest first
	own    ownNames       // of the account; empty before it is known

	term     presentTerm
	care     care
	backlog  backlog
	owing    owing
	removals removals
}

// presentTerm is the term that the book is about, or the time behind one. The book's mutex
// guards it.
type presentTerm struct {
	number int  // how many have ended before
	read   bool // what the store has was read in it
}

// leave notes that the term is over.
func (t *presentTerm) leave() { *t = presentTerm{number: t.number + 1} }

// load notes that what the store has was read. It reports whether it was before: another
// device is read in one term.
func (t *presentTerm) load() (before bool) {
	before, t.read = t.read, true
	return before
}

func keyOf(message *waBinary.Node) book.Key {
	a := message.AttrGetter()
	return book.Key{
		ID: a.OptionalString("id"), Chat: a.OptionalJIDOrEmpty("from").String(), Sender: a.OptionalJIDOrEmpty("participant").String(),
	}
}

// infoOf is what a stanza says of its message.
func infoOf(message *waBinary.Node, own *store.Device) (info types.MessageInfo) {
	a := message.AttrGetter()
	info.ID = a.OptionalString("id")
	info.Chat = a.OptionalJIDOrEmpty("from")
	info.Sender = a.OptionalJIDOrEmpty("participant")
	if info.Sender.IsEmpty() {
		info.Sender = info.Chat
	}
	if id := own.GetJID(); info.Sender.User == id.User || info.Sender.User == own.GetLID().User {
		info.IsFromMe = true
		if to := a.OptionalJIDOrEmpty("recipient"); !to.IsEmpty() {
			info.Chat = to
		}
	}
	info.IsGroup = info.Chat.Server == types.GroupServer
	info.Timestamp = time.Unix(int64(a.OptionalInt("t")), 0)
	return info
}

// arrived is told of each message in the goroutine that reads.
func (r *received) arrived(k book.Key) {
	if k.ID == "" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.book.Arrived(k, time.Now())
}

// begin notes that a message is being handled until end is called; false when
// it is already.
func (r *received) begin(ctx context.Context, a *attachment, message *waBinary.Node) (d *delivery, end func(), ok bool) {
	d = &delivery{a: a, key: keyOf(message), node: message, info: infoOf(message, a.device)}
	d.course.Origin = originOf(message, a.client.SynchronousAck)
	d.named, d.key = d.key, r.known(ctx, d)
	if !r.admit(ctx, d) {
		d.stillDelivered()
		return nil, nil, false
	}
	return d, func() { r.ended(d) }, true
}

// known is the name under which the message of d is known here, if its sender has two.
// A message that was missed under the number may come again from the LID, or the other
// way round.
func (r *received) known(ctx context.Context, d *delivery) book.Key {
	other := func(k book.Key) bool {
		return k.ID == d.key.ID && k.Copy == "" && (k.Chat == d.key.Chat) == (d.key.Sender != "") && (k.Sender == "") == (d.key.Sender == "") && k != d.key
	}
	find := func(is func(book.Key) bool) (k book.Key, ok bool) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if _, ok := r.more[d.key]; ok {
			return d.key, false
		}
		for k := range r.more {
			if other(k) && is(k) {
				return k, true
			}
		}
		return d.key, false
	}
	if _, maybe := find(func(book.Key) bool { return true }); !maybe { // as nearly always
		return d.key
	}
	users := d.users(ctx)
	k, ok := find(users.sent)
	if ok {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.book.Is(d.key, k, time.Now())
	}
	return k
}

// admit takes a message in hand, and writes it down first where that is called
// for. False leaves it where it is.
func (r *received) admit(ctx context.Context, d *delivery) bool {
	rec, write, alone := r.accused(d)
	if alone || !r.take(d) {
		return false
	}
	if write && r.accuse(ctx, rec) != nil {
		d.course.Leave()
		r.ended(d)
		return false
	}
	return true
}

func (r *received) take(d *delivery) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, busy := r.inHand[d.key]; busy {
		if !d.ours() {
			r.book.Back(d.key)
		}
		return false
	}
	if r.removals.going(d.key) {
		return false
	}
	if e, ok := r.book.Find(d.key); d.ours() && (!ok || e.State != book.Kept || len(r.more[d.key].Contents) == 0) {
		return false // it was removed meanwhile, or set aside
	}
	if r.inHand == nil {
		r.inHand = make(map[book.Key]*delivery)
	}
	d.began = time.Now()
	d.before, d.own, d.term = r.more[d.key], r.own, r.term.number
	r.inHand[d.key] = d
	if d.ours() {
		r.book.Tried(d.key, d.began)
	} else {
		r.book.Begun(d.key, d.began)
	}
	return true
}

// maxBare bounds the messages that are set aside without content.
const maxBare = 1000

// dropSurplus forgets the oldest of too many messages without content.
func (r *received) dropSurplus() {
	r.mu.Lock()
	var removed []change
	for _, k := range r.book.Surplus(book.SetAside, maxBare, func(k book.Key) bool { return len(r.more[k].Contents) == 0 }) {
		r.remove(k)
		removed = append(removed, r.changed(k))
	}
	r.mu.Unlock()
	r.writeAll(removed)
}

// missTooMany gives the oldest of too many messages up that nobody could decrypt.
func (r *received) missTooMany() {
	r.mu.Lock()
	var many []book.Entry
	for _, k := range r.book.Surplus(book.Undecrypted, maxBare, func(book.Key) bool { return true }) {
		e, _ := r.book.Find(k)
		many = append(many, e)
	}
	r.mu.Unlock()
	for _, e := range many {
		r.aside(e, "it cannot be decrypted, and the phone is not asked any more, since too many others cannot be either")
	}
}

// tell wakes who watches the Manager, such as the incident loop.
func (r *received) tell() {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	r.m.broadcastLocked()
}

// leave ends a term.
func (r *received) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.term.leave()
	r.book.Leave()
	r.more, r.backlog = nil, backlog{}
	r.owing.inherit()
}

// hungUp is told that a connection is over.
func (r *received) hungUp() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.book.HungUp()
	r.backlog.hungUp()
}

// facts says what the guard is to know of messages that nobody took.
func (r *received) facts(f *guard.Facts) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f.BookUnread = r.m.can.book != nil && !r.term.read
	for _, e := range r.book.Entries() {
		switch {
		case (e.State == book.SetAside || e.State == book.LeftAlone) && !e.Hidden:
			f.SetAsideCount++
			if f.SetAsideSince.IsZero() || e.Since.Before(f.SetAsideSince) {
				f.SetAsideSince = e.Since
			}
		case e.Fails():
			f.WaitingCount++
			if f.WaitingSince.IsZero() || e.Row().Before(f.WaitingSince) {
				f.WaitingSince = e.Row()
			}
		default:
			continue
		}
		f.MessagesText, _, _ = strings.Cut(e.Why, ":") // what a handler panicked with may hold anything
	}
}

func (r *received) poisonous(k book.Key) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.book.Poisonous(k, time.Now())
}

// setAside keeps a message with its content, out of the way of the others.
func (r *received) setAside(rec messageRecord) error {
	r.mu.Lock()
	e, ok := r.book.Find(rec.Key)
	before := r.more[rec.Key]
	r.mu.Unlock()
	rec.Unread = before.unread()
	if ok {
		rec.First, rec.Anew, rec.Tries, rec.Worse = e.First, e.Anew, e.Tries, e.Worse
	}
	if err := r.ahead(context.Background(), rec.Key, &rec); err != nil {
		return err
	}
	r.mu.Lock()
	r.book.Aside(rec.Key, rec.Why, rec.Since)
	r.note(rec)
	r.mu.Unlock()
	r.m.cfg.logger.Error("a received message was set aside: the program's handlers did not take it", "id", rec.Key.ID, "tries", rec.Tries)
	return nil
}
