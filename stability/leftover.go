package stability

import (
	"crypto/sha256"
	"time"

	waBinary "go.mau.fi/whatsmeow/binary"

	"github.com/wastability/wastability/authstore"
)

// What a killed process has left in the event buffer: see
// ReceivedMessages.PerhapsHandled and authstore.EventLeftovers.

const (
	settleAfter = 15 * time.Minute // behind the backlog of a login: whoever handles it has begun
	settleAgain = 24 * time.Hour
)

// stillDelivered tells the store of a message that the service has delivered and
// that whatsmeow is not given.
func (m *Manager) stillDelivered(message *waBinary.Node) {
	s, ok := m.store.(authstore.EventLeftovers)
	if !ok {
		return
	}
	for _, hash := range hashesOf(message) {
		s.DeliveredEvent(hash)
	}
}

// hashesOf names the parts of a message as whatsmeow does in the event buffer.
func hashesOf(message *waBinary.Node) (hashes [][32]byte) {
	for _, enc := range message.GetChildrenByTag("enc") {
		if b, ok := enc.Content.([]byte); ok {
			hashes = append(hashes, hashOf(b))
		}
	}
	return hashes
}

// hashOf is the name of a part in the event buffer, by its ciphertext.
func hashOf(ciphertext []byte) [32]byte { return sha256.Sum256(ciphertext) }

// settle is called when the service has delivered all that it has.
func (r *received) settle() {
	s, ok := r.m.store.(authstore.EventLeftovers)
	if !ok {
		return
	}
	before, _ := s.LeftoverEvents()
	if s.SettleEvents(r.judge) != nil {
		return // the term is over
	}
	if n, _ := s.LeftoverEvents(); n > before {
		r.m.cfg.logger.Warn("decrypted messages of a process that was killed, or lost the backend, were perhaps handled: WhatsApp does not deliver them again", "messages", n)
	}
	r.tell()
}

// judge says whether the book has the message with that plaintext. One
// that does not parse was most likely given to no handler: whatsmeow acknowledges it.
func (r *received) judge(plaintext []byte) authstore.Leftover {
	raw, _, ok := unpadded(plaintext)
	if !ok {
		return authstore.LeftoverUseless
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range r.more {
		if !rec.OfPhone && rec.has(raw) {
			return authstore.LeftoverKnown
		}
	}
	return authstore.LeftoverPerhapsHandled
}
