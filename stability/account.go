package stability

import "github.com/wastability/wastability/stability/internal/book"

// ownNames are the users of an account's two addresses. The book of messages
// outlives the pairing, and another number may be paired next.
type ownNames struct {
	Number string `json:",omitempty"`
	LID    string `json:",omitempty"`
}

// other reports whether both are known, and are two accounts.
func (o ownNames) other(p ownNames) bool {
	return o.Number != "" && p.Number != "" && o.Number != p.Number && (o.LID == "" || o.LID != p.LID)
}

const whyAnotherAccount = "another account received it, which was paired before"

// belongs is told whose messages are received from now on. Messages of another
// account that still wait are set aside: this account's phone does not have them,
// and its service does not deliver them.
func (r *received) belongs(own ownNames) {
	r.mu.Lock()
	r.own = own
	var theirs []book.Entry
	for k, rec := range r.more {
		if e, ok := r.book.Find(k); ok && e.State != book.SetAside && e.State != book.InHand && rec.Of.other(own) {
			theirs = append(theirs, e)
		}
	}
	r.mu.Unlock()
	for _, e := range theirs {
		r.aside(e, whyAnotherAccount)
	}
}
