package stability

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/stability/internal/sends"
)

// sendBook is the book of this process's sends. Its lock is its own: the tap
// writes in it while whatsmeow sends and receives.
type sendBook struct {
	mu    sync.Mutex
	book  *sends.Book
	since time.Time
	begun time.Time // the term
	fresh bool      // another device than at its begin: what was told of that one's sends is over
	mutes bool      // as it was last seen by expire
	limit *Restriction
	own   types.JID // the device of the newest connection
	took  *meter
}

func newSendBook(p keepalive.Policy, now time.Time, took *meter) *sendBook {
	return &sendBook{since: now, took: took, book: sends.New(sends.Policy{
		AnswerAfter: p.AnswerAfter, Row: p.MuteAfter, Recipients: p.MuteRecipients,
	})}
}

func (b *sendBook) with(f func(*sends.Book)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(b.book)
}

// newTerm notes that this instance holds the lock from now on.
func (b *sendBook) newTerm() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.begun, b.fresh = time.Now(), false
}

func (b *sendBook) up(own types.JID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.is(own)
	b.book.Up()
}

// is notes whose sends come from now on. The outcome of another device's sends
// says nothing of them, and a restriction belongs to an account. The caller
// holds mu.
func (b *sendBook) is(own types.JID) {
	if own != b.own && b.own != noAddress {
		b.forget()
		if own.User != b.own.User {
			b.limit = nil
		}
	}
	b.own = own
}

// forget notes that another device sends from now on, or none. The caller holds mu.
func (b *sendBook) forget() {
	b.fresh = true
	b.book.NewDevice(time.Now())
}

func (b *sendBook) down() { b.with(func(k *sends.Book) { k.Down(time.Now()) }) }

// newDevice notes that the device was paired, as own, or that it is gone; own is
// noAddress then, and the account may be paired again.
func (b *sendBook) newDevice(own types.JID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forget()
	if own != noAddress {
		b.is(own)
	}
}

// waits reports whether an answer to a send may still come.
func (b *sendBook) waits(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.book.View(now).Waiting > 0
}

func (b *sendBook) sent(s outgoing) {
	b.with(func(k *sends.Book) { k.Sent(s.id, s.to, time.Now()) })
}

// answered notes an answer. It reports whether somebody should look: a send
// was refused, or sends work again.
func (b *sendBook) answered(ack answer) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if at, ok := b.book.SentAt(ack.id); ok {
		b.took.took(now.Sub(at), nil)
	}
	return b.book.Answered(ack.id, ack.code, now) && (ack.code != 0 || b.mutes)
}

// expire gives up what has waited for too long. turned reports that the
// connection has become mute, or is not mute any more.
func (b *sendBook) expire(now, heard time.Time) (again time.Time, turned bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	again = b.book.Expire(now, heard)
	since, _ := b.book.Mute(now)
	turned = b.mutes == since.IsZero()
	b.mutes = !since.IsZero()
	return again, turned
}

// mute reports since when the connection is mute, and what there is to say.
func (b *sendBook) mute(now time.Time) (since time.Time, text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if since, _ = b.book.Mute(now); since.IsZero() {
		return since, ""
	}
	means, do := sends.Text(b.book.View(now).RowCode)
	return since, row(b.book.View(now)) + " " + means + " " + do
}

func (b *sendBook) facts(now time.Time) (since time.Time, code, failed int, acknowledged bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v := b.book.View(now)
	return v.MuteSince, v.RowCode, v.InARow, v.InARow == 0 && (b.fresh || v.LastAcknowledgedAt.After(b.begun))
}

// row says in a sentence how many sends failed.
func row(v sends.View) string {
	how := "were not answered"
	switch {
	case v.RowMixed && v.RowCode == 0:
		how = "were refused or not answered, the newest not answered"
	case v.RowMixed:
		how = fmt.Sprintf("were refused or not answered, the newest refused with code %d", v.RowCode)
	case v.RowCode != 0:
		how = fmt.Sprintf("were refused with code %d", v.RowCode)
	}
	text := fmt.Sprintf("The last %d sends %s.", v.InARow, how)
	if v.LastAcknowledgedAt.IsZero() {
		return text + " None was accepted since this program began."
	}
	return text + " One was accepted last at " + v.LastAcknowledgedAt.UTC().Format("15:04:05 UTC on 2 January 2006") + "."
}

// sentNow is what Status says of the sends. With m.mu held.
func (m *Manager) sentNow(now time.Time) SentMessages {
	b := m.sends
	b.mu.Lock()
	defer b.mu.Unlock()
	v := b.book.View(now)
	s := SentMessages{
		Since: b.since, Seen: m.term == nil || m.term.client == nil || m.term.client.tapped,
		Acknowledged: v.Acknowledged, Unanswered: v.Unanswered, Waiting: v.Waiting, WaitingSince: v.WaitingSince,
		LastAcknowledgedAt: v.LastAcknowledgedAt, LastUnansweredAt: v.LastUnansweredAt, LastRefusedAt: v.LastRefusedAt, LastRefusedCode: v.LastRefusedCode,
		MuteSince: v.MuteSince, NewChatsRefusedAt: v.NewChatsRefusedAt,
	}
	if l := b.limit; l != nil && (l.Ends.IsZero() || l.Ends.After(now)) {
		limit := *l
		s.Restricted = &limit
	}
	for _, r := range v.Refused {
		means, do := sends.Text(r.Code)
		if r.Code == 0 {
			means, do = "Refused with still other codes.", "Look at the errors that the program's sends return."
		}
		s.Refused = append(s.Refused, Refusal{Code: r.Code, Count: r.Count, LastAt: r.LastAt, Means: means, Do: do})
	}
	s.Text = s.text(v)
	switch {
	case !s.MuteSince.IsZero():
		_, s.Do = sends.Text(v.RowCode)
	case s.limits() != "":
		_, s.Do = sends.Text(sends.NewChats)
	}
	return s
}

// text says what became of the sends.
func (s SentMessages) text(v sends.View) string {
	switch {
	case !s.Seen:
		return "Sends are not seen: the client does not log to the logger that Manager.Logger returns."
	case !s.MuteSince.IsZero():
		return row(v)
	}
	refused := uint64(0)
	for _, r := range s.Refused {
		refused += r.Count
	}
	text := "Nothing was sent since this program began."
	if s.Acknowledged+s.Unanswered+refused+uint64(s.Waiting) > 0 {
		text = fmt.Sprintf("Of the messages sent since this program began, WhatsApp has accepted %d, refused %d, and not answered %d.", s.Acknowledged, refused, s.Unanswered)
	}
	return text + s.limits()
}

// limits says that only new chats are refused; "" when they are not.
func (s SentMessages) limits() string {
	switch {
	case s.Restricted != nil && !s.Restricted.Ends.IsZero():
		return " WhatsApp has restricted this account: it may not begin new chats before " + s.Restricted.Ends.UTC().Format("15:04:05 UTC on 2 January 2006") + "."
	case s.Restricted != nil:
		return " WhatsApp has restricted this account: it may not begin new chats."
	case !s.NewChatsRefusedAt.IsZero() && s.MuteSince.IsZero():
		return " New chats are refused (code 463), while sends to others are accepted."
	}
	return ""
}

// outgoing is what the tap takes from a message that goes out.
type outgoing struct{ id, to string }

// answer is what the tap takes from the answer to a message; id is "" for any
// other stanza.
type answer struct {
	id   string
	code int
}

// lookSent takes a message from what whatsmeow gives its send logger. ok is
// false for all other stanzas, for peer messages, and for what is sent again
// because a recipient could not read it: that goes to one device
// (device_fanout) or one participant.
func lookSent(arg any) (o outgoing, ok bool) {
	switch v := arg.(type) {
	case string:
		return lookSentText(v)
	case *waBinary.Node:
		if v == nil || v.Tag != "message" || v.Attrs["category"] == "peer" {
			return o, false
		}
		_, device := v.Attrs["device_fanout"]
		_, participant := v.Attrs["participant"]
		if device || participant {
			return o, false
		}
		o.id, _ = v.Attrs["id"].(string)
		switch to := v.Attrs["to"].(type) {
		case types.JID:
			o.to = to.User + "@" + to.Server
		case string:
			o.to = to
		}
		return o, o.id != "" && o.to != ""
	case waBinary.Node:
		return lookSent(&v)
	case fmt.Stringer:
		return lookSentText(printed(v))
	}
	return o, false
}

func lookSentText(text string) (o outgoing, ok bool) {
	if !strings.HasPrefix(text, "<message ") {
		return o, false
	}
	head, _, _ := strings.Cut(text, ">")
	if attribute(head, "category") == "peer" || attribute(head, "device_fanout") != "" || attribute(head, "participant") != "" {
		return o, false
	}
	o.id, o.to = attribute(head, "id"), attribute(head, "to")
	return o, o.id != "" && o.to != ""
}

// lookPing takes the id of a ping from what whatsmeow gives its send logger; ""
// for all other stanzas.
func lookPing(arg any) string {
	switch v := arg.(type) {
	case string:
		return lookPingText(v)
	case *waBinary.Node:
		if v != nil && v.Tag == "iq" && v.Attrs["xmlns"] == "w:p" {
			id, _ := v.Attrs["id"].(string)
			return id
		}
	case waBinary.Node:
		return lookPing(&v)
	case fmt.Stringer:
		return lookPingText(printed(v))
	}
	return ""
}

func lookPingText(text string) string {
	if !strings.HasPrefix(text, "<iq ") {
		return ""
	}
	head, _, _ := strings.Cut(text, ">")
	if attribute(head, "xmlns") != "w:p" {
		return ""
	}
	return attribute(head, "id")
}

// lookAck takes the id of a message from what whatsmeow gives its send logger when it
// acknowledges the message; "" for all other stanzas.
func lookAck(arg any) string {
	switch v := arg.(type) {
	case string:
		return lookAckText(v)
	case *waBinary.Node:
		if v != nil && v.Tag == "ack" && v.Attrs["class"] == "message" {
			id, _ := v.Attrs["id"].(string)
			return id
		}
	case waBinary.Node:
		return lookAck(&v)
	case fmt.Stringer:
		return lookAckText(printed(v))
	}
	return ""
}

func lookAckText(text string) string {
	if !strings.HasPrefix(text, "<ack ") {
		return ""
	}
	head, _, _ := strings.Cut(text, ">")
	if attribute(head, "class") != "message" {
		return ""
	}
	return attribute(head, "id")
}

// ackIn takes the answer to a message from an ack. One that names a
// participant belongs to a message that was sent again.
func ackIn(n *waBinary.Node) (a answer) {
	if n.Attrs["class"] != "message" || n.Attrs["participant"] != nil {
		return a
	}
	a.id, _ = n.Attrs["id"].(string)
	switch e := n.Attrs["error"].(type) {
	case nil:
	case string:
		a.code = code(e)
	case int:
		a.code = e
	default:
		a.code = -1
	}
	return a
}

func ackInText(text string) (a answer) {
	head, _, _ := strings.Cut(text, ">")
	if attribute(head, "class") != "message" || attribute(head, "participant") != "" {
		return a
	}
	a.id = attribute(head, "id")
	if e := attribute(head, "error"); e != "" {
		a.code = code(e)
	}
	return a
}

// code is the number of an error; -1 for one that is none.
func code(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		return -1
	}
	return n
}

// attribute is the value of an attribute in the head of a stanza; "" if it has
// none.
func attribute(head, name string) string {
	for {
		i := strings.Index(head, name+`="`)
		if i < 0 {
			return ""
		}
		value := head[i+len(name)+2:]
		if i > 0 && head[i-1] == ' ' {
			value, _, _ = strings.Cut(value, `"`)
			return value
		}
		head = value
	}
}
