package adminhttp

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
)

// explanation answers what Status.Summary leaves open: since when, why, what
// happens next by itself, and what a person should do. why and do are empty
// when nothing is wrong.
type explanation struct {
	since         time.Time
	why, next, do string
}

// ended says why a session ended, as the store was told.
func ended(reason string) string {
	if r := reconnect.Reason(reason); r.Known() {
		return r.Text().Means
	}
	return ""
}

// about is what a situation is explained by.
type about struct {
	stability.Status
	text reconnect.Text // of the last disconnect, with what came with it
	down time.Time      // since when there is no connection
}

func tellAbout(st stability.Status) about {
	a := about{Status: st, down: first(st.DisconnectedSince, st.LastDisconnectAt, st.ModeSince)}
	if st.LastDisconnectReason != reconnect.ReasonNone {
		a.text = st.LastDisconnectReason.Text()
	}
	text := &a.text
	if a := st.Auth; a != nil && !a.Exists && !a.Deleted && st.LastDisconnectReason == reconnect.ReasonQRExpired {
		text.Means = "No phone has been linked yet, and nobody scanned the codes that were shown."
	} else if text.Means != "" {
		text.Means = told(text.Means, st.LastDisconnectDetail, st.State.LastDisconnectCode)
	}
	if text.Means == "" && st.WA == reconnect.StatusNeedsPairing {
		text.Means = "No phone has been linked yet."
	}
	if a := st.Auth; a != nil && a.Deleted && st.LastDisconnectReason == reconnect.ReasonQRExpired {
		// The last reason is not the trouble here.
		text.Means = join("The session that was there ended for good at "+clock(a.DeletedAt)+", and nobody has scanned a new code since.",
			told(ended(a.Reason), st.State.FirstDisconnectDetail, st.State.FirstDisconnectCode))
	}
	return a
}

// off explains an account that is to come back: the next step, and anything
// else that a person should do.
func (a about) off(next, more string) explanation {
	do := needed(a.text.Do)
	if lasts(a.Status) || budgetSpent(a.Status) {
		do = cmp.Or(a.text.DoIfItLasts(), "Check the network between this host and WhatsApp.")
	}
	return explanation{since: a.down, why: cmp.Or(a.text.Means, "It has not been connected yet."), next: next, do: join(do, more)}
}

// untaken counts the messages that the program was given and has not taken, and
// says when the oldest of them was received.
func untaken(st stability.Status) (n int, oldest time.Time) {
	for _, s := range []stability.MessageState{stability.MessageRefused, stability.MessageKept, stability.MessageLeftAlone, stability.MessageSetAside} {
		g := st.Messages.Received.Missed[s]
		if n += g.Count; g.Count > 0 && (oldest.IsZero() || g.Oldest.Before(oldest)) {
			oldest = g.Oldest
		}
	}
	return n, oldest
}

// pairAgain is how a device is linked when there is none.
const pairAgain = "Press Show a code: a code to scan is there after some seconds. Scan it within a minute, on the phone: Settings, Linked devices, Link a device. Or get a code to type, with the phone number."

// pairAfter is pairAgain where something must be done first.
func pairAfter(first string) string {
	if first == "" {
		return pairAgain
	}
	return strings.NewReplacer(", then pair again.", ".", " Only when the ban was lifted, pair again.", " Wait until the ban is lifted.").Replace(first) + " Then " + lower(pairAgain)
}

// bringBack names the backend that should be brought back.
func bringBack(st stability.Status) string {
	return strings.Replace(reconnect.ReasonStoreUnavailable.Text().Do, "the backend", "the backend ("+st.AuthStore+")", 1)
}

// told adds to what a reason means what came with it, word for word, as far as
// it says more.
func told(means, detail string, code int) string {
	if strings.Contains(strings.ToLower(means), strings.ToLower(detail)) {
		detail = ""
	}
	if number := fmt.Sprint(code); code != 0 && !strings.Contains(means, number) {
		detail = strings.TrimSuffix("code "+number+", "+detail, ", ")
	}
	if detail == "" {
		return means
	}
	return join(means, "Reported: "+strings.TrimSuffix(detail, ".")+".")
}

// rare reports whether the next attempt is further away than usual is.
func rare(st stability.Status, usual time.Duration) bool {
	return !st.NextRetryAt.IsZero() && st.NextRetryAt.Sub(st.LastDisconnectAt) > usual+usual/2
}

// lasts reports whether it has been off for so long that this is an incident,
// although it tries again as usual.
func lasts(st stability.Status) bool {
	return st.LastDisconnectReason.Action() == reconnect.ActionRetry && !st.DisconnectedSince.IsZero() && st.At.Sub(st.DisconnectedSince) >= st.Settings.StuckAfter
}

// budgetSpent reports whether attempts are rare because restarts did not help.
func budgetSpent(st stability.Status) bool {
	if st.Settings.HealDisabled || !rare(st, st.Settings.MaxDelay) || st.LastDisconnectReason.Action() != reconnect.ActionRetry {
		return false
	}
	n := 0
	for _, at := range st.State.Restarts {
		if st.At.Sub(at) < st.Settings.BudgetWindow {
			n++
		}
	}
	return n >= st.Settings.HealBudget
}

// replacedAgain reports whether this is more than the one pause after which it
// comes back.
func replacedAgain(st stability.Status) bool {
	return st.LastDisconnectReason == reconnect.ReasonConnectionReplaced && len(st.State.Replacements) > 1 && rare(st, st.Settings.ReplacedPause)
}

// operatorFirst is what must be done before pairing makes sense.
func operatorFirst(r reconnect.Reason) string {
	if r.Action() == reconnect.ActionStop {
		return r.Text().Do
	}
	return ""
}

// needed leaves out the advice to do nothing.
func needed(do string) string {
	if do == "Nothing." {
		return ""
	}
	return do
}

// join makes one text of two sentences, either of which may be missing.
func join(a, b string) string {
	if a == "" || a == "Nothing." {
		return b
	}
	return strings.TrimSuffix(a+" "+b, " ")
}

// lower lets a sentence follow a colon.
func lower(s string) string { return strings.ToLower(s[:1]) + s[1:] }

func first(ts ...time.Time) time.Time {
	for _, t := range ts {
		if !t.IsZero() {
			return t
		}
	}
	return time.Time{}
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05 UTC on 2 January 2006") }
