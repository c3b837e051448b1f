package adminhttp

import (
	"time"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
)

// stamp is a time as this API writes it: RFC 3339, UTC, milliseconds; null for
// the zero time.
type stamp time.Time

func (s stamp) MarshalJSON() ([]byte, error) {
	t := time.Time(s).UTC()
	if t.IsZero() || t.Year() < 0 || t.Year() > 9999 {
		return []byte("null"), nil
	}
	return t.AppendFormat(make([]byte, 0, len(`"2006-01-02T15:04:05.000Z"`)), `"2006-01-02T15:04:05.000Z"`), nil
}

func stamps(list []time.Time) []stamp {
	out := make([]stamp, len(list))
	for i, t := range list {
		out[i] = stamp(t)
	}
	return out
}

// value is nil, which is null, unless known.
func value[T any](v T, known bool) *T {
	if !known {
		return nil
	}
	return &v
}

// filled is nil for the zero value.
func filled[T comparable](v T) *T {
	var zero T
	return value(v, v != zero)
}

// statusDoc is the answer of status-now.
type statusDoc struct {
	Success    bool          `json:"success"`
	Timestamp  stamp         `json:"timestamp"`
	Summary    string        `json:"summary"`
	WA         waDoc         `json:"wa"`
	State      *stateDoc     `json:"state"`
	Config     configDoc     `json:"config"`
	Heartbeats heartbeatsDoc `json:"heartbeats"`
	Probes     probesDoc     `json:"probes"`
}

type waDoc struct {
	// the four questions, and what to do
	Summary    string  `json:"summary"`    // what is wrong
	Since      stamp   `json:"since"`      // since when
	ReasonText *string `json:"reasonText"` // why; null when nothing is wrong
	NextStep   string  `json:"nextStep"`   // what happens next by itself
	WhatToDo   *string `json:"whatToDo"`   // null when nobody needs to do anything

	Mode      stability.Mode   `json:"waMode"`
	ModeSince stamp            `json:"waModeSince"`
	RunError  *string          `json:"runError"` // null unless Run has ended with one
	Status    reconnect.Status `json:"waStatus"`
	Health    *string          `json:"health"`

	ConnectedAt          stamp   `json:"connectedAt"`
	DisconnectedSince    stamp   `json:"disconnectedSince"`
	LastDisconnectAt     stamp   `json:"lastDisconnectAt"`
	LastDisconnectReason *string `json:"lastDisconnectReason"`
	LastDisconnectCode   *int    `json:"lastDisconnectCode"`
	LastDisconnectDetail *string `json:"lastDisconnectDetail"`
	// how the present trouble began, where the last reason says why it goes on;
	// null once a connection is stable again
	FirstDisconnectAt     stamp   `json:"firstDisconnectAt"`
	FirstDisconnectReason *string `json:"firstDisconnectReason"`
	RetryCount            *int    `json:"retryCount"`
	NextRetryAt           stamp   `json:"nextRetryAt"`
	NotBefore             stamp   `json:"notBefore"` // end of a temporary ban
	Connecting            bool    `json:"connecting"`
	QRAvailable           bool    `json:"qrAvailable"`
	PhoneCodeUntil        stamp   `json:"phoneCodeUntil"` // null unless a code waits to be typed into the phone
	WaitsForOperator      bool    `json:"waitsForOperator"`

	AuthStore       string  `json:"authStore"`
	AuthStateExists *bool   `json:"authStateExists"`
	AuthKeyCount    *int    `json:"authKeyCount"`
	AuthSizes       *sizes  `json:"authSizes"` // of what grows with traffic
	LastAuthWriteAt stamp   `json:"lastAuthWriteAt"`
	Account         *string `json:"account"`

	// the newest time that a holder gave the lock up because it could not connect;
	// absent when there was none
	Yield       *yieldDoc `json:"yield,omitempty"`
	AsksAgainAt *stamp    `json:"asksAgainAt,omitempty"` // this instance gave it up, and does not ask for it before

	InstanceID            *string `json:"instanceId"`
	LockHolder            *string `json:"lockHolder"`
	LockLeaseUntil        *int64  `json:"lockLeaseUntil"`
	LockSeenAt            stamp   `json:"lockSeenAt"`
	LockMayBeFree         bool    `json:"lockMayBeFree"`
	LeaseEpoch            *int64  `json:"leaseEpoch"`
	StoreUnavailable      *string `json:"storeUnavailable"`
	StoreUnavailableSince stamp   `json:"storeUnavailableSince"`

	LastEventAt          stamp  `json:"lastEventAt"`
	LastMessageAt        stamp  `json:"lastMessageAt"`
	TimeSinceLastEventMs *int64 `json:"timeSinceLastEventMs"`
	IsStale              *bool  `json:"isStale"`

	Messages messagesDoc `json:"messages"` // what became of them

	// what of whatsmeow's inside was not found as this library knows it; null
	// when all is well
	Compat *compatDoc `json:"compat"`
}

// sizes are how many entries the store has; null where nobody has counted yet.
type sizes struct {
	Sessions       int  `json:"sessions"`
	Contacts       int  `json:"contacts"` // whose LID and number are known
	Tokens         int  `json:"tokens"`
	Unfinished     int  `json:"unfinished"` // received messages that no handler has finished, or whose end a process that was killed did not note
	Finished       int  `json:"finished"`   // known so that they are not handled twice
	MessageSecrets *int `json:"messageSecrets"`
	SenderKeys     *int `json:"senderKeys"`
	SentMessages   *int `json:"sentMessages"`
}

func sizesOf(counts map[authstore.Kind]int) *sizes {
	if counts == nil {
		return nil
	}
	counted := func(k authstore.Kind) *int { n, ok := counts[k]; return value(n, ok) }
	return &sizes{
		counts["session"], counts["lid"], counts["token"], counts["event"], counts["seen"],
		counted("secret"), counted("senderkey"), counted("outgoing"),
	}
}

type compatDoc struct {
	Whatsmeow string   `json:"whatsmeow"`
	Library   string   `json:"library"`
	Missing   []gapDoc `json:"missing"`
}

type gapDoc struct {
	Part   string `json:"part"`
	Effect string `json:"effect"`
	Since  stamp  `json:"since"`
}

func compatibility(c *stability.Compat) *compatDoc {
	if c == nil {
		return nil
	}
	doc := &compatDoc{Whatsmeow: c.Whatsmeow, Library: c.Library, Missing: []gapDoc{}}
	for _, g := range c.Missing {
		doc.Missing = append(doc.Missing, gapDoc{g.Part, g.Effect, stamp(g.Since)})
	}
	return doc
}

// stateDoc is the persisted state.
type stateDoc struct {
	Version               int     `json:"version"`
	InstanceID            string  `json:"instanceId"`
	Status                *string `json:"waStatus"`
	ConnectedAt           stamp   `json:"connectedAt"`
	DisconnectedSince     stamp   `json:"disconnectedSince"`
	LastDisconnectAt      stamp   `json:"lastDisconnectAt"`
	LastDisconnectReason  *string `json:"lastDisconnectReason"`
	LastDisconnectCode    *int    `json:"lastDisconnectCode"`
	LastDisconnectDetail  *string `json:"lastDisconnectDetail"`
	FirstDisconnectAt     stamp   `json:"firstDisconnectAt"`
	FirstDisconnectReason *string `json:"firstDisconnectReason"`
	FirstDisconnectCode   *int    `json:"firstDisconnectCode"`
	FirstDisconnectDetail *string `json:"firstDisconnectDetail"`
	RetryCount            int     `json:"retryCount"`
	NextRetryAt           stamp   `json:"nextRetryAt"`
	NotBefore             stamp   `json:"notBefore"`
	Failures              int     `json:"failures"`
	Attempts              []stamp `json:"attempts"`
	Restarts              []stamp `json:"restarts"`
	Replacements          []stamp `json:"replacements"`
	RestartStreak         int     `json:"restartStreak"`
	RejectStreak          int     `json:"rejectStreak"`
	BadSessionStreak      int     `json:"badSessionStreak"`
	UpdatedAt             stamp   `json:"updatedAt"`
}

// configDoc holds the settings in force; zero leases are null: the lock is one
// of the host's own.
type configDoc struct {
	LeaseMs              *int64 `json:"leaseMs"`
	RefreshMs            *int64 `json:"refreshMs"`
	MarginMs             *int64 `json:"marginMs"`
	InitialDelayMs       int64  `json:"initialDelayMs"`
	MaxDelayMs           int64  `json:"maxDelayMs"`
	StableAfterMs        int64  `json:"stableAfterMs"`
	ServiceFloorMs       int64  `json:"serviceFloorMs"`
	ReplacedPauseMs      int64  `json:"replacedPauseMs"`
	SlowRetryMs          int64  `json:"slowRetryMs"`
	ConnectTimeoutMs     int64  `json:"connectTimeoutMs"`
	ShutdownTimeoutMs    int64  `json:"shutdownTimeoutMs"`
	StaleAfterMs         int64  `json:"staleAfterMs"`
	QuietAfterMs         int64  `json:"quietAfterMs"`
	HandlerAfterMs       int64  `json:"handlerAfterMs"`
	BacklogAfterMs       int64  `json:"backlogAfterMs"`
	ProbesFailed         int    `json:"probesFailed"`
	AutoHeal             bool   `json:"autoHeal"`
	HealAttempts         int    `json:"healAttempts"`
	HealWindowMs         int64  `json:"healWindowMs"`
	RestartBudget        int    `json:"restartBudget"`
	RestartBudgetMs      int64  `json:"restartBudgetWindowMs"`
	DisconnectIncidentMs int64  `json:"disconnectIncidentAfterMs"`
	IncidentRefreshMs    int64  `json:"incidentRefreshMs"`
}

type heartbeatsDoc struct {
	LastRenewalAt stamp   `json:"lastRenewalAt"`
	Failures      int     `json:"failures"`
	LastError     *string `json:"lastError"`
	TrustedUntil  stamp   `json:"trustedUntil"`
	Paused        bool    `json:"paused"`
}

type probesDoc struct {
	Health       *string `json:"health"`
	Since        stamp   `json:"since"`
	Text         string  `json:"text"`
	LastReadAt   stamp   `json:"lastReadAt"`
	LastProbeAt  stamp   `json:"lastProbeAt"`
	ProbesFailed int     `json:"probesFailed"`
	HandlerAgeMs *int64  `json:"handlerAgeMs"`
	Waiting      int     `json:"waiting"`
	WaitingSince stamp   `json:"waitingSince"`
	PerSecond    float64 `json:"handledPerSecond"`
	Undecrypted  int     `json:"undecrypted"`
}

// health is null in standby: how the connection is, only the holder knows.
func health(st stability.Status) *string {
	if st.Mode != stability.ModeActive {
		return nil
	}
	return filled(string(st.Probes.Health))
}

// document turns a Status into the answer of status-now.
func (h *Handler) document(st stability.Status) statusDoc {
	holder := st.Mode == stability.ModeActive
	x := explain(st)
	doc := statusDoc{
		Success: true, Timestamp: stamp(st.At), Summary: h.mask(st.Summary),
		WA: waDoc{
			Summary: h.mask(st.Summary), Since: stamp(x.since), ReasonText: h.text(x.why), NextStep: h.mask(x.next), WhatToDo: h.text(x.do),
			Mode: st.Mode, ModeSince: stamp(st.ModeSince), RunError: h.errorText(st.RunError), Status: st.WA, Health: health(st),
			ConnectedAt: stamp(st.ConnectedAt), DisconnectedSince: stamp(st.DisconnectedSince), LastDisconnectAt: stamp(st.LastDisconnectAt),
			LastDisconnectReason: filled(string(st.LastDisconnectReason)), LastDisconnectCode: filled(st.State.LastDisconnectCode),
			LastDisconnectDetail: h.text(st.LastDisconnectDetail), RetryCount: value(st.RetryCount, holder),
			FirstDisconnectAt: stamp(st.State.FirstDisconnectAt), FirstDisconnectReason: filled(string(st.State.FirstDisconnectReason)),
			NextRetryAt: stamp(st.NextRetryAt), Connecting: st.Connecting, QRAvailable: st.QRAvailable, PhoneCodeUntil: stamp(st.PhoneCodeUntil),
			WaitsForOperator: st.Parked || st.QRAvailable,
			AuthStore:        st.AuthStore, InstanceID: filled(st.InstanceID), LockHolder: filled(st.LockHolder), LeaseEpoch: filled(st.LeaseEpoch),
			LockLeaseUntil:        value(st.LockLeaseUntil.UnixMilli(), !st.LockLeaseUntil.IsZero()),
			LockSeenAt:            stamp(st.LockSeenAt),
			LockMayBeFree:         st.LockMayBeFree,
			StoreUnavailable:      h.errorText(st.StoreUnavailable),
			StoreUnavailableSince: stamp(st.StoreUnavailableSince),
			LastEventAt:           stamp(st.LastEventAt), LastMessageAt: stamp(st.LastMessageAt),
			TimeSinceLastEventMs: value(max(0, st.At.Sub(st.LastEventAt).Milliseconds()), !st.LastEventAt.IsZero()),
			IsStale:              value(st.Probes.Health == keepalive.Stale, holder),
			Messages:             h.account(st.Messages),
			Compat:               compatibility(st.Compat),
		},
		Config: configuration(st.Settings),
		Heartbeats: heartbeatsDoc{
			LastRenewalAt: stamp(st.Heartbeats.LastRenewalAt), Failures: st.Heartbeats.Failures, LastError: h.errorText(st.Heartbeats.LastError),
			TrustedUntil: stamp(st.Heartbeats.TrustedUntil), Paused: st.Heartbeats.Paused,
		},
		Probes: probesDoc{
			Health: health(st), Since: stamp(st.Probes.Since), Text: h.mask(st.Probes.Text), LastReadAt: stamp(st.Probes.LastReadAt),
			LastProbeAt: stamp(st.Probes.LastProbeAt), ProbesFailed: st.Probes.ProbesFailed, Undecrypted: st.Probes.Undecrypted,
			HandlerAgeMs: filled(st.Probes.HandlerAge.Milliseconds()),
			Waiting:      st.Probes.Waiting, WaitingSince: stamp(st.Probes.WaitingSince), PerSecond: st.Probes.PerSecond,
		},
	}
	if st.StoreUnavailable != nil && st.NextRetryAt.Before(st.At) {
		doc.WA.NextRetryAt = stamp{} // its time has come, but nobody knows when the backend answers
	}
	if y := st.Yield; y.By != "" {
		doc.WA.Yield = &yieldDoc{By: y.By, To: filled(y.To), At: stamp(y.At), Reason: string(y.Reason), Code: filled(y.Code), Detail: h.text(y.Detail)}
	}
	if at := stamp(st.AsksAgainAt); !st.AsksAgainAt.IsZero() {
		doc.WA.AsksAgainAt = &at
	}
	if holder {
		s := h.state(st.State)
		doc.State = &s
		if st.State.NotBefore.After(st.At) {
			doc.WA.NotBefore = stamp(st.State.NotBefore)
		}
	}
	if a := st.Auth; a != nil {
		doc.WA.AuthStateExists, doc.WA.AuthKeyCount = &a.Exists, value(a.KeyCount, a.KeyCount >= 0)
		doc.WA.AuthSizes, doc.WA.LastAuthWriteAt = sizesOf(a.Counts), stamp(a.LastWriteAt)
		if !a.JID.IsEmpty() { // also of a session that is set aside: which phone to open
			doc.WA.Account = h.text(a.JID.String())
		}
	}
	return doc
}

type yieldDoc struct {
	By     string  `json:"by"`
	To     *string `json:"to"` // null while nobody has taken it
	At     stamp   `json:"at"`
	Reason string  `json:"reason"`
	Code   *int    `json:"code"`
	Detail *string `json:"detail"`
}

// text is a masked text, null where there is none.
func (h *Handler) text(s string) *string { return filled(h.mask(s)) }

func (h *Handler) errorText(err error) *string {
	if err == nil {
		return nil
	}
	return h.text(err.Error())
}

func (h *Handler) state(s reconnect.State) stateDoc {
	return stateDoc{
		Version: reconnect.StateVersion, InstanceID: s.InstanceID, Status: filled(string(s.Status)),
		ConnectedAt: stamp(s.ConnectedAt), DisconnectedSince: stamp(s.DisconnectedSince), LastDisconnectAt: stamp(s.LastDisconnectAt),
		LastDisconnectReason: filled(string(s.LastDisconnectReason)), LastDisconnectCode: filled(s.LastDisconnectCode),
		LastDisconnectDetail: h.text(s.LastDisconnectDetail), RetryCount: s.RetryCount,
		FirstDisconnectAt: stamp(s.FirstDisconnectAt), FirstDisconnectReason: filled(string(s.FirstDisconnectReason)),
		FirstDisconnectCode: filled(s.FirstDisconnectCode), FirstDisconnectDetail: h.text(s.FirstDisconnectDetail),
		NextRetryAt: stamp(s.NextRetryAt), NotBefore: stamp(s.NotBefore), Failures: s.Failures,
		Attempts: stamps(s.Attempts), Restarts: stamps(s.Restarts), Replacements: stamps(s.Replacements),
		RestartStreak: s.RestartStreak, RejectStreak: s.RejectStreak, BadSessionStreak: s.BadSessionStreak, UpdatedAt: stamp(s.UpdatedAt),
	}
}

func configuration(s stability.Settings) configDoc {
	ms := time.Duration.Milliseconds
	return configDoc{
		LeaseMs: filled(ms(s.Lease)), RefreshMs: filled(ms(s.Refresh)), MarginMs: filled(ms(s.Margin)),
		InitialDelayMs: ms(s.InitialDelay), MaxDelayMs: ms(s.MaxDelay), StableAfterMs: ms(s.StableAfter), ServiceFloorMs: ms(s.ServiceFloor),
		ReplacedPauseMs: ms(s.ReplacedPause), SlowRetryMs: ms(s.SlowRetry), ConnectTimeoutMs: ms(s.ConnectTimeout), ShutdownTimeoutMs: ms(s.ShutdownTimeout),
		StaleAfterMs: ms(s.StaleAfter), QuietAfterMs: ms(s.QuietAfter), HandlerAfterMs: ms(s.HandlerAfter), BacklogAfterMs: ms(s.BacklogAfter), ProbesFailed: s.ProbesFailed,
		AutoHeal: !s.HealDisabled, HealAttempts: s.HealAttempts, HealWindowMs: ms(s.HealWindow), RestartBudget: s.HealBudget, RestartBudgetMs: ms(s.BudgetWindow),
		DisconnectIncidentMs: ms(s.StuckAfter), IncidentRefreshMs: ms(s.IncidentRefresh),
	}
}
