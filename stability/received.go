package stability

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/stability/internal/book"
	"github.com/wastability/wastability/stability/internal/course"
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

// messageRecord is an entry of the book as it stands in the store.
type messageRecord struct {
	book.Entry
	Info     types.MessageInfo
	Contents [][]byte `json:",omitempty"` // what is to be handed over, as whatsmeow decrypted it; of a refused message what the service has too
	Deaths   int      `json:",omitempty"` // how often it was begun and did not end
	Begun    bool     `json:",omitempty"` // it is being handled, or the process died
	Build    string   `json:",omitempty"` // of that process
	Builds   []string `json:",omitempty"` // of the processes before that began it, newest last
	Offers   int      `json:",omitempty"` // how often it was left alone and offered once more
	OfPhone  bool     `json:",omitempty"` // the phone has sent the content, perhaps in another form than its sender
	Of       ownNames // the account that received it; empty in a row of an earlier version

	Unread bool        `json:",omitempty"` // it could not be decrypted at first
	Found  []foundNote `json:",omitempty"` // see foundMessage
	Note   bool        `json:",omitempty"` // it is a noteRecord

	rev uint64 // another one with each change
}

// noteRecord is the record of a message that the book is done with.
type noteRecord struct {
	Note  bool // always: it is no entry
	Key   book.Key
	Found []foundNote
}

func recordID(k book.Key) string {
	name := k.ID + "\x00" + k.Chat + "\x00" + k.Sender
	if k.Copy != "" {
		name += "\x00" + k.Copy
	}
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:12])
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

// ended notes what became of a message.
func (r *received) ended(d *delivery) {
	d.untold()
	o, why := d.outcome()
	if (o == book.Odd || o == book.Lost) && d.course.Buffered() && !r.past(d) { // else the store is another term's
		d.finished() // acknowledged, and whatsmeow does not come back for what it could not read
	}
	hung := d.ours() && time.Since(d.began) >= hangsAfter
	d.mu.Lock()
	info, contents, hidden, untried := d.info, d.content.kept, d.course.Hidden(), d.course.Untried()
	content := d.content.sent
	d.mu.Unlock()
	now := time.Now()
	var surplus []book.Key
	var took book.Entry // as the row has it, where the message is done with
	r.mu.Lock()
	theirs := d.own.other(r.own) // another account was paired meanwhile
	if r.inHand[d.key] == d {
		delete(r.inHand, d.key)
	}
	if o = r.outlived(d, o); o == book.Left && d.term != r.term.number {
		r.mu.Unlock()
		r.wake.ring()
		r.tell()
		return
	}
	e, write, gone := r.book.Ended(d.key, o, why, now)
	rec := r.more[d.key]
	if rec.Begun { // it did end, and its row says that it did not
		rec.Begun, rec.Deaths = false, max(0, rec.Deaths-1)
		if o != book.Left { // a handler was given it
			rec.Deaths = 0
		}
		if !write && !gone {
			if e, write = r.book.Find(d.key); !write || e.State == book.AtService {
				gone = rec.Deaths == 0
				e.Key, e.State = d.key, rec.State
			}
			hidden = hidden || e.Hidden // it is what it was
		}
		write = true
	}
	switch {
	case gone:
		if rec.unread() { // its sender has sent it again
			for _, sum := range rec.sums(content) {
				surplus = append(surplus, r.found(d.key, foundNote{Sum: sum, At: now}, now)...)
			}
		}
		if rec.Key == (book.Key{}) { // its term is over
			rec.Entry = d.before.Entry
		}
		took = rec.Entry
		delete(r.more, d.key)
	case write:
		if untried { // it is due at once
			if due, ok := r.book.Again(d.key, true, now); ok {
				e = due
			}
		}
		rec.Unread = rec.unread()
		if rec.Of == (ownNames{}) {
			rec.Of = d.own
		}
		rec.Entry, rec.Info = e, info
		rec.Hidden = hidden
		r.book.Hide(d.key, hidden)
		if len(contents) > 0 {
			rec.Contents, rec.OfPhone = contents, rec.OfPhone && d.ours()
		}
		r.note(rec)
	}
	var is change
	if write {
		is = r.changed(d.key)
		if o == book.Handled || o == book.Repeat {
			r.owing.took(took)
		}
	}
	r.mu.Unlock()
	r.forget(surplus)
	if write {
		// A kept or undecrypted message is in the store by now, where it can be:
		// this tells it more. A refused message is at the service.
		// Nothing else is written when a message is handled that was kept here, so the next one
		// waits for the note of it: an outage would forget the notes of all of them.
		err := r.write(context.Background(), is, o == book.Saved || gone && d.ours())
		if declined := why == course.WhyRefused || why == course.WhyUnheard; err == nil && o == book.Saved && declined && !d.ours() {
			d.finished() // whatsmeow has acknowledged it, and does not come back for it
		}
	}
	if theirs && write && !gone {
		r.aside(e, whyAnotherAccount)
	}
	switch o {
	case book.Odd:
		r.dropSurplus()
	case book.Lost:
		r.missTooMany()
	}
	if write || hung || o == book.Left && !d.ours() { // else nothing that is due has changed: most messages are handled at once
		r.wake.ring()
		r.tell()
	}
}

// outlived is what became of a message whose handlers have returned behind the end of
// their term. A message that they did not take was not acknowledged, so it is not theirs
// any more: the store says what is to be done with it, or the service delivers it to the
// next holder. The caller holds mu.
func (r *received) outlived(d *delivery, o book.Outcome) book.Outcome {
	if d.term == r.term.number || o == book.Handled || o == book.Repeat {
		return o
	}
	e, _ := r.book.Find(d.key)
	rec, known := r.more[d.key]
	known = known && r.term.read
	back := !known && e.Back() // and was left at the service
	if back && e.Here() {
		return book.Declined
	}
	r.book.Remove(d.key)
	switch {
	case known:
		r.book.Load([]book.Entry{rec.Entry})
	case back: // the next login brings it
		r.book.Load([]book.Entry{{Key: d.key, State: book.AtService, First: e.First, Since: time.Now()}})
	default:
		delete(r.more, d.key)
	}
	return book.Left
}

// past reports whether the term in which a message was taken in hand is over.
func (r *received) past(d *delivery) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return d.term != r.term.number
}

// maxBare bounds the messages that are set aside without content.
const maxBare = 1000

// dropSurplus forgets the oldest of too many messages without content.
func (r *received) dropSurplus() {
	r.mu.Lock()
	var gone []change
	for _, k := range r.book.Surplus(book.SetAside, maxBare, func(k book.Key) bool { return len(r.more[k].Contents) == 0 }) {
		r.remove(k)
		gone = append(gone, r.changed(k))
	}
	r.mu.Unlock()
	r.writeAll(gone)
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

// note remembers a record. The caller holds mu.
func (r *received) note(rec messageRecord) {
	if r.more == nil {
		r.more = make(map[book.Key]messageRecord)
	}
	if rec.Of == (ownNames{}) {
		rec.Of = r.own
	}
	r.noted++
	rec.rev = r.noted
	r.more[rec.Key] = rec
}

// change is how the row of a message is to be in the store. A method that changes what is
// known here takes a change, with mu held, and writes it behind that.
type change struct {
	key  book.Key
	row  *messageRecord // nil where there is none
	rev  uint64
	term int
}

// changed is how the row of a message is to be now. Until that is written it is owed. The
// caller holds mu.
func (r *received) changed(k book.Key) change {
	r.owe(k)
	return r.isNow(k)
}

// isNow is changed, where nothing has changed.
func (r *received) isNow(k book.Key) change {
	c := change{key: k, row: r.rowOf(k), term: r.term.number}
	if c.row != nil {
		c.rev = c.row.rev
	}
	return c
}

// write writes a change. Several may be on their way, and the last one that is written
// may be an older one than the last. So it is looked behind each whether it is still
// true, and what is true by now is written then. A change of a term that is over is not
// written. One that could not be written is owed: see owed.go.
func (r *received) write(ctx context.Context, c change, durable bool) error {
	for {
		r.mu.Lock()
		over := c.term != r.term.number
		r.mu.Unlock()
		if over {
			return fmt.Errorf("stability: write down a message of a term that is over: %w", context.Canceled)
		}
		err := r.store(ctx, c.key, c.row, durable)
		r.mu.Lock()
		now := r.isNow(c.key)
		over = now.term != c.term || !r.term.read // what is known is about another term
		if now.term == c.term && (err != nil || now.rev == c.rev) {
			r.paid(c.key, durable, err)
		}
		r.mu.Unlock()
		if err != nil || over || now.rev == c.rev {
			return err
		}
		c = now
	}
}

func (r *received) writeAll(all []change) {
	for _, c := range all {
		_ = r.write(context.Background(), c, false)
	}
}

// keep writes a record before the message is acknowledged.
func (r *received) keep(ctx context.Context, rec messageRecord) error {
	r.mu.Lock()
	if old, ok := r.book.Find(rec.Key); ok {
		rec.First, rec.Anew, rec.Tries, rec.Worse = old.First, old.Anew, old.Tries+1, old.Worse
	}
	before := r.more[rec.Key]
	rec.Unread = before.unread()
	r.note(rec)
	is := r.changed(rec.Key)
	r.mu.Unlock()
	return r.write(ctx, is, true)
}

// settled removes the entry of a message that was refused before, and that is
// about to be acknowledged: a crash behind the acknowledgement would else leave
// an entry that nobody ever comes back for. The same holds for one that could not be
// read at first: the phone would be asked for it. content is what the handlers took;
// nil where that is not known.
func (r *received) settled(ctx context.Context, k book.Key, content *waE2E.Message) error {
	now := time.Now()
	var surplus []book.Key
	r.mu.Lock()
	rec, ok := r.more[k]
	unread := ok && rec.unread() && content != nil && len(rec.Contents) == 0
	if unread {
		surplus = r.found(k, foundNote{Sum: sumOf(content), At: now}, now)
	}
	r.mu.Unlock()
	r.forget(surplus)
	if !ok || rec.State != book.Refused && !unread {
		return nil
	}
	return r.ahead(ctx, k, nil)
}

// store writes a record, or removes it. A store that keeps no book is none.
func (r *received) store(ctx context.Context, k book.Key, rec *messageRecord, durable bool) error {
	s := r.m.can.book
	if s == nil {
		return nil
	}
	now := time.Now()
	r.mu.Lock()
	notes, own := r.notes(k, now), r.own
	going := r.removals.going(k)
	r.mu.Unlock()
	if going && rec != nil {
		return nil // it is being removed for good
	}
	var row any
	switch {
	case rec != nil:
		noted := *rec
		for _, n := range rec.Found { // one that is not known yet goes behind the others
			f := foundMessage{k, n}
			if now.Sub(n.At) < resentFor && !slices.ContainsFunc(notes, func(o foundNote) bool { return f.is(k, o) }) {
				notes = append(notes, n)
			}
		}
		notes = notes[max(0, len(notes)-mostNotes):]
		noted.Found = notes
		if noted.Of == (ownNames{}) {
			noted.Of = own
		}
		row = noted
	case len(notes) > 0: // instead of its removal, which would be a write too
		row = noteRecord{true, k, notes}
	}
	var value []byte
	var err error
	if row != nil {
		if value, err = json.Marshal(row); err != nil {
			return fmt.Errorf("stability: write down a message: %w", err)
		}
	}
	err = s.PutMessageEntry(ctx, recordID(k), value, durable)
	if err != nil && !errors.Is(err, context.Canceled) {
		r.m.cfg.logger.Error("the book of messages could not be written", "error", err)
	}
	return err
}

// load begins a term, or goes on with a new device, with what the store has. own is
// the account that is paired; empty where none is.
func (r *received) load(ctx context.Context, epoch int64, own ownNames) error {
	s := r.m.can.book
	if s == nil {
		return nil
	}
	defer r.loading()()
	rows, err := s.MessageEntries(ctx)
	if err != nil {
		return fmt.Errorf("read the book of messages: %w", err)
	}
	r.mu.Lock()
	r.own = own
	r.mu.Unlock()
	clean := !r.mark(ctx, epoch, rows[termMark])
	delete(rows, termMark)
	var records, judged []messageRecord
	began := make(map[book.Key]bool) // and its row does not say that it ended
	for id, raw := range rows {
		var was messageRecord
		if err := json.Unmarshal(raw, &was); err != nil || recordID(was.Key) != id {
			r.m.cfg.logger.Warn("an entry of the book of messages is not understood, and left alone", "entry", id)
			continue
		}
		rec := r.survivor(was, clean)
		records = append(records, rec)
		began[rec.Key] = rec.Begun != was.Begun
	}
	r.mu.Lock()
	same := r.term.load() // so memory is newer than the rows
	r.remember(records)
	for _, rec := range records {
		// A note of an earlier version has nothing else.
		noteAlone := rec.Note || len(rec.Found) > 0 && rec.State == "" && rec.Build == ""
		if _, known := r.more[rec.Key]; !known && !noteAlone && !r.owing.newer(rec.Entry, same) { // a handler may still have it
			r.note(rec)
			r.book.Load([]book.Entry{rec.Entry})
			if began[rec.Key] && (rec.State == book.LeftAlone || rec.State == book.SetAside) {
				judged = append(judged, rec) // the next term may find a clean end, and has to know
			}
		}
	}
	owed := r.debts(same)
	r.mu.Unlock()
	r.writeAll(owed)
	for _, rec := range judged {
		_ = r.store(ctx, rec.Key, &rec, false)
	}
	if own != (ownNames{}) {
		r.belongs(own)
	}
	r.wake.ring()
	return nil
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

// of is the delivery that evt belongs to; nil for one that comes in no stanza
// of its own.
func (r *received) of(info types.MessageInfo, evt *events.Message) (found *delivery) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, d := range r.inHand {
		switch {
		case evt != nil && d.isAbout(evt):
			return d
		case k.Copy == "" && k.ID == info.ID && (senderOf(k) == info.Sender.User || senderOf(d.named) == info.Sender.User):
			if found == nil || d.isIn(info) {
				found = d
			}
		}
	}
	return found
}

// isIn reports whether the message of d is one in the chat of info: a sender may use an id
// in two of them.
func (d *delivery) isIn(info types.MessageInfo) bool {
	if !info.IsGroup {
		return d.named.Sender == ""
	}
	return d.named.Chat == info.Chat.String()
}

func (d *delivery) isAbout(evt *events.Message) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.content.event == evt
}

// senderOf is the user who has sent a message.
func senderOf(k book.Key) string {
	s := k.Sender
	if s == "" {
		s = k.Chat
	}
	j, _ := types.ParseJID(s)
	return j.User
}

// handling are the messages of that id that are in hand: one, unless two chats
// have the same id.
func (r *received) handling(id string) (all []*delivery) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, d := range r.inHand {
		if k.ID == id && k.Copy == "" {
			all = append(all, d)
		}
	}
	return all
}

// acknowledged is told that whatsmeow acknowledges the message of that id.
func (r *received) acknowledged(id string) {
	for _, d := range r.handling(id) {
		d.mu.Lock()
		d.course.Acknowledged()
		d.mu.Unlock()
	}
}

// refused is told that a handler returned false for the message of that id. One that
// was added before the client was attached keeps it from the Manager's handler.
func (r *received) refused(id string) {
	for _, d := range r.handling(id) {
		d.mu.Lock()
		first := d.course.RefusedNow()
		d.mu.Unlock()
		if first {
			d.refusedFirst()
		}
	}
}

// undecryptable is told that the message of that id is about to be acknowledged
// although no handler was given it. A failure in decryption itself was noted
// by then; this is for those that did not come that far.
func (r *received) undecryptable(id string, err error) {
	if errors.Is(err, context.Canceled) {
		return // it stays at the service
	}
	for _, d := range r.handling(id) {
		d.mu.Lock()
		noted := d.course.Explained()
		if !noted {
			kind, _ := d.withheld()
			why, hidden := whyWithheld(kind)
			if err != nil {
				why, hidden = "it cannot be decrypted: "+firstLine(err.Error()), false
			}
			d.course.Unreadable(why, hidden)
		}
		rec := d.record(book.Undecrypted, d.course.WhyUnread())
		d.mu.Unlock()
		if !noted {
			_ = r.keepUndecrypted(context.Background(), d, rec) // where it fails, the connection ends before the acknowledgement
		}
	}
}

// panicked is told that a handler panicked.
func (a *attachment) panicked(evt, value any, stack string) {
	a.m.cfg.logger.Error("an event handler of the program panicked", "event", fmt.Sprintf("%T", evt), "panic", fmt.Sprint(value), "stack", stack)
	var d *delivery
	switch e := evt.(type) {
	case *events.Message:
		d = a.m.received.of(e.Info, e)
	case *events.FBMessage:
		d = a.m.received.of(e.Info, nil)
	}
	if d != nil {
		d.mu.Lock()
		d.course.Panicked(panickedWith(value))
		d.mu.Unlock()
	}
}
