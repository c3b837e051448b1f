package stability

import (
	"context"
	"crypto/sha256"
	"slices"

	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/types"
)

// The names of a message's parts in the event buffer.
//
// whatsmeow names a part by a hash of its ciphertext. Since early in 2026 the hash is
// of more: the kind of the encryption and, as whatsmeow knows them at the moment, the
// chat of a group and the sender. So the name of one part changes with an upgrade of
// whatsmeow and with the way back, and with newer versions also when the sender's LID
// is learned. A part that was decrypted under the one name and is not handled yet
// would be decrypted again under the other, fail as an old counter, and be
// acknowledged: lost. So all names of a part are known here.

// encrypted are the parts of d's message.
func (d *delivery) encrypted() (parts []waBinary.Node) {
	for _, enc := range d.node.GetChildrenByTag("enc") {
		if b, ok := enc.Content.([]byte); ok && len(b) > 0 {
			parts = append(parts, enc)
		}
	}
	return parts
}

// hashesOf are all names that a version of whatsmeow may give to a part.
func (d *delivery) hashesOf(ctx context.Context, part waBinary.Node) [][32]byte {
	ciphertext, _ := part.Content.([]byte)
	hashes := [][32]byte{sha256.Sum256(ciphertext)}
	for _, from := range d.senders(ctx) {
		var more []string
		switch part.AttrGetter().OptionalString("type") {
		case "pkmsg":
			more = []string{"prekey", from.String()}
		case "msg":
			more = []string{"normal", from.String()}
		case "skmsg":
			chat := d.node.AttrGetter().OptionalJIDOrEmpty("from")
			more = []string{"senderkey", chat.String(), from.String()}
		default:
			return hashes // nothing else is in the buffer
		}
		h := sha256.New()
		h.Write(ciphertext)
		for _, m := range more {
			h.Write([]byte{0})
			h.Write([]byte(m))
		}
		h.Write([]byte{0, 0})
		hashes = append(hashes, [32]byte(h.Sum(nil)))
	}
	return hashes
}

// senders are the names of the sending device: as the service gives it, its other
// one, and what the store knows of that.
func (d *delivery) senders(ctx context.Context) (all []types.JID) {
	a := d.node.AttrGetter()
	sender := a.OptionalJIDOrEmpty("participant")
	others := []string{"participant_pn", "participant_lid"}
	if sender.IsEmpty() {
		sender, others = a.OptionalJIDOrEmpty("from"), []string{"sender_pn", "sender_lid"}
	}
	switch sender.Server {
	case types.HostedServer:
		all, sender.Server = append(all, sender), types.DefaultUserServer
	case types.HostedLIDServer:
		all, sender.Server = append(all, sender), types.HiddenUserServer
	}
	all = append(all, sender)
	add := func(j types.JID) {
		if j.IsEmpty() {
			return
		}
		if j.Device == 0 {
			j.Device = sender.Device
		}
		if !slices.Contains(all, j) {
			all = append(all, j)
		}
	}
	for _, name := range others {
		add(a.OptionalJIDOrEmpty(name))
	}
	switch sender.Server {
	case types.DefaultUserServer:
		lid, _ := d.a.device.LIDs.GetLIDForPN(ctx, sender)
		add(lid)
	case types.HiddenUserServer:
		pn, _ := d.a.device.LIDs.GetPNForLID(ctx, sender)
		add(pn)
	}
	return all
}

// OtherHashes implements authstore.Delivery.
func (d *delivery) OtherHashes(ctx context.Context, hash [32]byte) [][32]byte {
	if d.node == nil {
		return nil
	}
	parts := d.encrypted()
	for _, p := range parts {
		if hashes := d.hashesOf(ctx, p); slices.Contains(hashes, hash) || len(parts) == 1 {
			return slices.DeleteFunc(hashes, func(h [32]byte) bool { return h == hash })
		}
	}
	return nil // a version of whatsmeow that is not known
}

// known are all names that whatsmeow may have asked the buffer for. Where parts are all
// parts, those that it did ask for are among them, in a version that is not known too.
func (d *delivery) known(ctx context.Context, parts ...waBinary.Node) (hashes [][32]byte) {
	for _, p := range parts {
		hashes = append(hashes, d.hashesOf(ctx, p)...)
	}
	if len(parts) == len(d.encrypted()) {
		d.mu.Lock()
		defer d.mu.Unlock()
		hashes = append(hashes, d.hashes...)
	}
	return hashes
}
