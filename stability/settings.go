package stability

import (
	"time"

	"github.com/wastability/wastability/keepalive"
	core "github.com/wastability/wastability/stability/internal/term"
)

// Settings are the numbers in force, with all defaults filled in.
type Settings struct {
	Lease, Refresh, Margin time.Duration // zero with WithLock

	InitialDelay, MaxDelay   time.Duration
	StableAfter              time.Duration // how long a connection must live to start a new series of delays
	ServiceFloor             time.Duration // least pause after service_unavailable
	ReplacedPause, SlowRetry time.Duration
	ConnectTimeout           time.Duration
	ShutdownTimeout          time.Duration

	StaleAfter, QuietAfter     time.Duration
	HandlerAfter, BacklogAfter time.Duration
	ProbesFailed               int // unanswered pings in a row that end a connection

	HealAttempts int // attempts within HealWindow that make a loop
	HealWindow   time.Duration
	HealBudget   int // restarts within BudgetWindow
	BudgetWindow time.Duration
	HealDisabled bool

	StuckAfter      time.Duration // an outage that becomes an incident
	IncidentRefresh time.Duration
}

// HandOver is how long Run and Close take at most behind the end of Run's context. A
// platform must wait for so long between SIGTERM and the kill. Each step has
// ShutdownTimeout: the setup or the connect function, running handlers, deferred writes
// of the store, the state and the release of the lock. So have the incidents, and the
// sinks with the backend. At last the observers hear the rest.
func (s Settings) HandOver() time.Duration { return 7*s.ShutdownTimeout + observerGrace }

// Heartbeats tell how the lock is doing.
type Heartbeats struct {
	LastRenewalAt time.Time
	Failures      int // failed calls in a row
	LastError     error
	TrustedUntil  time.Time // zero in standby
	Paused        bool      // a renewal must confirm the lease first
}

// Probes tell how alive the connection is, as it was last looked at: within a
// second of every change, and at least every 30 s.
type Probes struct {
	Health       keepalive.Health
	Since        time.Time
	Text         string
	LastReadAt   time.Time // bytes from the server
	LastProbeAt  time.Time // an answered ping of ours; whatsmeow's own pings are not seen one by one
	ProbesFailed int
	HandlerAge   time.Duration // how long the handler has been running that has been running for longest; 0 if none is
	Waiting      int           // messages, receipts and notices that were received and are not with a handler yet; 0 when not known
	WaitingSince time.Time     // when the oldest of them was received
	PerSecond    float64       // how many of them were handled a second, lately
	Undecrypted  int           // messages that could not be decrypted lately

	// AppStateFailed names the parts of the app state (contacts, archived and
	// muted chats) that could not be read, until they can. Only newer versions of
	// whatsmeow tell. Messages are not affected.
	AppStateFailed []string
}

func (m *Manager) settings() Settings {
	p, k := m.cfg.policy.Defaults(), m.cfg.keepalive.Defaults()
	h, g := m.cfg.autoheal.Defaults(), m.cfg.guardPolicy.Defaults()
	s := Settings{
		InitialDelay: p.InitialDelay, MaxDelay: p.MaxDelay, StableAfter: p.StableAfter, ServiceFloor: p.ServiceFloor,
		ReplacedPause: p.ReplacedPause, SlowRetry: p.SlowRetry,
		ConnectTimeout: m.cfg.connectTimeout, ShutdownTimeout: m.cfg.shutdown,
		StaleAfter: k.StaleAfter, QuietAfter: k.QuietAfter, HandlerAfter: k.HandlerAfter, BacklogAfter: k.BacklogAfter, ProbesFailed: k.MaxFailures,
		HealAttempts: h.Attempts, HealWindow: h.Window, HealBudget: h.Budget, BudgetWindow: h.BudgetWindow, HealDisabled: h.Disabled,
		StuckAfter: g.StuckAfter, IncidentRefresh: g.Refresh,
	}
	if m.lease != nil {
		stats := m.lease.Stats()
		s.Lease, s.Refresh, s.Margin = stats.Lease, stats.Refresh, stats.Margin
	}
	return s
}

func (m *Manager) heartbeats() (h Heartbeats) {
	if m.lease == nil {
		return h
	}
	stats := m.lease.Stats()
	h = Heartbeats{LastRenewalAt: stats.LastRenewal, Failures: stats.Failures, LastError: stats.LastError}
	if stats.Live {
		h.TrustedUntil, h.Paused = stats.TrustedUntil, !stats.Held
	}
	return h
}

// probes is the health as it is now, with the socket as s has it.
func (m *Manager) probes(now time.Time, s core.Sight) Probes {
	if m.term == nil || m.term.client == nil {
		return Probes{Health: keepalive.Down, Since: m.last.DisconnectedSince, Text: "There is no connection."}
	}
	a := m.term.client
	v, o := m.term.core.Health(a.observe(now), now, s)
	p := Probes{
		Health: v.Health, Since: v.Since, Text: v.Text, LastReadAt: o.LastReadAt, LastProbeAt: o.LastProbeAt,
		ProbesFailed: o.ProbesFailed, Undecrypted: o.DecryptFailures,
		AppStateFailed: a.appStateFailed(),
		Waiting:        o.Waiting, WaitingSince: o.WaitingSince, PerSecond: o.PerSecond,
	}
	if !o.HandlerSince.IsZero() {
		p.HandlerAge = now.Sub(o.HandlerSince)
	}
	return p
}
