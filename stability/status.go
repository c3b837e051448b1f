package stability

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/reconnect"
	core "github.com/wastability/wastability/stability/internal/term"
)

// Mode says whether this instance may use the connection.
type Mode string

// The modes.
const (
	ModeActive   Mode = "active"                    // this instance holds the lock
	ModePassive  Mode = "passive_lock_not_acquired" // another one does, or nobody asked yet
	ModeReleased Mode = "passive_lock_released"     // this instance could not connect, gave the lock up, and asks again at AsksAgainAt
)

// Status is the whole truth about one account as this instance knows it, at
// one moment. Zero times mean never, or not known here.
type Status struct {
	At        time.Time
	Mode      Mode
	ModeSince time.Time // when the present term began, or the last one ended; in the first standby, when New was called
	Closed    bool      // Close was called: nothing happens any more

	Running    bool      // Run looks after the account
	RunEndedAt time.Time // when Run returned; zero while it runs, before the first, and when the account goes on by hand
	RunError   error     // and with what; nil where the host ended it

	WA                   reconnect.Status
	ConnectedAt          time.Time // of the present connection, or the last one
	LastDisconnectAt     time.Time
	LastDisconnectReason reconnect.Reason
	LastDisconnectDetail string
	DisconnectedSince    time.Time // start of the present outage; zero while connected
	RetryCount           int       // of the present trouble: 0 while connected. State has what a new trouble would go on from
	NextRetryAt          time.Time // zero when no attempt is planned
	Connecting           bool      // an attempt is under way
	QRAvailable          bool      // QR has a code to scan
	PhoneCodeUntil       time.Time // PairPhone gave a code to type into the phone, which lasts so long; zero without one
	PasskeyAsked         bool      // the code was scanned, and WhatsApp asks for a passkey: the program must answer
	Parked               bool      // Run waits until somebody calls WaitQR, PairPhone or Reconnect

	AuthStore string          // Backend.Name
	Auth      *authstore.Info // nil when it is not known here, as in standby

	// Yield is the newest time that a holder gave the lock up because it could not
	// connect for a reason that may be its own: by whom, to whom, and why. It stays
	// until the next trouble begins. By is empty when there was none.
	Yield       reconnect.Yield
	AsksAgainAt time.Time // this instance gave the lock up, and does not ask for it before; else zero

	LockHolder            string
	LockHolderHere        bool // the holder is another Manager of this very process
	LockLeaseUntil        time.Time
	LockSeenAt            time.Time // when this instance last asked who holds the lock; zero while it holds it itself
	LockMayBeFree         bool      // the lease that was seen then has run out by this instance's clock
	LockKept              bool      // between two terms of this instance, behind a heal: it holds the lock for the next one
	LeaseEpoch            int64
	TrustedUntil          time.Time // this instance's own term; zero without one
	InstanceID            string
	StoreUnavailable      error     // why the backend does not answer, be it only for the lock; nil while it does
	StoreUnavailableSince time.Time // zero while it answers; with a lock that is not renewed, its last renewal

	LastEventAt   time.Time
	LastMessageAt time.Time
	Messages      Messages // their outcomes

	State      reconnect.State // what is persisted, or will be next
	Settings   Settings
	Heartbeats Heartbeats
	Probes     Probes

	// Compat says what of whatsmeow's inside was not found as this library
	// knows it; nil when all is well.
	Compat *Compat

	// Summary says in plain words what is wrong, since when, and what happens
	// next.
	Summary string
}

// Status returns the present state. No I/O, no waiting.
func (m *Manager) Status() Status {
	now := time.Now()
	st := Status{
		At: now, Mode: ModePassive, AuthStore: m.cfg.backend.Name,
		LastEventAt: m.clocks.lastEventAt(), LastMessageAt: m.clocks.lastMessageAt(),
	}
	m.lockStatus(&st)
	st.Settings, st.Heartbeats = m.settings(), m.heartbeats()
	m.mu.Lock()
	redelivers := m.term != nil && m.term.core.Connects()
	m.mu.Unlock()
	st.Messages.Received = m.received.status(now, redelivers)

	m.mu.Lock()
	defer m.mu.Unlock()
	st.ModeSince, st.Closed = m.seat.since, m.seat.at == shut
	st.Running, st.RunEndedAt, st.RunError = m.runs.on, m.runs.ended, m.runs.err
	st.Compat = m.compatNow()
	st.Messages.Sent, st.Messages.Resends = m.sentNow(now), m.resendsNow()
	if m.outage.err != nil {
		st.StoreUnavailable, st.StoreUnavailableSince = m.outage.err, m.outage.since
	}
	if hb := st.Heartbeats; st.StoreUnavailable == nil && m.term != nil && hb.Failures > 0 {
		st.StoreUnavailable, st.StoreUnavailableSince = hb.LastError, hb.LastRenewalAt
	}
	state := m.last
	if t := m.term; t == nil {
		st.WA = m.waStatus()
		st.Probes = m.probes(now, core.Sight{})
		if m.heir != nil && m.heir.Held() {
			r := m.heir.Record()
			st.LockKept = true
			st.LockHolder, st.LockLeaseUntil, st.LeaseEpoch, st.InstanceID = r.Holder, r.LeaseUntil, r.Epoch, r.Holder
		}
	} else {
		sight := t.sight()
		v := t.core.View(now, sight)
		state = t.sign(v.State)
		st.WA, st.Probes = v.Status, m.probes(now, sight)
		if !v.Ending {
			st.Mode = ModeActive
		}
		r := t.hold.Record()
		st.LockHolder, st.LockLeaseUntil, st.LeaseEpoch, st.InstanceID = r.Holder, r.LeaseUntil, r.Epoch, r.Holder
		st.LockHolderHere, st.LockMayBeFree, st.LockSeenAt = false, false, time.Time{}
		st.TrustedUntil = t.hold.TrustedUntil()
		st.Parked = v.Parked
		if v.Device != core.Unread && !v.Ending { // else the store would have to look
			if info, err := m.storeInfo(); err == nil {
				st.Auth = &info
			}
		}
		st.Connecting = v.Calling
		st.QRAvailable = v.Code != "" && now.Before(v.Until)
		st.PasskeyAsked = v.Passkey
		if now.Before(v.Typed) {
			st.PhoneCodeUntil = v.Typed
		}
		st.NextRetryAt = v.Planned
	}
	st.yieldStatus(state, m.seat.rest)
	st.State = state
	st.ConnectedAt, st.LastDisconnectAt = state.ConnectedAt, state.LastDisconnectAt
	st.LastDisconnectReason, st.LastDisconnectDetail = state.LastDisconnectReason, state.LastDisconnectDetail
	st.RetryCount = state.RetryCount
	if st.WA == reconnect.StatusConnected {
		st.RetryCount = 0
	} else {
		st.DisconnectedSince = state.DisconnectedSince
		if st.NextRetryAt.IsZero() && st.Mode == ModeActive && st.WA == reconnect.StatusDisconnected && !st.Connecting {
			st.NextRetryAt = state.NextRetryAt
		}
	}
	st.Summary = st.summary()
	return st
}

// lockStatus fills in what is known of the lock without asking for it.
func (m *Manager) lockStatus(st *Status) {
	if m.lease == nil {
		return
	}
	stats := m.lease.Stats()
	st.InstanceID = stats.Holder
	st.LeaseEpoch = stats.Seen.Epoch
	if stats.Seen.Holder != stats.Holder { // its own it has given back; else it is a term's, below
		st.LockHolder, st.LockLeaseUntil = stats.Seen.Holder, stats.Seen.LeaseUntil
		st.LockHolderHere, st.LockSeenAt = heldHere(stats.Seen), stats.LookedAt
		st.LockMayBeFree = stats.SeenOver && !st.LockHolderHere
	}
}

// storeInfo asks the store for what it knows without I/O.
func (m *Manager) storeInfo() (authstore.Info, error) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // an answer that would have to wait is not worth it
	return m.store.Info(ctx)
}

// sight is the socket of the newest connection as it is at this moment.
func (t *term) sight() core.Sight {
	s := core.Sight{Up: t.up()}
	if !s.Up {
		s.Gone = t.socketGone()
	}
	return s
}

// waStatus is what an operator may believe now: connected only on a socket that
// is up.
func (m *Manager) waStatus() reconnect.Status {
	switch {
	case m.term != nil:
		return m.term.core.Status(m.term.up())
	case m.last.Status == reconnect.StatusNeedsPairing && m.seat.at == passive: // else the holder knows
		return reconnect.StatusNeedsPairing
	}
	return reconnect.StatusDisconnected
}

func (st *Status) summary() string {
	ago := func(t time.Time) string { return keepalive.Span(st.At.Sub(t)) }
	var text reconnect.Text
	if st.LastDisconnectReason != reconnect.ReasonNone {
		text = st.LastDisconnectReason.Text()
	}
	if text.Do == "Nothing." { // that is no advice where somebody has to ask
		text.Do = ""
	}
	switch {
	case st.Closed:
		return "Closed: this instance does nothing any more."
	case st.Mode != ModeActive && st.RunError != nil:
		return "Run has ended with an error, and nobody looks after this account here until it is called again. The error: " + st.RunError.Error() + "."
	case st.Mode == ModeReleased:
		return "Released:" + st.yieldText(ago) + " Another one can connect meanwhile. It asks for the lock again in " + keepalive.Span(st.AsksAgainAt.Sub(st.At)) + "."
	case st.Mode == ModePassive && st.StoreUnavailable != nil:
		return "The backend does not answer, so nobody knows who holds the lock. It is asked again until it does. The error: " + st.StoreUnavailable.Error() + "."
	case st.Mode == ModePassive && st.LockMayBeFree:
		next := " This instance takes it only when the program asks for it."
		if st.Running {
			next = " This instance asks again."
		}
		return "Not active: " + st.LockHolder + " held the lock when this instance last asked, " + ago(st.LockSeenAt) + " ago, and may have given it up since." + next + st.yieldText(ago)
	case st.Mode == ModePassive && st.LockHolder != "" && st.LockHolder != st.InstanceID:
		who, does := st.LockHolder, " holds the lock. This instance takes over when it is released or expires."
		if !st.Running {
			does = " holds the lock. This instance can take it when it is released or expires."
		}
		if st.LockHolderHere {
			who = "another Manager of this process (" + who + ")"
		}
		return "Standing by: " + who + does + st.yieldText(ago)
	case st.LockKept:
		return "Not active: a reconnect loop was broken, and this instance keeps the lock for a new term. If none begins soon, it gives the lock up."
	case st.Mode == ModePassive && st.LockHolder != "":
		return "Handing over: this instance ends its term. Then it gives the lock up, unless it has lost it or keeps it for a new term."
	case st.Mode == ModePassive && st.Running:
		return "Not active: this instance asks for the lock, and knows of no other that holds it." + st.yieldText(ago)
	case st.Mode == ModePassive:
		return "Not active: this instance does not hold the lock, and takes it only when the program asks for it." + st.yieldText(ago)
	case st.WA == reconnect.StatusConnected && st.Heartbeats.Failures > 0 && !st.Heartbeats.TrustedUntil.IsZero():
		return fmt.Sprintf("Connected for %s, but the backend does not answer: the lock could not be renewed for %s. Unless it can, the connection is cut in %s.",
			ago(st.ConnectedAt), ago(st.Heartbeats.LastRenewalAt), keepalive.Span(st.Heartbeats.TrustedUntil.Sub(st.At)))
	case st.WA == reconnect.StatusConnected && st.StoreUnavailable != nil:
		return "Connected for " + ago(st.ConnectedAt) + ", but the backend has not answered for " + ago(st.StoreUnavailableSince) + ". It is asked again every few seconds, and the connection is cut if that lasts."
	case st.WA == reconnect.StatusConnected && (st.Probes.Health == keepalive.OK || st.Probes.Health == ""):
		_, backlog, _ := strings.Cut(st.Probes.Text, ".") // if there is one
		return "Connected for " + ago(st.ConnectedAt) + "." + st.yieldText(ago) + backlog + st.Messages.Sent.limits()
	case st.WA == reconnect.StatusConnected && st.Probes.Health == keepalive.Quiet:
		return "Connected for " + ago(st.ConnectedAt) + strings.TrimPrefix(st.Probes.Text, "Connected") + st.Messages.Sent.limits()
	case st.WA == reconnect.StatusConnected:
		return "Connected for " + ago(st.ConnectedAt) + ". " + st.Probes.Text
	}
	out := "Disconnected"
	if st.WA == reconnect.StatusNeedsPairing {
		out = "Not paired"
	}
	switch st.LastDisconnectReason {
	case reconnect.ReasonAccountBanned:
		out = "Banned by WhatsApp: not connected"
	case reconnect.ReasonAccountLocked:
		out = "Locked by WhatsApp: not connected"
	}
	if !st.DisconnectedSince.IsZero() {
		out += " for " + ago(st.DisconnectedSince)
	}
	if st.StoreUnavailable != nil {
		out += ": the backend does not answer, and no attempt begins before it does."
		if st.LastDisconnectReason != reconnect.ReasonNone && st.LastDisconnectReason != reconnect.ReasonStoreUnavailable {
			out += fmt.Sprintf(" The connection ended with %s.", st.LastDisconnectReason)
		}
		return out
	}
	if st.LastDisconnectReason != reconnect.ReasonNone {
		out += fmt.Sprintf(" (%s). %s", st.LastDisconnectReason, text.Means)
		if strings.HasPrefix(st.LastDisconnectDetail, "the proxy ") { // the host's own, which it should know
			out += " Reported: " + st.LastDisconnectDetail + "."
		}
		if first := st.State.FirstDisconnectReason; first != reconnect.ReasonNone && first != st.LastDisconnectReason {
			out += fmt.Sprintf(" It began with %s.", first)
		}
	} else {
		out += "."
	}
	switch {
	case st.PasskeyAsked:
		out += " The code was scanned, and WhatsApp asks for a passkey: this program must answer with one."
	case !st.PhoneCodeUntil.IsZero():
		out += fmt.Sprintf(" Type the code that was asked for into the phone, under Linked devices, Link with phone number: it lasts another %s.", keepalive.Span(st.PhoneCodeUntil.Sub(st.At)))
	case st.QRAvailable:
		out += " Scan the code with the phone, under Linked devices."
	case st.Parked && st.WA == reconnect.StatusNeedsPairing && st.LastDisconnectReason.Action() == reconnect.ActionStop:
		out += " " + text.Do + " No code to scan is offered before somebody asks for one."
	case st.Parked && st.WA == reconnect.StatusNeedsPairing:
		out += " Nothing happens until somebody asks for a code to scan. " + text.Do
	case st.Parked:
		out += " No attempt is made until somebody asks for one. " + text.Do
	case st.Connecting && st.WA == reconnect.StatusNeedsPairing:
		out += " A code to scan is on its way."
	case st.Connecting:
		out += " An attempt is under way."
	case !st.NextRetryAt.IsZero() && (st.Running || st.NextRetryAt.After(st.At)):
		out += fmt.Sprintf(" Next attempt in %s.", keepalive.Span(st.NextRetryAt.Sub(st.At)))
	case !st.NextRetryAt.IsZero(): // by hand nobody here makes it
		out += fmt.Sprintf(" It is the program's move: its next attempt has been due for %s.", ago(st.NextRetryAt))
	default:
		out += " No attempt is planned. " + text.Do
	}
	out += st.yieldText(ago)
	return strings.TrimRight(out, " ")
}
