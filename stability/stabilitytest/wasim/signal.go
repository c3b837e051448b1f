package wasim

import (
	"bytes"
	"context"
	"fmt"

	"go.mau.fi/libsignal/ecc"
	"go.mau.fi/libsignal/keys/identity"
	"go.mau.fi/libsignal/keys/prekey"
	"go.mau.fi/libsignal/protocol"
	"go.mau.fi/libsignal/session"
	"go.mau.fi/libsignal/util/optional"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// endpoint is a side of Signal sessions without a client around it: what a
// phone reads and writes with. It is used under s.mu, which is right because
// nothing in it waits.
type endpoint struct {
	dev   *store.Device
	mem   *memStore
	known map[*Device]bool // with whom there is a session
}

func newEndpoint(a *Account) *endpoint {
	m := newMemStore()
	lid := a.LID()
	pn := a.JID()
	d := &store.Device{
		NoiseKey: a.key, IdentityKey: a.key, SignedPreKey: a.signedPreKey(), RegistrationID: phoneRegistration,
		ID: &pn, LID: lid, Container: m,
	}
	m.attach(d)
	return &endpoint{dev: d, mem: m, known: map[*Device]bool{}}
}

// encrypt makes an <enc> for a device. The first one, and any after forget,
// begins a session with what the service has of the device's prekeys.
func (e *endpoint) encrypt(to *Device, plain []byte) (node, error) {
	var out node
	err := e.mem.DoDecryptionTxn(context.Background(), func(ctx context.Context) error {
		addr := to.lid().SignalAddress()
		builder := session.NewBuilderFromSignal(e.dev, addr, store.SignalProtobufSerializer)
		if !e.known[to] {
			if err := e.begin(ctx, builder, to); err != nil {
				return err
			}
		}
		pad := randomBytes(1)[0]&0xf | 1
		padded := append(bytes.Clone(plain), bytes.Repeat([]byte{pad}, int(pad))...)
		sealed, err := session.NewCipher(builder, addr).Encrypt(ctx, padded)
		if err != nil {
			return err
		}
		out = node{Tag: "enc", Attrs: attrs{"v": "2", "type": "msg"}, Content: sealed.Serialize()}
		if sealed.Type() == protocol.PREKEY_TYPE {
			out.Attrs["type"] = "pkmsg"
		}
		return nil
	})
	if err != nil {
		return out, fmt.Errorf("wasim: encrypting for %s: %w", to.jid(), err)
	}
	e.known[to] = true
	return out, nil
}

func (e *endpoint) begin(ctx context.Context, builder *session.Builder, to *Device) error {
	addr := to.lid().SignalAddress().String()
	_ = e.mem.DeleteSession(ctx, addr)
	_ = e.mem.DeleteIdentity(ctx, addr)
	id, key := optional.NewEmptyUint32(), ecc.ECPublicKeyable(nil)
	if k, ok := to.takePreKey(); ok {
		id, key = optional.NewOptionalUint32(k.ID), ecc.NewDjbECPublicKey(k.Pub)
	}
	return builder.ProcessBundle(ctx, prekey.NewBundle(to.regID, uint32(to.id), id, to.skey.ID, key,
		ecc.NewDjbECPublicKey(to.skey.Pub), [64]byte(to.skey.Sig), identity.NewKey(ecc.NewDjbECPublicKey(to.identity))))
}

// forget makes the next message to a device begin a new session.
func (e *endpoint) forget(d *Device) { delete(e.known, d) }

// decrypt opens what a device encrypted for the account's phone.
func (e *endpoint) decrypt(from *Device, enc *node) (plain []byte, err error) {
	b, _ := enc.Content.([]byte)
	ser := store.SignalProtobufSerializer
	err = e.mem.DoDecryptionTxn(context.Background(), func(ctx context.Context) error {
		addr := from.lid().SignalAddress()
		cipher := session.NewCipher(session.NewBuilderFromSignal(e.dev, addr, ser), addr)
		if str(enc, "type") == "pkmsg" {
			m, err := protocol.NewPreKeySignalMessageFromBytes(b, ser.PreKeySignalMessage, ser.SignalMessage)
			if err != nil {
				return err
			}
			plain, err = cipher.DecryptMessage(ctx, m)
			return err
		}
		m, err := protocol.NewSignalMessageFromBytes(b, ser.SignalMessage)
		if err != nil {
			return err
		}
		plain, err = cipher.Decrypt(ctx, m)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("wasim: decrypting from %s: %w", from.jid(), err)
	}
	if n := len(plain); n == 0 || int(plain[n-1]) > n {
		return nil, fmt.Errorf("wasim: decrypting from %s: bad padding", from.jid())
	}
	e.known[from] = true
	return plain[:len(plain)-int(plain[len(plain)-1])], nil
}

// takePreKey hands out a one-time prekey, if one is left.
func (d *Device) takePreKey() (preKey, bool) {
	if len(d.prekeys) == 0 {
		return preKey{}, false
	}
	k := d.prekeys[0]
	d.prekeys = d.prekeys[1:]
	d.stats.PreKeysHandedOut++
	return k, true
}

// phoneAt is the phone at an address, if it is on, or will be.
func (s *Service) phoneAt(j types.JID) *Phone {
	if a := s.account(j); a != nil && j.Device == 0 && a.live != nil && (a.live.on || a.live.late) {
		return &Phone{a}
	}
	return nil
}
