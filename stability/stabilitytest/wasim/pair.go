package wasim

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.mau.fi/libsignal/ecc"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/proto/waAdv"
	"go.mau.fi/whatsmeow/types"
	"google.golang.org/protobuf/proto"
)

// pairing is a connection that shows QR codes and waits for a phone.
type pairing struct {
	c       *conn
	refs    []string
	expires []time.Time // of each ref
	done    chan struct{}

	dev      *Device // chosen by the phone, registered when the client has signed
	identity *waAdv.ADVSignedDeviceIdentity
	reqID    string
	link     *codeLink
	passkey  *passkeyLink // a passkey was asked for
}

// refGrace is how long after its time a QR code is still accepted.
const refGrace = 10 * time.Second

// ErrNoSuchCode is returned by Scan and EnterCode for a code that no
// connection is showing, or that is no longer valid.
var ErrNoSuchCode = errors.New("wasim: no connection shows this code, or it has expired")

// offerPairing sends the refs from which the client makes QR codes. The
// caller holds s.mu.
func (c *conn) offerPairing() {
	s := c.s
	p := &pairing{c: c, done: make(chan struct{})}
	at := time.Now().Add(s.opt.qrFirst)
	var nodes []node
	for range 6 {
		ref := "2@" + base64.StdEncoding.EncodeToString(randomBytes(24))
		p.refs = append(p.refs, ref)
		p.expires = append(p.expires, at)
		at = at.Add(s.opt.qrRest)
		s.pairings[ref] = p
		nodes = append(nodes, node{Tag: "ref", Content: []byte(ref)})
	}
	c.pair = p
	last := p.expires[5]
	s.wg.Go(func() { // the service ends a connection that nobody scans
		t := time.NewTimer(time.Until(last))
		defer t.Stop()
		select {
		case <-t.C:
		case <-p.done:
			return
		}
		s.mu.Lock()
		asked := p.passkey
		s.mu.Unlock()
		if asked != nil {
			t.Reset(time.Until(asked.until))
			select {
			case <-t.C:
			case <-p.done:
				return
			}
		}
		c.closeAfter(0)
	})
	c.send(node{Tag: "iq", Attrs: attrs{
		"from": types.ServerJID, "type": "set", "id": s.id(), "xmlns": "md",
	}, Content: []node{{Tag: "pair-device", Content: nodes}}})
	if f := s.takeLive(c, true); f != nil {
		s.applyLive(f, c)
	}
}

// end forgets the codes. The caller holds s.mu.
func (p *pairing) end(s *Service) {
	if p.c.pair == p {
		p.c.pair = nil
		close(p.done)
	}
	for _, r := range p.refs {
		delete(s.pairings, r)
	}
	if p.link != nil {
		delete(s.links, p.link.ref)
	}
}

// Phone is an account's phone: it scans QR codes, enters pairing codes, and
// removes devices.
type Phone struct{ a *Account }

// Phone returns the account's phone.
func (a *Account) Phone() *Phone { return &Phone{a} }

// ScanOption changes what a phone does with a code.
type ScanOption func(*scan)

type scan struct{ badHMAC, badSignature, passkey bool }

// BadHMAC makes the phone's answer fail the client's check: PairError.
func BadHMAC() ScanOption { return func(s *scan) { s.badHMAC = true } }

// BadSignature makes the account's signature fail the client's check: PairError.
func BadSignature() ScanOption { return func(s *scan) { s.badSignature = true } }

// linkPage is the address in front of the parts of a QR code that a newer
// client shows, so that a phone's camera finds the right page.
const linkPage = "https://wa.me/settings/linked_devices#"

// codeParts are the ref and the three keys of a QR code, in either of its two
// texts: four parts, or linkPage and five, of which the last says which kind of
// client shows it ("1" for Chrome, for example).
func codeParts(code string) ([]string, error) {
	rest, newer := strings.CutPrefix(code, linkPage)
	parts, want := strings.Split(rest, ","), 4
	if newer {
		want = 5
	}
	if len(parts) != want {
		return nil, fmt.Errorf("wasim: a QR code of this kind has %d parts, this one has %d", want, len(parts))
	}
	if newer && len(parts[4]) != 1 {
		return nil, fmt.Errorf("wasim: QR code: %q is no kind of client", parts[4])
	}
	return parts[:4], nil
}

// Scan scans a QR code, as whatsmeow's events.QR and GetQRChannel give it: the
// four parts of older clients, or the link and five parts of newer ones. It
// returns when the answer is on its way, so that it may be called from an
// event handler; the client is paired when it has logged in again.
func (p *Phone) Scan(code string, opts ...ScanOption) error {
	parts, err := codeParts(code)
	if err != nil {
		return err
	}
	var raw [3][]byte
	for i := range raw {
		b, err := base64.StdEncoding.DecodeString(parts[i+1])
		if err != nil || len(b) != 32 {
			return fmt.Errorf("wasim: QR code: part %d is not a 32 byte key", i+2)
		}
		raw[i] = b
	}
	s := p.a.s
	s.mu.Lock()
	defer s.mu.Unlock()
	pr := s.pairings[parts[0]]
	if pr == nil || time.Now().After(pr.expires[slices.Index(pr.refs, parts[0])].Add(refGrace)) {
		return ErrNoSuchCode
	}
	if !bytes.Equal(raw[0], pr.c.static[:]) {
		return errors.New("wasim: QR code: the Noise key is not that of the connection")
	}
	if !bytes.Equal(raw[1], pr.c.payload.GetDevicePairingData().GetEIdent()) {
		return errors.New("wasim: QR code: the identity key is not that of the connection")
	}
	var how scan
	for _, o := range opts {
		o(&how)
	}
	if how.passkey {
		return pr.askPasskey(p.a, raw[2], opts)
	}
	return p.a.accept(pr, raw[2], opts...)
}

// ScanWithoutMultidevice scans with a phone that cannot link devices: the
// client is told, and the code stays valid.
func (p *Phone) ScanWithoutMultidevice(code string) error {
	s := p.a.s
	s.mu.Lock()
	defer s.mu.Unlock()
	pr := s.pairings[refOf(code)]
	if pr == nil {
		return ErrNoSuchCode
	}
	pr.c.send(downgradeNode())
	return nil
}

func downgradeNode() node {
	return node{Tag: "ib", Attrs: attrs{"from": types.ServerJID}, Content: []node{{Tag: "downgrade_webclient"}}}
}

// RemoveDevice unlinks a device, as the user does on the phone: it gets
// stream:error 401 with device_removed, or failure 401 at its next login.
func (p *Phone) RemoveDevice(d *Device) {
	p.a.s.mu.Lock()
	defer p.a.s.mu.Unlock()
	if d != nil && d.acct == p.a {
		d.remove(true)
	}
}

// accept answers a pairing with pair-success. The caller holds s.mu.
func (a *Account) accept(pr *pairing, advSecret []byte, opts ...ScanOption) error {
	var how scan
	for _, o := range opts {
		o(&how)
	}
	data := pr.c.payload.GetDevicePairingData()
	if len(data.GetEIdent()) != 32 || len(data.GetERegid()) != 4 || len(data.GetESkeyVal()) != 32 || len(data.GetESkeyID()) != 3 {
		return errors.New("wasim: the connection's registration data is malformed")
	}
	sid := data.GetESkeyID()
	d := &Device{
		s: a.s, acct: a, id: a.nextID(), noise: pr.c.static, identity: [32]byte(data.GetEIdent()),
		regID: binary.BigEndian.Uint32(data.GetERegid()), used: map[uint32][32]byte{},
		skey: preKey{ID: uint32(sid[0])<<16 | uint32(sid[1])<<8 | uint32(sid[2]),
			Pub: [32]byte(data.GetESkeyVal()), Sig: data.GetESkeySig()},
	}
	if !verifySigned(d.identity, d.skey) {
		return errors.New("wasim: the signature of the connection's signed prekey is wrong")
	}
	if d.id > 255 {
		return errors.New("wasim: the account has used up its 255 device ids")
	}
	a.lastID, a.reuse = max(a.lastID, d.id), 0
	details := mustMarshal(&waAdv.ADVDeviceIdentity{
		RawID: proto.Uint32(1), Timestamp: proto.Uint64(uint64(time.Now().Unix())), KeyIndex: proto.Uint32(uint32(d.id)),
	})
	sig := ecc.CalculateSignature(ecc.NewDjbECPrivateKey(*a.key.Priv),
		slices.Concat(whatsmeow.AdvAccountSignaturePrefix, details, d.identity[:]))
	if how.badSignature {
		sig[0] ^= 1
	}
	pr.dev, pr.reqID = d, a.s.id()
	pr.identity = &waAdv.ADVSignedDeviceIdentity{
		Details: details, AccountSignature: sig[:], AccountSignatureKey: a.key.Pub[:],
	}
	signed := mustMarshal(pr.identity)
	mac := hmac.New(sha256.New, advSecret)
	mac.Write(signed)
	sum := mac.Sum(nil)
	if how.badHMAC {
		sum[0] ^= 1
	}
	pr.c.send(node{Tag: "iq", Attrs: attrs{
		"from": types.ServerJID, "type": "set", "id": pr.reqID, "xmlns": "md",
	}, Content: []node{{Tag: "pair-success", Content: []node{
		{Tag: "device-identity", Content: mustMarshal(&waAdv.ADVSignedDeviceIdentityHMAC{Details: signed, HMAC: sum})},
		{Tag: "platform", Attrs: attrs{"name": "wasim"}},
		{Tag: "device", Attrs: attrs{"jid": d.jid(), "lid": d.lid()}},
	}}}})
	return nil
}

// nextID is the number that the next device to be paired gets.
func (a *Account) nextID() uint16 {
	if a.reuse != 0 {
		return a.reuse
	}
	return a.lastID + 1
}

// answered takes the client's answers: to pair-device, which says nothing,
// and to pair-success, which links the device. The caller holds s.mu.
func (p *pairing) answered(c *conn, n *node) {
	s := c.s
	if p.dev == nil || str(n, "id") != p.reqID {
		return
	}
	d := p.dev
	if str(n, "type") == "error" {
		d.acct.pairErr = fmt.Errorf("wasim: the client refused the pairing: %s", xml(n))
		p.end(s)
		return
	}
	if err := p.signed(content(n, "pair-device-sign", "device-identity")); err != nil {
		d.acct.pairErr = err
		s.violation("pairing %s: %v", d.jid(), err)
		p.end(s)
		c.closeAfter(0)
		return
	}
	d.acct.devices[d.id], d.acct.pairErr = d, nil
	d.acct.listChanged()
	p.end(s)
	c.send(node{Tag: "stream:error", Attrs: attrs{"code": "515"}})
	c.closeAfter(s.opt.closeDelay)
}

func (p *pairing) signed(b []byte) error {
	var got waAdv.ADVSignedDeviceIdentity
	if err := proto.Unmarshal(b, &got); err != nil || len(got.GetDeviceSignature()) != 64 {
		return errors.New("wasim: the client's device identity is malformed")
	}
	if !bytes.Equal(got.GetDetails(), p.identity.GetDetails()) {
		return errors.New("wasim: the client signed another device identity")
	}
	msg := slices.Concat(whatsmeow.AdvDeviceSignaturePrefix, p.identity.GetDetails(),
		p.dev.identity[:], p.identity.GetAccountSignatureKey())
	if !ecc.VerifySignature(ecc.NewDjbECPublicKey(p.dev.identity), msg, [64]byte(got.GetDeviceSignature())) {
		return errors.New("wasim: the client's device signature is wrong")
	}
	return nil
}

// PairingError is why the last pairing with this account failed, nil if it
// did not.
func (a *Account) PairingError() error {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	return a.pairErr
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

func refOf(code string) string {
	return strings.Split(strings.TrimPrefix(code, linkPage), ",")[0]
}
