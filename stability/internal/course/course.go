// Package course decides what becomes of one message.
//
// [Course] is what has happened to the message since it was taken in hand. It is
// told each thing as it happens. When the handlers have returned, one table
// (outcome.go) says what becomes of the message. All of it is pure: no mutex, no
// I/O, no clock, no message. Package stability holds those.
//
// # The part at work
//
// A message has several parts at times. whatsmeow gives one after the other to the
// handlers. It goes on to the next part unless a handler has refused the one before.
//
//	Untold ─▶ Withheld    it is kept from the handlers
//	   │  └─▶ Open ─▶ Threw   the handlers have it; one of them panicked at it
//	   └▶ Spoilt ─▶ Withheld, Open   a handler panicked at it before this library's heard of it
//	every one of them ─ it is finished, or the next part begins ─▶ Untold
//
// # The message
//
// Of all its parts, the worst that the handlers have done counts (verdict), the
// strongest reason to keep it from them (bar), and the worst that was found when
// it was to be decrypted (reading). Each of the three only rises.
package course

// Origin is where a message comes from, which says when it is acknowledged.
type Origin uint8

// The origins.
const (
	Encrypted  Origin = iota // acknowledged when its handlers have taken it
	Newsletter               // the same, but it is in no event buffer
	Early                    // a newsletter's that is acknowledged before its handlers are given it
	Store                    // kept here: the service has it no more
)

// Part is where the part at work stands.
type Part uint8

// The phases of a part.
const (
	Untold   Part = iota // this library's handler, the first of those that it sees, was not told of it
	Spoilt               // the same, and a handler before it panicked
	Withheld             // it is kept from the handlers
	Open                 // the handlers have it
	Threw                // the same, and one of them panicked
)

// Told reports whether this library's handler was told of the part.
func (p Part) Told() bool { return p >= Withheld }

// open reports whether the handlers have the part, or have had it last.
func (p Part) open() bool { return p == Open || p == Threw }

// verdict is what the handlers have done, the worst last.
type verdict uint8

const (
	silent   verdict = iota
	taken            // they took a part
	panicked         // one panicked
	refused          // one returned false
	unheard          // the program has none
	left             // they were not given a part that is at the service, and are given none behind it
)

// bar is why the handlers are not given the message, the strongest last.
type bar uint8

const (
	none     bar = iota
	again        // it was found before, and its sender has sent it once more
	aside        // it is set aside
	judged       // that was done now, at its first part that was refused: those behind it follow
	hopeless     // it is to be set aside with what is kept of it
)

// reading is what was found when it was to be decrypted, the worst last.
type reading uint8

const (
	readable   reading = iota
	oldCounter         // it was decrypted before
	repeated           // a part had been finished before
	unreadable         // it cannot be decrypted
)

// rescue is what is special about a message that was kept for a panic.
type rescue uint8

const (
	ordinary rescue = iota
	untried         // whatsmeow itself panicked, before a handler was given it
	unsaved         // it could not be kept, and is not acknowledged
)

// Course is what has happened to one message. The zero value is one that whatsmeow
// is about to decrypt. It has no mutex of its own.
type Course struct {
	Origin Origin // does not change

	part    Part
	verdict verdict
	bar     bar
	reading reading
	rescue  rescue

	buffered bool // the event buffer was asked for a part
	acked    bool // whatsmeow has acknowledged it, as far as is seen
	hidden   bool // nobody is to be told that it cannot be read

	panic   string // what was panicked with last
	unread  string // why it cannot be decrypted
	untaken string // of one from the store: why a handler did not take it
}

// Why a message was not taken.
const (
	WhyRefused = "a handler of the program returned false"
	WhyUnheard = "the program has no event handler at the moment"
	WhyPoison  = "the program's handlers did not take it, again and again, while they took others"

	whyNobody  = "there was no event handler for it"
	whyOld     = "an old counter: it was decrypted before, here or by an earlier copy of the session"
	whyUnread  = "it cannot be decrypted"
	whyUnknown = "whatsmeow gave it to no handler: its form is not known"
	notKept    = "; its content could not be kept"
)

// Begin notes that the event buffer is asked for a part. finished says that the part was
// finished before. It returns where the part before stood; Threw means that a handler
// panicked at it, and nothing has finished it.
func (c *Course) Begin(finished bool) Part {
	was := c.next()
	c.buffered = true
	if finished {
		c.reading = max(c.reading, repeated)
	}
	return was
}

// BeginStored notes that a part of a kept message is about to be handed over.
func (c *Course) BeginStored() {
	c.next()
	c.panic = ""
}

// next begins a part. whatsmeow goes on to it only behind one that was taken, or that a
// handler panicked at.
func (c *Course) next() Part {
	was := c.part
	if was == Open {
		c.verdict = max(c.verdict, taken)
	}
	c.part = Untold
	return was
}

// Tell notes that this library's handler was told of the part. It is withheld until Give.
// Tell returns where the part stood, or the one before, for a kind that is in no event
// buffer.
func (c *Course) Tell() Part {
	was := c.part
	c.part = Withheld
	return was
}

// Give notes that the handlers are given the part. It reports false where the part has to
// stay withheld, since one before it was left at the service.
func (c *Course) Give() bool {
	if c.verdict == left {
		return false
	}
	c.part = Open
	return true
}

// Leave notes that a part is left at the service.
func (c *Course) Leave() { c.verdict = left }

// Unheard notes that the program has no handler for a part.
func (c *Course) Unheard() { c.verdict = max(c.verdict, unheard) }

// Panicked notes that a handler panicked at the part.
func (c *Course) Panicked(why string) {
	c.panic, c.verdict = why, max(c.verdict, panicked)
	switch c.part {
	case Untold:
		c.part = Spoilt
	case Open:
		c.part = Threw
	}
}

// Refused notes that a handler returned false.
func (c *Course) Refused() { c.verdict = max(c.verdict, refused) }

// RefusedNow is Refused of what is with the handlers now. first says that a handler
// refused it before this library's was told of it.
func (c *Course) RefusedNow() (first bool) {
	first = !c.part.Told() && c.Origin != Store
	if first || c.part.open() {
		c.Refused()
	}
	return first
}

// Finish notes that whatsmeow is about to finish the part, since no handler has refused
// it. It returns where the part stood.
func (c *Course) Finish() Part {
	was := c.part
	if was == Open {
		c.Took()
	}
	c.part = Untold
	return was
}

// Took notes that a part was taken.
func (c *Course) Took() { c.verdict = max(c.verdict, taken) }

// Nobody notes that a part was finished, and no handler was given it.
func (c *Course) Nobody() {
	c.panic, c.verdict = whyNobody, max(c.verdict, panicked)
}

// Survived notes that whatsmeow itself panicked at the message.
func (c *Course) Survived(why string) {
	c.panic, c.verdict, c.rescue = why, max(c.verdict, panicked), max(c.rescue, untried)
}

// Unsaved notes that the message could not be kept.
func (c *Course) Unsaved() { c.rescue = unsaved }

// FoundBefore notes that the book is done with the message: its sender has sent it again.
func (c *Course) FoundBefore() { c.bar = max(c.bar, again) }

// SetAside notes that the message is set aside.
func (c *Course) SetAside() { c.bar = max(c.bar, aside) }

// Judge notes that the message was set aside now. The parts behind follow.
func (c *Course) Judge() { c.bar = max(c.bar, judged) }

// Condemn notes that the message is to be set aside with what is kept of it.
func (c *Course) Condemn() { c.bar = hopeless }

// OldCounter notes that a part was decrypted before.
func (c *Course) OldCounter() { c.reading = max(c.reading, oldCounter) }

// Unreadable notes that a part cannot be decrypted. Where why is empty, the reason that is
// known stays. hidden says that nobody is to be told.
func (c *Course) Unreadable(why string, hidden bool) {
	c.reading, c.hidden = unreadable, hidden
	switch {
	case why != "":
		c.unread = why
	case c.unread == "":
		c.unread = whyUnread
	}
}

// Acknowledged notes that whatsmeow has acknowledged the message.
func (c *Course) Acknowledged() { c.acked = true }

// Untaken reports whether the handlers did not take the part of a kept message that they
// were given. failed says that one returned false.
func (c *Course) Untaken(failed bool) bool {
	switch {
	case c.verdict == unheard:
		c.untaken = WhyUnheard
	case failed && c.verdict != left:
		c.untaken = WhyRefused
	case c.panic != "":
		c.untaken = c.panic
	case !c.part.Told():
		c.untaken = WhyUnheard
	}
	return c.verdict == left || failed || c.panic != "" || !c.part.Told()
}

// Unnoticed reports whether handlers did not take a newsletter's message before this
// library's was told of it. Nothing else tells of that.
func (c *Course) Unnoticed(s Sight) bool {
	newsletter := c.Origin == Newsletter || c.Origin == Early
	return newsletter && !c.part.Told() && c.verdict != left &&
		(c.Origin == Early || c.Threw() || c.unanswered(s) && s.Admits)
}

// unanswered reports whether a newsletter's message was not acknowledged: whatsmeow says
// in no other way that a handler returned false for it.
func (c *Course) unanswered(s Sight) bool {
	return c.Origin == Newsletter && !c.acked && s.Hears
}

// Threw reports whether a handler or whatsmeow has panicked at the message.
func (c *Course) Threw() bool { return c.panic != "" }

// Decided reports whether the handlers have had a say about the message, or need none.
func (c *Course) Decided() bool {
	return c.part.Told() || c.bar != none || c.verdict >= panicked
}

// Explained reports whether it is known why the handlers were given nothing, or they have it.
func (c *Course) Explained() bool {
	return c.reading == unreadable || c.part.open() || c.Origin == Store
}

// Left reports whether a part was left at the service.
func (c *Course) Left() bool { return c.verdict == left }

// Aside reports whether the message is set aside.
func (c *Course) Aside() bool { return c.bar >= aside }

// Judged reports whether that was done now, and the parts behind follow.
func (c *Course) Judged() bool { return c.bar == judged }

// Buffered reports whether the event buffer was asked for the message.
func (c *Course) Buffered() bool { return c.buffered }

// Untried reports whether no handler was given the message, since whatsmeow panicked at it.
func (c *Course) Untried() bool { return c.rescue == untried }

// Hidden reports whether nobody is to be told that the message cannot be read.
func (c *Course) Hidden() bool { return c.hidden }

// WhyKept says why the message is kept.
func (c *Course) WhyKept() string { return c.panic }

// WhyUnread says why the message cannot be read.
func (c *Course) WhyUnread() string { return c.unread }
