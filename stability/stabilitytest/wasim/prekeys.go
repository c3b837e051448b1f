package wasim

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.mau.fi/libsignal/ecc"
	"go.mau.fi/whatsmeow/types"
)

// encrypt answers the three queries about prekeys: how many are left, here
// are more, and give me a bundle for these devices.
func (c *conn) encrypt(n *node) {
	switch {
	case str(n, "type") == "set" && child(n, "list") != nil:
		if err := c.dev.upload(n); err != nil {
			c.s.violation("prekey upload by %s: %v", c.dev.jid(), err)
			c.iqError(n, 406, "not-acceptable")
			return
		}
		c.result(n)
	case str(n, "type") == "get" && child(n, "count") != nil:
		left := len(c.dev.prekeys)
		if c.s.opt.fewKeys {
			left = max(left, 1)
		}
		c.result(n, node{Tag: "count", Attrs: attrs{"value": left}})
	case str(n, "type") == "get" && child(n, "key") != nil:
		var users []node
		for _, u := range child(n, "key").GetChildren() {
			users = append(users, c.s.bundle(jid(&u, "jid")))
		}
		c.result(n, node{Tag: "list", Content: users})
	default:
		c.unknown(n)
	}
}

// upload takes one-time prekeys and the signed prekey. A key that is already
// here, or was handed out, is not taken again: repeating an upload whose
// answer was lost is allowed, giving one id to two keys is not.
func (d *Device) upload(n *node) error {
	if id := content(n, "identity"); string(id) != string(d.identity[:]) {
		return errors.New("another identity key than at pairing")
	}
	skey, err := parsePreKey(child(n, "skey"))
	if err != nil {
		return fmt.Errorf("signed prekey: %w", err)
	}
	if !verifySigned(d.identity, skey) {
		return errors.New("signed prekey: bad signature")
	}
	var fresh []preKey
	for _, k := range child(n, "list").GetChildren() {
		pk, err := parsePreKey(&k)
		if err != nil {
			return err
		}
		if old, ok := d.used[pk.ID]; ok {
			if old == pk.Pub {
				continue
			}
			if !d.s.opt.keyReuse {
				return fmt.Errorf("id %d given to another key", pk.ID)
			}
		}
		fresh = append(fresh, pk)
	}
	for _, pk := range fresh {
		d.used[pk.ID] = pk.Pub
	}
	d.prekeys = append(d.prekeys, fresh...)
	d.skey = skey
	d.stats.PreKeysUploaded += len(fresh)
	if reg := content(n, "registration"); len(reg) == 4 {
		d.regID = binary.BigEndian.Uint32(reg)
	}
	return nil
}

func parsePreKey(n *node) (preKey, error) {
	id, value := content(n, "id"), content(n, "value")
	if len(id) != 3 || len(value) != 32 {
		return preKey{}, fmt.Errorf("malformed prekey: id of %d bytes, key of %d", len(id), len(value))
	}
	return preKey{
		ID:  uint32(id[0])<<16 | uint32(id[1])<<8 | uint32(id[2]),
		Pub: [32]byte(value), Sig: content(n, "signature"),
	}, nil
}

func (k preKey) node(tag string) node {
	n := node{Tag: tag, Content: []node{
		{Tag: "id", Content: []byte{byte(k.ID >> 16), byte(k.ID >> 8), byte(k.ID)}},
		{Tag: "value", Content: k.Pub[:]},
	}}
	if k.Sig != nil {
		n.Content = append(n.GetChildren(), node{Tag: "signature", Content: k.Sig})
	}
	return n
}

// bundle hands out what it takes to begin a session with a device. Its
// one-time prekey, if one is left, leaves the service with it.
func (s *Service) bundle(who types.JID) node {
	d := s.device(who)
	if p := s.phoneAt(who); d == nil && p != nil {
		d = p.a.face()
	}
	if d == nil || d.skey.Sig == nil {
		return node{Tag: "user", Attrs: attrs{"jid": who}, Content: []node{
			{Tag: "error", Attrs: attrs{"code": "404", "text": "item-not-found"}},
		}}
	}
	content := []node{
		{Tag: "registration", Content: binary.BigEndian.AppendUint32(nil, d.regID)},
		{Tag: "type", Content: []byte{ecc.DjbType}},
		{Tag: "identity", Content: d.identity[:]},
	}
	if k, ok := d.takePreKey(); ok {
		content = append(content, k.node("key"))
	}
	content = append(content, d.skey.node("skey"))
	return node{Tag: "user", Attrs: attrs{"jid": who}, Content: content}
}
