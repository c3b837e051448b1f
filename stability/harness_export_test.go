package stability

import (
	"context"
	"time"

	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/reconnect"
)

// Rig gives tests the inside of a Manager's present client, so that each piece
// of evidence can arrive when the test says so.
type Rig struct {
	m  *Manager
	s  *session
	sl *slot
}

// NewRig puts a Manager that is active, with an attached client, into the care
// of Run, as a paired one, and plans an attempt through connect.
func NewRig(m *Manager, tapped bool, id types.JID, connect func(context.Context) error) *Rig {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := &Rig{m: m, s: m.session, sl: m.session.slot}
	r.sl.auto, r.sl.tapped, r.sl.connect = true, tapped, connect
	r.s.paired, r.s.own = true, id
	r.s.machine.Paired(time.Now())
	r.sl.planLocked(time.Now())
	return r
}

func (r *Rig) Received(text string) {
	if st, ok := look(text); ok {
		r.sl.received(st)
	}
}
func (r *Rig) Handle(evt any) { r.sl.handle(evt) }
func (r *Rig) Dial(ctx context.Context) error {
	_, err := r.sl.link.Connect(ctx)
	return err
}

func (r *Rig) Ready() bool {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	return r.sl.ready()
}

func (r *Rig) State() (reconnect.State, reconnect.Policy) {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	return r.s.machine.State(), r.m.cfg.policy
}
