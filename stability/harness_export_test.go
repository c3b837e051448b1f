package stability

import (
	"context"
	"time"

	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/internal/book"
	core "github.com/wastability/wastability/stability/internal/term"
)

// Rig gives tests the inside of a Manager's present client, so that each piece
// of evidence can arrive when the test says so.
type Rig struct {
	m *Manager
	t *term
	a *attachment
}

// NewRig puts a Manager that is active, with an attached client, into the care
// of Run, as a paired one, and plans an attempt through connect.
func NewRig(m *Manager, tapped bool, id types.JID, connect func(context.Context) error) *Rig {
	r := &Rig{m: m, t: m.term, a: m.term.client}
	for _, e := range []core.Evidence{
		core.Attach{Client: 2, Auto: true, Tapped: tapped}, core.PhoneAccepted{Client: 2}, core.Ready{Client: 2},
	} {
		r.t.noteWith(func() core.Evidence {
			r.a.number, r.a.auto, r.a.tapped, r.a.connect, r.t.own = 2, true, tapped, connect, id
			return e
		})
	}
	return r
}

func (r *Rig) Received(text string) {
	if st, ok := look(text); ok {
		r.a.received(st, text)
	}
}
func (r *Rig) Handle(evt any) { r.a.handle(evt) }
func (r *Rig) Dial(ctx context.Context) error {
	_, err := r.a.link.Connect(ctx)
	return err
}

func (r *Rig) Ready() bool {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	return r.a.ready()
}

func (r *Rig) State() (reconnect.State, reconnect.Policy) {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	return r.t.core.State(), r.m.cfg.policy
}

// SummaryOf is what a status says in plain words.
func SummaryOf(st Status) string { return st.summary() }

// Accounts tells what the account of received messages knows: since when it is that of
// this term (zero where there is none), and whether a message is in it.
func Accounts(m *Manager) (begun time.Time, has func(id, chat, sender string) bool) {
	r := &m.received
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.term.read {
		begun = r.care.begun
	}
	return begun, func(id, chat, sender string) bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		_, ok := r.book.Find(book.Key{ID: id, Chat: chat, Sender: sender})
		return ok
	}
}

// InHand are the stanzas of the messages that are being handled.
func InHand(m *Manager) (all []*waBinary.Node) {
	m.received.mu.Lock()
	defer m.received.mu.Unlock()
	for _, d := range m.received.inHand {
		if d.node != nil {
			all = append(all, d.node)
		}
	}
	return all
}
