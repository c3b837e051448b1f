package guard

import (
	"strconv"
	"time"
)

// trouble is one row of what can be wrong.
type trouble struct {
	kind    Type
	holders bool // about the connection: only the holder of the lock may speak
	flaps   bool // resolved only after Policy.ClearAfter
	// is reports whether it is so. A since in the future means: not before
	// then, if nothing changes.
	is func(p *Policy, f *Facts, now time.Time) (since time.Time, is bool)
	// over reports whether it is cured, which may take more than not being
	// seen.
	over func(p *Policy, f *Facts, now time.Time) bool
}

// connectedOrOut: behind a logout nothing is left to mend of the old device's
// connection, and wa_logged_out tells.
func connectedOrOut(_ *Policy, f *Facts, _ time.Time) bool { return f.Connected || f.NeedsPairing }

func paired(_ *Policy, f *Facts, _ time.Time) bool { return !f.NeedsPairing }
func unseen(*Policy, *Facts, time.Time) bool       { return true }

// bookRead: a new holder that has read nothing yet knows of no message.
func bookRead(_ *Policy, f *Facts, _ time.Time) bool { return !f.BookUnread }

// hasOwn says of which reasons the trouble has an incident of its own: the same
// outage is not reported twice.
func hasOwn(f *Facts) bool {
	switch f.Reason {
	case "intentional", "temporary_ban", "client_outdated", "connection_replaced", "store_unavailable":
		return true
	case "restart_required":
		return f.Demands >= demandsTooMany
	}
	return false
}

// demandsTooMany is how many demands for a new connection in a row are a loop.
// One is normal after pairing, and a few may be WhatsApp's own restart.
const demandsTooMany = 6

// troubles is read only.
var troubles = [...]trouble{
	{TypeDisconnectStuck, true, false, func(p *Policy, f *Facts, _ time.Time) (time.Time, bool) {
		return f.DisconnectedSince.Add(p.StuckAfter),
			!f.Connected && !f.NeedsPairing && !f.DisconnectedSince.IsZero() && !hasOwn(f)
	}, func(_ *Policy, f *Facts, _ time.Time) bool {
		return f.Connected || f.NeedsPairing || f.Reason == "intentional"
	}},
	{TypeReconnectLoop, true, true, func(_ *Policy, f *Facts, _ time.Time) (time.Time, bool) {
		return time.Time{}, f.Loop && !f.NeedsPairing
	}, connectedOrOut},
	{TypeRestartLoop, true, true, func(_ *Policy, f *Facts, _ time.Time) (time.Time, bool) {
		return time.Time{}, f.Demands >= demandsTooMany && !f.NeedsPairing
	}, connectedOrOut},
	{TypeRestartBudget, true, true, func(_ *Policy, f *Facts, _ time.Time) (time.Time, bool) {
		return time.Time{}, f.BudgetExhausted && !f.NeedsPairing
	}, connectedOrOut},
	{TypeLoggedOut, true, false, func(_ *Policy, f *Facts, _ time.Time) (time.Time, bool) {
		return time.Time{}, f.NeedsPairing && (f.Reason == "logged_out" || f.Reason == "account_locked")
	}, paired},
	{TypeAccountBanned, true, false, func(_ *Policy, f *Facts, _ time.Time) (time.Time, bool) {
		return time.Time{}, f.NeedsPairing && f.Reason == "account_banned"
	}, paired},
	{TypeTemporaryBan, true, false, func(_ *Policy, f *Facts, now time.Time) (time.Time, bool) {
		return time.Time{}, !f.Connected && f.NotBefore.After(now)
	}, func(_ *Policy, f *Facts, _ time.Time) bool {
		// At its end the ban still stands until an attempt has shown more.
		return f.Connected || f.Reason != "temporary_ban"
	}},
	{TypeHolderUnfit, true, false, func(p *Policy, f *Facts, now time.Time) (time.Time, bool) {
		// Also where codes are to be shown a connection is needed.
		return time.Time{}, !f.Connected && recent(f.Unfit, now, p.UnfitWindow) >= 2
	}, connectedOrOut},
	{TypeClientOutdated, true, false, func(_ *Policy, f *Facts, _ time.Time) (time.Time, bool) {
		return time.Time{}, !f.Connected && f.Reason == "client_outdated"
	}, connectedOrOut},
	{TypeConnectionConflict, true, true, func(p *Policy, f *Facts, now time.Time) (time.Time, bool) {
		return time.Time{}, recent(f.Replacements, now, p.ConflictWindow) >= 2 && !f.NeedsPairing
	}, connectedOrOut},
	{TypeInstanceIDNotUnique, false, false, func(_ *Policy, f *Facts, _ time.Time) (time.Time, bool) {
		return time.Time{}, f.SameID
	}, unseen},
	{TypeDegraded, true, true, func(_ *Policy, f *Facts, _ time.Time) (time.Time, bool) {
		return f.DegradedSince, !f.DegradedSince.IsZero()
	}, unseen},
	{TypeSendsRefused, true, true, func(_ *Policy, f *Facts, _ time.Time) (time.Time, bool) {
		return f.SendsRefusedSince, !f.SendsRefusedSince.IsZero() && !f.NeedsPairing
	}, func(_ *Policy, f *Facts, _ time.Time) bool {
		// A new holder has sent nothing yet: that proves nothing.
		return f.NeedsPairing || f.SendsAcknowledged && f.SendsRefusedSince.IsZero()
	}},
	{TypeStoreUnavailable, false, true, func(p *Policy, f *Facts, _ time.Time) (time.Time, bool) {
		after := p.StoreAfter
		if f.StoreWatched {
			after = p.WatchedAfter
		}
		return f.StoreDownSince.Add(after), !f.StoreDownSince.IsZero()
	}, unseen},
	{TypeDataDamaged, true, false, func(_ *Policy, f *Facts, now time.Time) (time.Time, bool) {
		return time.Time{}, !f.DamagedAt.IsZero() && now.Sub(f.DamagedAt) < damageKept
	}, unseen},
	{TypeMessagesWaiting, true, false, func(p *Policy, f *Facts, _ time.Time) (time.Time, bool) {
		return f.WaitingSince.Add(p.WaitingAfter), !f.WaitingSince.IsZero()
	}, bookRead},
	{TypeMessagesSetAside, true, false, func(_ *Policy, f *Facts, _ time.Time) (time.Time, bool) {
		return f.SetAsideSince, f.SetAsideCount > 0
	}, bookRead},
	{TypeLockFlapping, false, true, func(p *Policy, f *Facts, now time.Time) (time.Time, bool) {
		return time.Time{}, recent(f.Terms, now, p.FlapWindow) >= p.FlapTerms
	}, unseen},
}

// ByHolder reports whether only the holder of the lock raises incidents of this
// type. Incidents of the others are shared: several instances may see the same
// trouble, or one each.
func (t Type) ByHolder() bool {
	for i := range troubles {
		if troubles[i].kind == t {
			return troubles[i].holders
		}
	}
	return false
}

// damageKept is how long damage is an incident that nobody deals with and that
// does not grow.
const damageKept = 24 * time.Hour

func recent(list []time.Time, now time.Time, length time.Duration) (n int) {
	for _, t := range list {
		if now.Sub(t) < length {
			n++
		}
	}
	return n
}

// describe fills in what an operator reads.
func (g *guard) describe(inc *Incident, f *Facts) {
	inc.InstanceID = f.InstanceID
	inc.Evidence = map[string]string{}
	add := func(name, value string) {
		if value != "" {
			inc.Evidence[name] = value
		}
	}
	at := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.UTC().Format(time.RFC3339)
	}
	switch inc.Type {
	case TypeInstanceIDNotUnique:
	case TypeLockFlapping:
		add("terms", strconv.Itoa(len(f.Terms)))
	case TypeStoreUnavailable:
		add("since", at(f.StoreDownSince))
	case TypeDataDamaged:
		add("found", at(f.DamagedAt))
		add("rows", strconv.Itoa(f.DamagedRows))
		add("detail", f.DamagedText)
	case TypeMessagesWaiting:
		add("since", at(f.WaitingSince))
		add("messages", strconv.Itoa(f.WaitingCount))
		add("detail", f.MessagesText)
	case TypeMessagesSetAside:
		add("since", at(f.SetAsideSince))
		add("messages", strconv.Itoa(f.SetAsideCount))
		add("detail", f.MessagesText)
	case TypeHolderUnfit:
		add("reason", f.Reason)
		if f.Code != 0 {
			add("code", strconv.Itoa(f.Code))
		}
		add("since", at(f.DisconnectedSince))
		add("instances", strconv.Itoa(len(f.Unfit)))
		add("detail", f.UnfitText)
		add("nextRetryAt", at(f.NextRetryAt))
	case TypeDegraded:
		add("since", at(f.DegradedSince))
		add("detail", f.DegradedText)
	case TypeSendsRefused:
		add("since", at(f.SendsRefusedSince))
		if f.SendsCode != 0 {
			add("code", strconv.Itoa(f.SendsCode))
		}
		add("inARow", strconv.Itoa(f.SendsFailed))
	case TypeRestartLoop:
		add("demands", strconv.Itoa(f.Demands))
		add("nextRetryAt", at(f.NextRetryAt))
	default:
		add("reason", f.Reason)
		if f.Code != 0 {
			add("code", strconv.Itoa(f.Code))
		}
		add("detail", f.Detail)
		add("since", at(f.DisconnectedSince))
		add("retryCount", strconv.Itoa(f.RetryCount))
		add("nextRetryAt", at(f.NextRetryAt))
		add("notBefore", at(f.NotBefore))
	}
	inc.Instructions, inc.Runbook = runbook(inc.Type, f)
}
