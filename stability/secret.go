package stability

import (
	"google.golang.org/protobuf/encoding/protowire"

	"go.mau.fi/whatsmeow/store"

	"github.com/wastability/wastability/authstore"
)

// The secret of a message is the key to its later votes, edits and reactions.
// whatsmeow stores it behind the decryption, and acknowledges the message soon
// after. The event buffer is told of it earlier, so that both are in one commit.

var _ authstore.SecretDelivery = (*delivery)(nil)

// Secret implements authstore.SecretDelivery.
func (d *delivery) Secret(plaintext []byte) (in store.MessageSecretInsert, ok bool) {
	if d.node == nil {
		return in, false
	}
	for _, part := range d.encrypted() {
		if a := part.AttrGetter(); a.OptionalInt("v") != 2 {
			return in, false
		}
	}
	d.mu.Lock()
	d.content.plaintext = plaintext
	d.mu.Unlock()
	secret := secretOf(plaintext)
	if len(secret) == 0 {
		return in, false
	}
	parser, ok := any(d.a.client.DangerousInternals()).(messageParser)
	if !ok {
		return in, false
	}
	info, err := parser.ParseMessageInfo(d.node)
	if err != nil || info == nil {
		return in, false
	}
	return store.MessageSecretInsert{Chat: info.Chat, Sender: info.Sender, ID: info.ID, Secret: secret}, true
}

// The fields of waE2E.Message on the way to the secret.
const (
	contextInfoField = 35
	secretField      = 3
)

// secretOf finds the secret in a decrypted message with its padding. Parsing the
// whole message would cost more than all else here.
func secretOf(plaintext []byte) []byte {
	return lastField(lastField(withoutPadding(plaintext), contextInfoField), secretField)
}

// lastField is the last value of a field of bytes: a parser takes that one.
func lastField(b []byte, field protowire.Number) (value []byte) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil
		}
		b = b[n:]
		size := protowire.ConsumeFieldValue(num, typ, b)
		if size < 0 {
			return nil
		}
		if num == field && typ == protowire.BytesType {
			value, _ = protowire.ConsumeBytes(b)
		}
		b = b[size:]
	}
	return value
}
