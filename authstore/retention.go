package authstore

import (
	"cmp"
	"math"
	"time"
)

// Rows that grow with traffic go at some age. Ages are looked at in
// three ways, and none costs a commit:
//
//   - Rows in memory (tokens, finished events, the LID map) are looked at when
//     whatsmeow asks that old events be deleted: with the first message of a
//     client, and then twice a day.
//   - Message secrets and sender keys are read on demand, so finding old ones is a
//     look at their whole table: see sweep.go.
//   - Sent messages: see outgoing.go and sent.go.
//
// Removals ride with commits that happen anyway, some at a time.

// Forever is a retention without an end.
const Forever = time.Duration(math.MaxInt64)

// Retention is how long data is kept that grows with traffic. Zero fields have
// their defaults; Forever keeps. A field less than 0 is refused, but for Sent.
//
// The plaintext of a received message that no handler has finished is never
// removed by its age, with two exceptions. A killed process has left it, and
// WhatsApp does not deliver it any more: see FinishedEvents and EventLeftovers. Or
// it was set aside, and SetAside is set.
type Retention struct {
	// MessageSecrets decrypt reactions, votes and edits of older messages.
	// Default 180 days. Secrets that were stored by a version that did not note
	// the time count from the first look of one that does.
	MessageSecrets time.Duration

	// SenderKeys decrypt the messages of one member of one group. Their age counts
	// from the day of their last use. Default 180 days. A member who writes again later
	// is asked for the key, as after any message that could not be decrypted, and
	// sends it with the message again. Keys that were stored by a version that did
	// not note the day count from the first look of one that does.
	SenderKeys time.Duration

	// PrivacyTokens were given by contacts, and are renewed by them. Default
	// 180 days. Newer versions of whatsmeow remove them earlier by themselves.
	PrivacyTokens time.Duration

	// FinishedEvents are what a message that the service delivers twice is known
	// by. Default 14 days, for which the service keeps what was not
	// acknowledged; a shorter time counts as that. A decrypted message that was perhaps
	// handled is kept for as long, from the moment when it was found to be such.
	FinishedEvents time.Duration

	// Sent is for how long a recipient who could not decrypt a message may ask
	// for it again. Default 7 days; less than 0: nothing that is sent is kept.
	Sent time.Duration

	// SentCount is how many sent messages are kept at most. Default 10,000.
	SentCount int

	// SetAside is for how long a received message is kept that was set aside, with
	// its content: from that moment on. Default Forever, since somebody has to deal
	// with it. stability.Manager removes what is older, tells of each in the log
	// (but for those that nobody misses) and counts them in
	// Status.Messages.Received.Removed. Without a Manager none is removed.
	SetAside time.Duration

	// LIDs is how many contacts the map of LIDs and phone numbers holds at most.
	// Beyond that, contacts go of whom nothing else is stored: no session,
	// identity key, name, chat setting or token. Default 0: none goes. It is two
	// short entries for each contact. A contact that goes may be missed: WhatsApp
	// is asked again for the LID of a number, but the number of a LID comes only
	// with that contact's next message. So set it where members of very many
	// groups fill the map, and far above the contacts who write.
	LIDs int
}

const (
	defaultSecretAge    = 180 * 24 * time.Hour
	defaultSenderKeyAge = 180 * 24 * time.Hour
	defaultTokenAge     = 180 * 24 * time.Hour
)

// Validate reports the first field that is not valid, by name. The error matches
// ErrOptions.
func (r Retention) Validate() error {
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"MessageSecrets", int64(r.MessageSecrets)}, {"SenderKeys", int64(r.SenderKeys)}, {"PrivacyTokens", int64(r.PrivacyTokens)},
		{"FinishedEvents", int64(r.FinishedEvents)}, {"SentCount", int64(r.SentCount)}, {"SetAside", int64(r.SetAside)}, {"LIDs", int64(r.LIDs)},
	} {
		if f.value < 0 {
			return optionError("authstore: Retention." + f.name + " is negative: it must be positive, or zero for its default")
		}
	}
	return nil
}

// withDefaults fills in the defaults of a Retention that has passed Validate.
func (r Retention) withDefaults() Retention {
	r.MessageSecrets = cmp.Or(r.MessageSecrets, defaultSecretAge)
	r.SenderKeys = cmp.Or(r.SenderKeys, defaultSenderKeyAge)
	r.PrivacyTokens = cmp.Or(r.PrivacyTokens, defaultTokenAge)
	r.SetAside = cmp.Or(r.SetAside, Forever)
	r.FinishedEvents = max(r.FinishedEvents, eventTTL)
	r.Sent = cmp.Or(r.Sent, outgoingTTL)
	r.SentCount = cmp.Or(r.SentCount, outgoingMost)
	return r
}

// WithRetention says how long data is kept that grows with traffic. One that does
// not pass Validate is refused.
func WithRetention(r Retention) Option {
	return func(c *config) {
		if err := r.Validate(); err != nil {
			c.errs = append(c.errs, err)
			return
		}
		c.retention = r.withDefaults()
	}
}

// Retainer is a Store that says for how long it keeps what grows with traffic.
// *Container implements it.
type Retainer interface {
	Retention() Retention // with its defaults filled in
}

var _ Retainer = (*Container)(nil)

// Retention implements Retainer.
func (c *Container) Retention() Retention { return c.cfg.retention }

// before is the moment before which something of that age is too old. For
// Forever it is before everything.
func before(age time.Duration) time.Time {
	if age == Forever {
		return time.Unix(0, 0)
	}
	return time.Now().Add(-age)
}
