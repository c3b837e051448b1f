package stability

import (
	"context"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"sync/atomic"

	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/stability/internal/link"
)

// A recipient who cannot decrypt a message asks for it again with a retry
// receipt, perhaps a day later, when another instance is connected. whatsmeow
// answers with one of the last 256 messages that this client has sent, else with
// what GetMessageForRetry gives, else not at all. Here the plaintext of what goes
// out is kept in the store, and given back.
//
// Newer versions of whatsmeow can do that by themselves (UseRetryMessageStore),
// but do not ask a host's GetMessageForRetry then; so it is turned on for hosts
// that have none. In all other cases Manager.Send gives the store what it sends.
// Where the host sends by its client, the tap sees a message go out, just after
// the commit of its sessions, and takes its plaintext from whatsmeow's own list.

// Resends counts retry receipts for messages that the client had not in memory
// any more: those that were sent by an earlier process or instance, or long ago.
// The counts are this process's own.
type Resends struct {
	Answered uint64 // with the plaintext from the store, or by the host's GetMessageForRetry
	Unknown  uint64 // not kept, or too old: whatsmeow did not answer
	Failed   uint64 // the store could not be read
}

// resends are the counters behind Resends.
type resends struct{ answered, unknown, failed atomic.Uint64 }

// resendsNow are the Manager's own counts, and those of a store in which whatsmeow
// looks by itself.
func (m *Manager) resendsNow() Resends {
	r := Resends{Answered: m.resends.answered.Load(), Unknown: m.resends.unknown.Load(), Failed: m.resends.failed.Load()}
	if c := m.can.outgoing; c != nil {
		found, missing, failed := c.OutgoingAsked()
		r.Answered, r.Unknown, r.Failed = r.Answered+found, r.Unknown+missing, r.Failed+failed
	}
	return r
}

// relySent: the plaintext of a message that goes out can be found.
const relySent link.Reliance = "sent_plaintext"

// keepSent sees to it that retry receipts are answered after a restart too. It
// is called before each attempt, since the host may have set a callback of its
// own meanwhile.
func (a *attachment) keepSent() {
	keepSentIn(reflect.ValueOf(a.client))
	if sentByWhatsmeow(a.client) || keeperOf(a.device) == nil {
		return
	}
	if now := a.client.GetMessageForRetry; now == nil || codeOf(now) != ourAnswer {
		a.client.GetMessageForRetry = answerRetries(a.m, a.client, a.device, now)
	}
}

func keepSentIn(client reflect.Value) {
	field := client.Elem().FieldByName("UseRetryMessageStore")
	if !field.IsValid() || field.Kind() != reflect.Bool || !field.CanSet() {
		return
	}
	if on := !hasOwn(client.Elem().FieldByName("GetMessageForRetry")); field.Bool() != on {
		field.SetBool(on)
	}
}

// sentByWhatsmeow reports whether whatsmeow keeps by itself what it sends.
func sentByWhatsmeow(c *whatsmeow.Client) bool {
	field := reflect.ValueOf(c).Elem().FieldByName("UseRetryMessageStore")
	return field.IsValid() && field.Kind() == reflect.Bool && field.Bool()
}

// hasOwn reports whether a callback was set by a host: whatsmeow sets one that
// finds nothing.
func hasOwn(callback reflect.Value) bool {
	if !callback.IsValid() || callback.Kind() != reflect.Func || callback.IsNil() {
		return false
	}
	f := runtime.FuncForPC(callback.Pointer())
	return f == nil || !strings.HasPrefix(f.Name(), "go.mau.fi/whatsmeow.NewClient.")
}

// forRetry is the type of whatsmeow's callback.
type forRetry = func(requester, to types.JID, id types.MessageID) *waE2E.Message

// ourAnswer tells our own callback from others.
var ourAnswer = codeOf(answerRetries(nil, nil, nil, nil))

func codeOf(f forRetry) uintptr { return reflect.ValueOf(f).Pointer() }

// answerRetries is a callback that asks the host's first, and then the store.
// Each one has the same code: it is recognised by that.
//
//go:noinline
func answerRetries(m *Manager, c *whatsmeow.Client, d *store.Device, host forRetry) forRetry {
	return func(requester, to types.JID, id types.MessageID) *waE2E.Message {
		if host != nil {
			if msg := host(requester, to, id); msg != nil {
				m.resends.answered.Add(1)
				return msg
			}
		}
		msg, err := sentMessage(d, to, id)
		switch {
		case err != nil:
			m.resends.failed.Add(1)
			m.cfg.logger.Warn("a message was asked for again, and could not be read from the store", "error", err)
		case msg == nil:
			m.resends.unknown.Add(1)
			m.cfg.logger.Info("a message was asked for again that is not kept, or not any more")
		default:
			m.resends.answered.Add(1)
		}
		return msg
	}
}

// sentMessage is a message that d's account has sent to a chat; nil when it is
// not kept.
func sentMessage(d *store.Device, to types.JID, id types.MessageID) (*waE2E.Message, error) {
	ctx := context.Background() // the store bounds its calls by itself
	var alt types.JID
	switch to.Server {
	case types.DefaultUserServer:
		alt, _ = d.LIDs.GetLIDForPN(ctx, to)
	case types.HiddenUserServer:
		alt, _ = d.LIDs.GetPNForLID(ctx, to)
	}
	plaintext, err := keeperOf(d).Sent(ctx, to, alt, id)
	if err != nil || plaintext == nil {
		return nil, err
	}
	msg := new(waE2E.Message)
	if err := proto.Unmarshal(plaintext, msg); err != nil {
		return nil, fmt.Errorf("stability: a sent message that was kept does not parse: %w", err)
	}
	return msg, nil
}

// sent is told of each message that goes out, in the goroutine that sends it,
// just before it is on the wire. It must be quick, and whatever it finds must
// not keep the message.
func (a *attachment) sent(o outgoing) {
	keeper := keeperOf(a.device)
	if keeper == nil || sentByWhatsmeow(a.client) {
		return
	}
	if id := a.kept.Load(); id != nil && *id == o.id {
		return
	}
	to, err := types.ParseJID(o.to)
	if err != nil {
		return
	}
	plaintext, err := plaintextOf(a.client, to, o.id)
	if a.m.cfg.lacks(relySent) {
		plaintext, err = nil, fmt.Errorf("taken away by a test")
	}
	if err != nil {
		a.m.noteCompat(relySent, "sent messages cannot be kept ("+err.Error()+"): a recipient who asks for one again after a restart gets no answer, unless the program sets GetMessageForRetry")
		return
	}
	if plaintext == nil {
		return
	}
	if err := keeper.KeepSent(context.Background(), to, o.id, plaintext); err != nil {
		a.m.cfg.logger.Debug("a sent message was not kept", "error", err)
	}
}

// plaintextOf takes a message from whatsmeow's list of those sent last. nil: it
// is not there, or of a kind that GetMessageForRetry cannot give.
func plaintextOf(c *whatsmeow.Client, to types.JID, id types.MessageID) (plaintext []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("whatsmeow's list of sent messages: %v", p)
		}
	}()
	list, ok := any(c.DangerousInternals()).(interface {
		GetRecentMessage(types.JID, types.MessageID) whatsmeow.RecentMessage
	})
	if !ok {
		return nil, fmt.Errorf("whatsmeow has no list of sent messages")
	}
	recent := list.GetRecentMessage(to, id)
	msg, err := messageIn(reflect.ValueOf(recent))
	if err != nil || msg == nil {
		return nil, err
	}
	return proto.Marshal(msg)
}

// messageIn is the message in an entry of whatsmeow's list.
func messageIn(recent reflect.Value) (*waE2E.Message, error) {
	const name = "wa"
	if recent.Kind() != reflect.Struct {
		return nil, fmt.Errorf("an entry of whatsmeow's list of sent messages is a %s", recent.Kind())
	}
	field := recent.FieldByName(name)
	if !field.IsValid() || field.Type() != reflect.TypeFor[*waE2E.Message]() {
		return nil, fmt.Errorf("an entry of whatsmeow's list of sent messages has no message in %q", name)
	}
	return (*waE2E.Message)(field.UnsafePointer()), nil
}
