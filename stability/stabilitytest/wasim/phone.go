package wasim

import (
	"bytes"
	"compress/zlib"
	"errors"
	"fmt"
	"strconv"
	"time"

	"go.mau.fi/whatsmeow/proto/waCommon"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/proto/waHistorySync"
	"go.mau.fi/whatsmeow/proto/waWeb"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/util/keys"
	"google.golang.org/protobuf/proto"
)

// phoneRegistration is the registration id of all phones.
const phoneRegistration = 1

// livePhone is a phone that writes, and while it is on also reads.
type livePhone struct {
	*endpoint
	on    bool
	late  bool     // requests wait until it is on
	other bool     // it answers by the other name of a user
	data  bool     // its messages are <appdata>
	waits []func() // with s.mu
	state *appStates
}

// written is a message that a contact or a phone wrote, in plain.
type written struct {
	from    *Account
	message *waE2E.Message
	at      time.Time
}

func (a *Account) signedPreKey() *keys.PreKey {
	if a.signed == nil {
		a.signed = a.key.CreateSignedPreKey(1)
	}
	return a.signed
}

// face is a phone as others see it: keys, and nobody behind it that takes
// stanzas.
func (a *Account) face() *Device {
	signed := a.signedPreKey()
	return &Device{
		s: a.s, acct: a, noise: *a.key.Pub, identity: *a.key.Pub, regID: phoneRegistration, ghost: true,
		skey: preKey{ID: signed.KeyID, Pub: *signed.Pub, Sig: signed.Signature[:]}, used: map[uint32][32]byte{},
	}
}

// alive makes the phone able to write. The caller holds s.mu.
func (p *Phone) alive() *livePhone {
	if p.a.live == nil {
		e := newEndpoint(p.a)
		p.a.live = &livePhone{endpoint: e, state: newAppStates(e)}
		if d := p.a.devices[0]; d != nil { // loaded from a file, its signed key is lost
			d.skey = p.a.face().skey
		}
	}
	return p.a.live
}

// On turns the phone on. It answers requests of the account's devices (to send
// a message again that they could not read, to share app state keys), and
// retry receipts for its own messages. Phones are off at first.
func (p *Phone) On() *Phone { return p.turn(true) }

// Off turns the phone off again: requests are accepted by the service and never
// answered.
func (p *Phone) Off() *Phone { return p.turn(false) }

// Late turns the phone off for a while: the service keeps the requests, and
// [Phone.On] answers each of them.
func (p *Phone) Late() *Phone {
	p.Off()
	p.a.s.mu.Lock()
	defer p.a.s.mu.Unlock()
	p.alive().late = true
	return p
}

// ByOtherName makes the phone answer requests by the other of a user's two names. A
// message from a phone number is sent again as one from the LID, and the other way round.
// What the phone writes from now on comes from its own other name, too.
func (p *Phone) ByOtherName() *Phone {
	p.a.s.mu.Lock()
	defer p.a.s.mu.Unlock()
	p.alive().other = true
	return p
}

// AsAppData makes the service deliver what the phone writes from now on as <appdata>, which a
// client treats like <message>.
func (p *Phone) AsAppData() *Phone {
	p.a.s.mu.Lock()
	defer p.a.s.mu.Unlock()
	p.alive().data = true
	return p
}

// otherName is the other name of the user whose name is jid. The caller holds s.mu.
func (p *Phone) otherName(jid *string) *string {
	j, err := types.ParseJID(jidOf(jid))
	a := p.a.s.account(j)
	if err != nil || a == nil {
		return jid
	}
	other := a.LID()
	if j.Server == types.HiddenUserServer {
		other = a.JID()
	}
	other.Device = j.Device
	return proto.String(other.String())
}

func jidOf(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (p *Phone) turn(on bool) *Phone {
	p.a.s.mu.Lock()
	defer p.a.s.mu.Unlock()
	live := p.alive()
	waits := live.waits
	live.on, live.late, live.waits = on, false, nil
	if on {
		for _, answer := range waits {
			answer()
		}
	}
	return p
}

// Send writes one text after the other from the phone to every linked device of
// a user, online or not, and returns the messages' ids. It encrypts only and
// waits for nobody: the way to a deep backlog. BenchmarkPhoneSend measures it.
func (p *Phone) Send(to types.JID, texts ...string) (ids []string, err error) {
	for _, t := range texts {
		id, err := p.SendMessage(to, &waE2E.Message{Conversation: proto.String(t)})
		if err != nil {
			return ids, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// SendMessage writes one message of any kind, as Send writes texts.
func (p *Phone) SendMessage(to types.JID, m *waE2E.Message) (id string, err error) {
	return p.write(to, "", m, false)
}

// SendAs is SendMessage under an id that the caller chooses. No honest phone uses
// one twice.
func (p *Phone) SendAs(id string, to types.JID, m *waE2E.Message) error {
	_, err := p.write(to, id, m, false)
	return err
}

// SendUnreadable is SendMessage with a ciphertext that nobody can decrypt. If
// the phone is on, the retry receipt for it is answered with the message.
func (p *Phone) SendUnreadable(to types.JID, m *waE2E.Message) (id string, err error) {
	return p.write(to, "", m, true)
}

// SendUnreadableAs is SendUnreadable under an id that the caller chooses.
func (p *Phone) SendUnreadableAs(id string, to types.JID, m *waE2E.Message) error {
	_, err := p.write(to, id, m, true)
	return err
}

func (p *Phone) write(to types.JID, as string, m *waE2E.Message, unreadable bool) (id string, err error) {
	s := p.a.s
	s.mu.Lock()
	defer s.mu.Unlock()
	rcpt := s.account(to)
	if rcpt == nil || rcpt == p.a {
		return "", fmt.Errorf("wasim: a phone writes to other accounts, %s is none", to)
	}
	if id = as; id == "" {
		id = s.id()
	}
	s.seen.wrote(id, written{p.a, m, time.Now()})
	for _, dev := range rcpt.ids() {
		if d := rcpt.devices[dev]; !d.ghost {
			if err = p.direct(d, id, m, 0, unreadable); err != nil {
				return id, err
			}
		}
	}
	return id, nil
}

// direct delivers a message of the phone to one device.
func (p *Phone) direct(d *Device, id string, m *waE2E.Message, retry int, unreadable bool) error {
	enc, err := p.alive().encrypt(d, mustMarshal(m))
	if err != nil {
		return err
	}
	if unreadable {
		enc.Attrs["type"], enc.Content = "msg", randomBytes(64)
	}
	if retry > 0 {
		enc.Attrs["count"] = strconv.Itoa(retry)
	}
	w, _ := p.a.s.seen.message(id)
	a := attrs{"id": id, "t": w.at.Unix(), "type": "text", "notify": p.a.pushName}
	if p.a.s.opt.lidFirst != p.alive().other {
		a["from"], a["sender_pn"] = p.a.LID(), p.a.JID()
	} else {
		a["from"], a["sender_lid"] = p.a.JID(), p.a.LID()
	}
	if m.GetEditedMessage() != nil || m.GetProtocolMessage().GetType() == waE2E.ProtocolMessage_MESSAGE_EDIT {
		a["edit"], enc.Attrs["decrypt-fail"] = "1", "hide"
	}
	tag := "message"
	if p.alive().data {
		tag = "appdata"
	}
	d.deliver(node{Tag: tag, Attrs: a, Content: []node{enc}}, true)
	return nil
}

// retry answers a retry receipt for a message of the phone. The caller holds
// s.mu.
func (p *Phone) retry(d *Device, n *node) {
	w, ok := p.a.s.seen.message(str(n, "id"))
	if !ok || w.from != p.a {
		return
	}
	count := 1
	if r := child(n, "retry"); r != nil {
		if v, err := strconv.Atoi(str(r, "count")); err == nil {
			count = v
		}
	}
	p.a.live.forget(d)
	if err := p.direct(d, str(n, "id"), w.message, count, false); err != nil {
		p.a.s.violation("retry receipt of %s: %v", d.jid(), err)
	}
}

// tell sends a message to one of the account's own devices. The caller holds
// s.mu.
func (p *Phone) tell(d *Device, m *waE2E.ProtocolMessage) error {
	enc, err := p.alive().encrypt(d, mustMarshal(&waE2E.Message{ProtocolMessage: m}))
	if err != nil {
		return err
	}
	d.deliver(node{Tag: "message", Attrs: attrs{
		"id": p.a.s.id(), "from": p.a.JID(), "t": time.Now().Unix(), "type": "text", "category": "peer",
	}, Content: []node{enc}}, true)
	return nil
}

// tellAll sends a message to all of the account's own devices.
func (p *Phone) tellAll(m *waE2E.ProtocolMessage) error {
	var errs []error
	for _, id := range p.a.ids() {
		if d := p.a.devices[id]; !d.ghost {
			errs = append(errs, p.tell(d, m))
		}
	}
	return errors.Join(errs...)
}

// SendHistory sends a piece of history to all linked devices, inside the
// message: nothing needs to be downloaded.
func (p *Phone) SendHistory(h *waHistorySync.HistorySync) error {
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	if _, err := z.Write(mustMarshal(h)); err != nil {
		return fmt.Errorf("wasim: history: %w", err)
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("wasim: history: %w", err)
	}
	p.a.s.mu.Lock()
	defer p.a.s.mu.Unlock()
	return p.tellAll(&waE2E.ProtocolMessage{
		Type: waE2E.ProtocolMessage_HISTORY_SYNC_NOTIFICATION.Enum(),
		HistorySyncNotification: &waE2E.HistorySyncNotification{
			SyncType:   waE2E.HistorySyncType(h.GetSyncType()).Enum(),
			ChunkOrder: h.ChunkOrder, Progress: h.Progress, InitialHistBootstrapInlinePayload: b.Bytes(),
		},
	})
}

// asked takes a request of one of the account's own devices. The caller holds
// s.mu.
func (p *Phone) asked(d *Device, n *node) error {
	plain, err := p.a.live.decrypt(d, child(n, "enc"))
	if err != nil {
		return err
	}
	var m waE2E.Message
	if err = proto.Unmarshal(plain, &m); err != nil {
		return fmt.Errorf("peer message: %w", err)
	}
	req := m.GetProtocolMessage()
	d.stats.PeerRequests++
	switch {
	case req.GetAppStateSyncKeyRequest() != nil:
		return p.tell(d, p.a.live.state.share(req.GetAppStateSyncKeyRequest().GetKeyIDs()))
	case req.GetPeerDataOperationRequestMessage().GetPeerDataOperationRequestType() == waE2E.PeerDataOperationRequestType_PLACEHOLDER_MESSAGE_RESEND:
		return p.tell(d, p.resend(str(n, "id"), req.GetPeerDataOperationRequestMessage()))
	}
	return nil
}

// resend answers with the messages asked for, as far as this process wrote
// them.
func (p *Phone) resend(id string, req *waE2E.PeerDataOperationRequestMessage) *waE2E.ProtocolMessage {
	out := &waE2E.PeerDataOperationRequestResponseMessage{
		PeerDataOperationRequestType: req.PeerDataOperationRequestType, StanzaID: proto.String(id),
	}
	for _, r := range req.GetPlaceholderMessageResendRequest() {
		key := r.GetMessageKey()
		w, ok := p.a.s.seen.message(key.GetID())
		if !ok {
			continue
		}
		key = proto.Clone(key).(*waCommon.MessageKey)
		if p.a.live.other {
			key.RemoteJID, key.Participant = p.otherName(key.RemoteJID), p.otherName(key.Participant)
		}
		out.PeerDataOperationResult = append(out.PeerDataOperationResult, &waE2E.PeerDataOperationRequestResponseMessage_PeerDataOperationResult{
			PlaceholderMessageResendResponse: &waE2E.PeerDataOperationRequestResponseMessage_PeerDataOperationResult_PlaceholderMessageResendResponse{
				WebMessageInfoBytes: mustMarshal(&waWeb.WebMessageInfo{
					Key: key, Message: w.message, MessageTimestamp: proto.Uint64(uint64(w.at.Unix())),
					PushName: proto.String(w.from.pushName), Participant: key.Participant,
				}),
			},
		})
	}
	return &waE2E.ProtocolMessage{
		Type:                                    waE2E.ProtocolMessage_PEER_DATA_OPERATION_REQUEST_RESPONSE_MESSAGE.Enum(),
		PeerDataOperationRequestResponseMessage: out,
	}
}
