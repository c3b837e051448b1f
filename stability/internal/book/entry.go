package book

import (
	"cmp"
	"time"
)

// Key names a message, as its stanza does.
type Key struct {
	ID, Chat, Sender string

	// Copy tells messages with other contents apart that came under one id. It is
	// empty for the newest of them.
	Copy string `json:",omitempty"`
}

// State is where a message is.
type State string

// The states.
const (
	Queued      State = "queued"      // received, not with a handler yet
	InHand      State = "in_hand"     // with the handlers
	AtService   State = "at_service"  // not acknowledged: the service has it, and delivers it again at the next login
	Refused     State = "refused"     // the same, since a handler did not take it
	Kept        State = "kept"        // acknowledged, and its content is with us: to be handed over again
	Undecrypted State = "undecrypted" // acknowledged; its content is asked for
	SetAside    State = "set_aside"   // nothing is done before somebody asks
	LeftAlone   State = "left_alone"  // at the service: the process has died while it was handled, too often
)

// stored reports whether an entry in this state stands in the store.
func (s State) stored() bool {
	switch s {
	case Refused, Kept, Undecrypted, SetAside, LeftAlone:
		return true
	}
	return false
}

// Entry is a message that was not handled yet.
type Entry struct {
	Key   Key
	State State
	First time.Time // when it was received first
	Anew  time.Time `json:",omitzero"` // when its row of tries began anew; zero while it is the first one
	Since time.Time // when it came to wait or was set aside
	Last  time.Time // the last try; zero before the first
	Tries int       // how often handlers did not take it
	Worse int       // how often of these they had taken another one since the try before
	Why   string    // in words, about the last try or the state

	// Hidden says that nobody misses the message: it is for the phone alone, or
	// its sender said that nobody is to be told. The phone is asked for it a few
	// times only.
	Hidden bool

	Missed int // logins in a row that did not bring a refused message again

	before State // what it was when it came again
	came   bool  // on the present connection
	back   bool  // came again in this term, while it was with a handler
}

// Fails reports whether handlers did not take the message, and it waits for the
// next try or is under one.
func (e Entry) Fails() bool {
	s := e.State
	if e.before != "" {
		s = e.before
	}
	return (s == Refused || s == Kept) && e.Tries > 0
}

// Row is when its row of tries began.
func (e Entry) Row() time.Time { return latest(e.First, e.Anew) }

// Here reports whether the service has delivered it on the present connection.
func (e Entry) Here() bool { return e.came }

// Back reports whether the service has delivered it again in this term, while it was
// with a handler: it is unacknowledged.
func (e Entry) Back() bool { return e.back }

// Outcome is what became of a message that was with the handlers.
type Outcome uint8

// The outcomes.
const (
	Left     Outcome = iota // not handed over: unacknowledged, the service has it
	Handled                 // every handler took it
	Repeat                  // it had been handled before
	Declined                // a handler did not take it; unacknowledged
	Saved                   // a handler failed; acknowledged, its content is with us
	Lost                    // it could not be decrypted; acknowledged
	Odd                     // acknowledged, and no handler was given anything
	Poison                  // the handlers did not take it for too long: set aside
)

func older(x, y Entry) int {
	return cmp.Or(x.First.Compare(y.First), cmp.Compare(x.Key.ID, y.Key.ID), cmp.Compare(x.Key.Chat, y.Key.Chat), cmp.Compare(x.Key.Sender, y.Key.Sender), cmp.Compare(x.Key.Copy, y.Key.Copy))
}

// left reports whether the service has delivered a message on the present connection
// that is left there, such as while the store did not answer. Nothing but another login
// brings it.
func (e *Entry) left() bool { return e.State == AtService && e.came }

// counts is the state under which Sums counts the message.
func (e *Entry) counts() State {
	if e.before != "" && e.State != InHand { // queued once more
		return e.before
	}
	return e.State
}
