package course

import (
	"slices"

	"github.com/wastability/wastability/stability/internal/book"
)

// Sight is what package stability sees when the handlers have returned.
type Sight struct {
	Admits  bool // the connection is up, so what is not acknowledged was not taken
	Hears   bool // acknowledgements are seen
	OfPhone bool // the account's phone tells it its devices: it is acknowledged whatever the handlers say
	Content bool // something is kept of it
}

// Keep is what is to be kept of a message before its outcome is asked for.
type Keep uint8

// What is to be kept.
const (
	AsIs     Keep = iota // what is kept by now
	Parts                // all parts that were handed over and are not finished, instead of that
	OpenPart             // the part at work besides: there is no event buffer for its kind
)

// rule is a row of the table.
type rule struct {
	name string
	when condition
	is   book.Outcome
	why  func(*Course) string
	keep Keep
}

// rules are all that can become of a message. The first that holds counts.
var rules = []rule{
	{"a part is left at the service", said(left), book.Left, nobodyAsks, AsIs},

	{"kept, and refused too often", both(kept, barred(hopeless)), book.Poison, always(WhyPoison), AsIs},
	{"kept, and a part stays", both(kept, content), book.Saved, (*Course).whyUntaken, AsIs},
	{"kept, and taken", kept, book.Handled, nobodyAsks, AsIs},

	{"dealt with before", barred(again), book.Repeat, nobodyAsks, AsIs},

	{"unheard and acknowledged", both(said(unheard), (*Course).acknowledged), book.Saved, always(WhyUnheard), Parts},
	{"unheard", said(unheard), book.Declined, always(WhyUnheard), Parts},
	{"refused and acknowledged", both(said(refused), (*Course).acknowledged), book.Saved, always(WhyRefused), Parts},
	{"refused", said(refused), book.Declined, always(WhyRefused), Parts},

	{"panicked, and there is no content", both(said(panicked), not(content)), book.Odd, (*Course).whyLost, OpenPart},
	{"panicked, and could not be kept", both(said(panicked), lost), book.Declined, (*Course).WhyKept, OpenPart},
	{"panicked", said(panicked), book.Saved, (*Course).WhyKept, OpenPart},

	{"unreadable", found(unreadable), book.Lost, (*Course).WhyUnread, AsIs},

	{"unanswered behind the end", both((*Course).unanswered, not(admits)), book.Left, nobodyAsks, AsIs},
	{"unanswered", (*Course).unanswered, book.Declined, always(WhyRefused), Parts},
	{"not finished", unfinished, book.Declined, always(WhyRefused), Parts},

	{"taken", took, book.Handled, nobodyAsks, AsIs},
	{"not begun before the end", not(admits), book.Left, nobodyAsks, AsIs},
	{"finished before", found(repeated), book.Repeat, nobodyAsks, AsIs},
	{"an old counter", found(oldCounter), book.Odd, always(whyOld), AsIs},
	{"unknown", func(*Course, Sight) bool { return true }, book.Odd, always(whyUnknown), AsIs},
}

// condition is when a rule holds.
type condition func(*Course, Sight) bool

func said(v verdict) condition { return func(c *Course, _ Sight) bool { return c.verdict == v } }

func barred(b bar) condition { return func(c *Course, _ Sight) bool { return c.bar >= b } }

func found(r reading) condition { return func(c *Course, _ Sight) bool { return c.reading == r } }

func kept(c *Course, _ Sight) bool { return c.Origin == Store }

func lost(c *Course, _ Sight) bool { return c.rescue == unsaved }

// unfinished: whatsmeow finishes what the handlers have taken.
func unfinished(c *Course, _ Sight) bool { return c.part.open() && c.buffered }

func took(c *Course, _ Sight) bool { return c.part.open() || c.verdict == taken }

func admits(_ *Course, s Sight) bool { return s.Admits }

func content(_ *Course, s Sight) bool { return s.Content }

func both(a, b condition) condition {
	return func(c *Course, s Sight) bool { return a(c, s) && b(c, s) }
}

func not(a condition) condition { return func(c *Course, s Sight) bool { return !a(c, s) } }

func nobodyAsks(*Course) string { return "" }

func always(why string) func(*Course) string { return func(*Course) string { return why } }

// acknowledged reports whether whatsmeow acknowledges the message though a handler did not
// take it.
func (c *Course) acknowledged(s Sight) bool {
	return s.Content && (c.Origin == Early || s.OfPhone)
}

func (c *Course) whyUntaken() string { return c.untaken }

func (c *Course) whyLost() string { return c.panic + notKept }

func (c *Course) rule(s Sight) rule {
	i := slices.IndexFunc(rules, func(r rule) bool { return r.when(c, s) })
	return rules[i] // the last one always holds
}

// Keeps says what is to be kept of the message before Outcome is asked for. Sight.Content
// does not matter yet.
func (c *Course) Keeps(s Sight) Keep {
	keep := c.rule(s).keep
	if keep == OpenPart && !c.part.open() {
		return AsIs
	}
	return keep
}

// Outcome says what becomes of the message, and why; empty where nobody asks.
func (c *Course) Outcome(s Sight) (o book.Outcome, why string) {
	r := c.rule(s)
	return r.is, r.why(c)
}
