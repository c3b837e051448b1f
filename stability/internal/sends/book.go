package sends

import (
	"cmp"
	"hash/maphash"
	"slices"
	"strings"
	"time"
)

// NewChats is the code that refuses chats which are new to the account.
const NewChats = 463

// Policy holds the bounds of a Book. A zero field means its default.
type Policy struct {
	AnswerAfter  time.Duration // how long the answer to a send may take. 60 s
	Row          int           // refused or unanswered in a row that are mute. 5
	Recipients   int           // different ones among them. 3
	OthersWithin time.Duration // see the package's documentation. 1 h
	Max          int           // sends remembered. 10,000
}

func (p Policy) defaults() Policy {
	p.AnswerAfter = cmp.Or(p.AnswerAfter, time.Minute)
	p.Row = cmp.Or(p.Row, 5)
	p.Recipients = cmp.Or(p.Recipients, 3)
	p.OthersWithin = cmp.Or(p.OthersWithin, time.Hour)
	p.Max = cmp.Or(p.Max, 10_000)
	return p
}

// remembered is how long an unanswered send is remembered for a late answer.
const remembered = 10 * time.Minute

// maxCodes bounds the codes that are counted one by one; the others are counted
// as code 0.
const maxCodes = 32

// maxKnown bounds the recipients that are known to have been acknowledged.
const maxKnown = 1024

// Refusal counts the refusals with one code.
type Refusal struct {
	Code   int
	Count  uint64
	LastAt time.Time
}

// Book is the account of the sends of one process.
type Book struct {
	p    Policy
	seed maphash.Seed
	up   bool
	byID map[string]*send
	wait list // waiting, in the order in which they were sent
	late list // unanswered, in the order in which they became so

	tally tally
	begun time.Time           // of the present device; zero: it is the first one in this process
	known map[uint64]struct{} // recipients that were acknowledged once
	row   row
}

// tally counts the sends that ended, whatever the device.
type tally struct {
	acked, unanswered            uint64
	refused                      []Refusal
	lastAck, lastNone, lastError time.Time
	lastCode                     int
}

func (t *tally) acknowledge(now time.Time) { t.acked, t.lastAck = t.acked+1, now }

func (t *tally) giveUp(now time.Time) { t.unanswered, t.lastNone = t.unanswered+1, now }

// answer takes back a send that was given up.
func (t *tally) answer() { t.unanswered-- }

func (t *tally) refuse(code int, now time.Time) {
	t.lastError, t.lastCode = now, code
	i := t.find(code)
	if i < 0 && len(t.refused) >= maxCodes {
		code = 0
		i = t.find(0)
	}
	if i < 0 {
		i = len(t.refused)
		t.refused = append(t.refused, Refusal{Code: code})
	}
	t.refused[i].Count++
	t.refused[i].LastAt = now
}

func (t *tally) find(code int) int {
	return slices.IndexFunc(t.refused, func(r Refusal) bool { return r.Code == code })
}

// row is the present run of sends that were refused or not answered.
type row struct {
	n          int
	since      time.Time
	recipients []uint64 // Policy.Recipients of them at most
	code       int      // of the newest; 0 = unanswered
	mixed      bool     // not all ended with the same code
	only463    bool
	existing   bool // one of the recipients had been acknowledged before
}

// New returns an empty Book.
func New(p Policy) *Book {
	return &Book{p: p.defaults(), seed: maphash.MakeSeed(), byID: map[string]*send{}}
}

// Up notes that a connection is logged in.
func (b *Book) Up() { b.up = true }

// Down notes that the connection ended: what waits for an answer is unanswered.
func (b *Book) Down(now time.Time) {
	b.up = false
	for s := b.wait.first; s != nil; s = b.wait.first {
		b.giveUp(s, now, false)
	}
}

// NewDevice notes that the account has another device than before, or none: what
// became of the earlier one's sends says nothing of its own. The totals stay.
func (b *Book) NewDevice(now time.Time) {
	b.row, b.known, b.begun = row{}, nil, now
}

// Sent notes that a message goes out. The same id once more is the same
// message, sent again by the host.
func (b *Book) Sent(id, to string, now time.Time) {
	s := b.byID[id]
	switch {
	case s == nil:
		s = &send{id: strings.Clone(id)} // of a stanza as text, maybe a long one
		b.byID[s.id] = s
	case s.late:
		b.late.remove(s)
	default:
		b.wait.remove(s)
	}
	s.to, s.at, s.late, s.up = b.hash(to), now, false, b.up
	b.wait.add(s)
	for b.wait.n+b.late.n > b.p.Max {
		if b.late.n == 0 {
			b.giveUp(b.wait.first, now, false)
		}
		b.forget(b.late.first)
	}
}

// SentAt is when the message with this id went out; false when it is not
// remembered.
func (b *Book) SentAt(id string) (at time.Time, ok bool) {
	if s := b.byID[id]; s != nil {
		return s.at, true
	}
	return time.Time{}, false
}

// Answered notes the answer to a send: code is the error, 0 for none. It
// reports whether it belongs to a send that is remembered.
func (b *Book) Answered(id string, code int, now time.Time) bool {
	s := b.byID[id]
	if s == nil {
		return false
	}
	if s.late {
		b.tally.answer()
	}
	b.forget(s)
	if code == 0 {
		b.tally.acknowledge(now)
		b.row = row{}
		if b.known == nil {
			b.known = map[uint64]struct{}{}
		}
		if len(b.known) < maxKnown {
			b.known[s.to] = struct{}{}
		}
		return true
	}
	b.tally.refuse(code, now)
	b.failed(s, code)
	return true
}

// Expire gives up what has waited for too long. heard is when anything came
// from the server last. It returns when to call it again; zero: not before
// another send.
func (b *Book) Expire(now, heard time.Time) (again time.Time) {
	for s := b.late.first; s != nil && now.Sub(s.givenUp) >= remembered; s = b.late.first {
		b.forget(s)
	}
	for s := b.wait.first; s != nil; s = b.wait.first {
		if due := s.at.Add(b.p.AnswerAfter); due.After(now) {
			return due
		}
		// The server had the second half of the time to show that it is there.
		b.giveUp(s, now, heard.Sub(s.at) >= b.p.AnswerAfter/2)
	}
	return time.Time{}
}

// giveUp makes a waiting send an unanswered one.
func (b *Book) giveUp(s *send, now time.Time, counts bool) {
	b.wait.remove(s)
	s.late, s.givenUp = true, now
	b.late.add(s)
	b.tally.giveUp(now)
	if counts {
		b.failed(s, 0)
	}
}

func (b *Book) forget(s *send) {
	if s.late {
		b.late.remove(s)
	} else {
		b.wait.remove(s)
	}
	delete(b.byID, s.id)
}

// failed lengthens the row.
func (b *Book) failed(s *send, code int) {
	if code == 0 && !s.up {
		return
	}
	r := &b.row
	if r.n == 0 {
		r.since, r.only463 = s.at, true
	}
	r.mixed = r.n > 0 && (r.mixed || r.code != code)
	r.n++
	r.code = code
	r.only463 = r.only463 && code == NewChats
	if _, known := b.known[s.to]; known {
		r.existing = true
	}
	if len(r.recipients) < b.p.Recipients && !slices.Contains(r.recipients, s.to) {
		r.recipients = append(r.recipients, s.to)
	}
}

func (b *Book) hash(to string) uint64 { return maphash.String(b.seed, to) }

// View is what a Book says at one moment.
type View struct {
	Acknowledged, Unanswered        uint64
	Refused                         []Refusal // in ascending order of their codes
	Waiting                         int
	WaitingSince                    time.Time
	LastAcknowledgedAt              time.Time
	LastUnansweredAt, LastRefusedAt time.Time
	LastRefusedCode                 int
	InARow                          int       // refused or unanswered since the last that was acknowledged
	RowCode                         int       // of the newest of them; 0 = unanswered
	RowMixed                        bool      // not all of them ended alike
	RowSince                        time.Time // when the first of them was sent
	MuteSince                       time.Time // RowSince while the connection is mute
	NewChatsRefusedAt               time.Time // new chats are refused while others are acknowledged
	OnlyNewChats                    bool      // nothing but code 463 in the row
}

// View does not change the Book.
func (b *Book) View(now time.Time) View {
	t := &b.tally
	v := View{
		Acknowledged: t.acked, Unanswered: t.unanswered, Refused: slices.Clone(t.refused), Waiting: b.wait.n,
		LastAcknowledgedAt: t.lastAck, LastUnansweredAt: t.lastNone, LastRefusedAt: t.lastError, LastRefusedCode: t.lastCode,
		InARow: b.row.n, RowCode: b.row.code, RowMixed: b.row.mixed, RowSince: b.row.since, OnlyNewChats: b.row.n > 0 && b.row.only463,
	}
	slices.SortFunc(v.Refused, func(a, c Refusal) int { return a.Code - c.Code })
	if s := b.wait.first; s != nil {
		v.WaitingSince = s.at
	}
	others := b.others(now)
	if b.mute(others) {
		v.MuteSince = b.row.since
	}
	for _, r := range t.refused {
		if r.Code == NewChats && r.LastAt.After(b.begun) && others && v.MuteSince.IsZero() && now.Sub(r.LastAt) < b.p.OthersWithin {
			v.NewChatsRefusedAt = r.LastAt
		}
	}
	return v
}

// Mute reports since when the connection is mute, and the code of the newest
// failure; zero while it is not.
func (b *Book) Mute(now time.Time) (since time.Time, code int) {
	if !b.mute(b.others(now)) {
		return time.Time{}, 0
	}
	return b.row.since, b.row.code
}

// others reports whether a send was acknowledged lately.
func (b *Book) others(now time.Time) bool {
	return b.tally.lastAck.After(b.begun) && now.Sub(b.tally.lastAck) < b.p.OthersWithin
}

func (b *Book) mute(others bool) bool {
	r := &b.row
	return r.n >= b.p.Row && len(r.recipients) >= b.p.Recipients && (!r.only463 || r.existing || !others)
}

// send is one message that is remembered.
type send struct {
	id         string
	to         uint64
	at         time.Time
	givenUp    time.Time
	up         bool // it went out on a connection that was logged in
	late       bool // unanswered
	prev, next *send
}

// list is a linked list: the first is the oldest.
type list struct {
	first, last *send
	n           int
}

func (l *list) add(s *send) {
	s.prev, s.next = l.last, nil
	if l.last == nil {
		l.first = s
	} else {
		l.last.next = s
	}
	l.last = s
	l.n++
}

func (l *list) remove(s *send) {
	if s.prev == nil {
		l.first = s.next
	} else {
		s.prev.next = s.next
	}
	if s.next == nil {
		l.last = s.prev
	} else {
		s.next.prev = s.prev
	}
	s.prev, s.next = nil, nil
	l.n--
}
