package stability

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/stability/internal/book"
)

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
