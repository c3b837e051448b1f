package wasim

import (
	"fmt"
	"slices"
	"time"

	"go.mau.fi/libsignal/ecc"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/util/keys"
)

// Account is one WhatsApp account: a phone number (PN), a hidden user id
// (LID), a phone, and the devices linked to it.
type Account struct {
	s        *Service
	phone    string
	lidUser  string
	pushName string
	key      *keys.KeyPair // the phone's identity key, which signs its devices
	devices  map[uint16]*Device
	lastID   uint16
	signed   *keys.PreKey // the phone's
	live     *livePhone   // nil until the phone does something
	reuse    uint16       // the id that the next device gets, if not 0
	ghost    bool
	// asked are the devices that asked for this account's device list and
	// are told when it changes.
	asked   map[*Device]bool
	chats   map[*Account]bool // direct messages went one way or the other
	pairErr error
}

// Device is a linked device as the service sees it.
type Device struct {
	s         *Service
	acct      *Account
	id        uint16
	noise     [32]byte
	identity  [32]byte
	regID     uint32
	skey      preKey
	prekeys   []preKey // not handed out yet
	used      map[uint32][32]byte
	pending   []*pending
	conn      *conn
	acks      []Ack
	stats     DeviceStats
	lastLogin time.Time
	lastEnd   time.Time // of a connection that was logged in; not saved
	ghost     bool      // nobody is behind it: what it is sent is dropped
	contact   bool      // a Contact's: replaced when that contact is made again
}

func (a *Account) knows(other *Account) {
	if a.chats == nil {
		a.chats = map[*Account]bool{}
	}
	a.chats[other] = true
}

type preKey struct {
	ID  uint32
	Pub [32]byte
	Sig []byte // of signed prekeys
}

// NewAccount registers an account for a phone number in international form,
// digits only. It panics if the number is malformed or taken: that is a
// mistake in the test.
func (s *Service) NewAccount(phone string) *Account {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newAccount(phone)
}

func (s *Service) newAccount(phone string) *Account {
	if len(phone) < 7 || phone[0] == '0' || slices.ContainsFunc([]byte(phone), func(b byte) bool { return b < '0' || b > '9' }) {
		panic(fmt.Sprintf("wasim: %q is not a phone number in international form, digits only", phone))
	}
	if s.accounts[phone] != nil {
		panic(fmt.Sprintf("wasim: account %s exists already; Service.Account finds it", phone))
	}
	a := &Account{
		s: s, phone: phone, lidUser: fmt.Sprintf("%d", 200_000_000_000_001+len(s.accounts)),
		pushName: "+" + phone, key: keys.NewKeyPair(),
		devices: map[uint16]*Device{}, asked: map[*Device]bool{},
	}
	s.accounts[phone], s.byLID[a.lidUser] = a, a
	if s.opt.phones {
		a.addGhost()
	}
	return a
}

// addGhost gives the account a device 0 that has keys and nobody behind it.
func (a *Account) addGhost() {
	d := a.face()
	d.noise = *keys.NewKeyPair().Pub
	a.devices[0] = d
}

// Ghosts registers n accounts that have a device with keys and nobody behind
// it: cheap members for large groups. Messages for them are counted
// and dropped.
func (s *Service) Ghosts(n int) []*Account {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*Account, n)
	for i := range out {
		a := s.newAccount(fmt.Sprintf("88%08d", len(s.accounts)))
		if a.ghost = true; a.devices[0] == nil {
			a.addGhost()
		}
		out[i] = a
	}
	return out
}

// GhostMessages is how many messages a ghost, or a phone listed with
// WithPhones, was sent.
func (s *Service) GhostMessages(a *Account) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := a.devices[0]; d != nil {
		return d.stats.MessagesDelivered
	}
	return 0
}

// JID is the account's phone number address, without a device.
func (a *Account) JID() types.JID { return types.NewJID(a.phone, types.DefaultUserServer) }

// LID is the account's hidden address, without a device.
func (a *Account) LID() types.JID { return types.NewJID(a.lidUser, types.HiddenUserServer) }

// PhoneNumber is the number the account was made with.
func (a *Account) PhoneNumber() string { return a.phone }

// in is the account's address in the same addressing as server.
func (a *Account) in(server string) types.JID {
	if server == types.HiddenUserServer {
		return a.LID()
	}
	return a.JID()
}

// Devices lists the linked devices, oldest first, the phone excepted.
func (a *Account) Devices() []*Device {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	var out []*Device
	for _, id := range a.ids() {
		if id != 0 {
			out = append(out, a.devices[id])
		}
	}
	return out
}

func (a *Account) ids() []uint16 {
	ids := make([]uint16, 0, len(a.devices))
	for id := range a.devices {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (d *Device) jid() types.JID {
	j := d.acct.JID()
	j.Device = d.id
	return j
}

func (d *Device) lid() types.JID {
	j := d.acct.LID()
	j.Device = d.id
	return j
}

// in is the device's address in the same addressing as server.
func (d *Device) in(server string) types.JID {
	if server == types.HiddenUserServer {
		return d.lid()
	}
	return d.jid()
}

// JID is the device's phone number address.
func (d *Device) JID() types.JID { return d.jid() }

// LID is the device's hidden address.
func (d *Device) LID() types.JID { return d.lid() }

// Account is the account that the device is linked to.
func (d *Device) Account() *Account { return d.acct }

// Online reports whether the device is logged in now.
func (d *Device) Online() bool {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	return d.conn != nil && !d.conn.ending.Load()
}

// LastLogin is when the device last logged in; zero if it never has.
func (d *Device) LastLogin() time.Time {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	return d.lastLogin
}

// LastEnd is when the service last saw a connection end on which the device was
// logged in; zero if it has seen none.
func (d *Device) LastEnd() time.Time {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	return d.lastEnd
}

// PreKeys is how many one-time prekeys are left at the service.
func (d *Device) PreKeys() int {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	return len(d.prekeys)
}

// remove unlinks the device. The caller holds s.mu.
func (d *Device) remove(notify bool) {
	if d.acct.devices[d.id] != d {
		return
	}
	delete(d.acct.devices, d.id)
	d.pending = nil
	for _, a := range d.s.accounts {
		delete(a.asked, d)
	}
	d.acct.listChanged()
	if c := d.conn; c != nil {
		if notify {
			c.send(removedNode())
		}
		c.closeAfter(d.s.opt.closeDelay)
	}
}

// listChanged tells those who know the account's device list to ask again.
// The caller holds s.mu.
func (a *Account) listChanged() {
	for d := range a.asked {
		for _, from := range []types.JID{a.JID(), a.LID()} {
			d.deliver(node{Tag: "notification", Attrs: attrs{
				"from": from, "type": "devices", "id": a.s.id(), "t": time.Now().Unix(),
			}, Content: []node{{Tag: "update", Attrs: attrs{"device_hash": "2:update"}}}}, true)
		}
	}
}

func verifySigned(identity [32]byte, k preKey) bool {
	if len(k.Sig) != 64 {
		return false
	}
	return ecc.VerifySignature(ecc.NewDjbECPublicKey(identity),
		append([]byte{ecc.DjbType}, k.Pub[:]...), [64]byte(k.Sig))
}
