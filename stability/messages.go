package stability

import "time"

// Messages is the account of what became of messages.
type Messages struct {
	Received ReceivedMessages
	Sent     SentMessages
	Resends  Resends // of what recipients could not decrypt
}

// SentMessages is what became of the messages that this process has sent, as
// the client's logger shows them. Peer messages (to the account's own devices)
// and messages that are sent again because a recipient could not read them are
// left out. The counts are this process's own: they begin with New, and a
// restart begins them again.
type SentMessages struct {
	Since time.Time // when counting began
	Seen  bool      // false: the present client does not log to a Manager's logger, so its sends are not counted

	Acknowledged uint64 // accepted by WhatsApp
	// Unanswered were sent and not answered: within keepalive.Policy.AnswerAfter,
	// or before their connection ended. One that is answered later after all is
	// counted by its answer.
	Unanswered   uint64
	Refused      []Refusal // by code, in ascending order
	Waiting      int       // sent, and the answer may still come
	WaitingSince time.Time // when the oldest of them was sent

	LastAcknowledgedAt time.Time
	LastUnansweredAt   time.Time
	LastRefusedAt      time.Time
	LastRefusedCode    int

	// MuteSince is when the row of refused and unanswered sends began that makes
	// the connection mute; zero while it is not. Only a send that is acknowledged
	// ends it.
	MuteSince time.Time
	// NewChatsRefusedAt is when a send was last refused with 463 (no new chats)
	// while others were acknowledged: that is not mute. Zero when it is not so.
	NewChatsRefusedAt time.Time
	// Restricted is what WhatsApp itself has told of a restriction to existing
	// chats; nil when it told of none, or that it is over.
	Restricted *Restriction

	Text string // plain sentences: what happened to the sends
	Do   string // what a person should do; "" when nothing is wrong
}

// Refusal counts the sends that were refused with one code.
type Refusal struct {
	Code   int // 0 stands for all codes beyond the first 32
	Count  uint64
	LastAt time.Time
	Means  string // one plain sentence
	Do     string
}

// Restriction is a limit that WhatsApp has put on an account: it may write to
// existing chats only.
type Restriction struct {
	Kind string // WhatsApp's word for it
	At   time.Time
	Ends time.Time // zero when it did not say
}
