package adminhttp

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/wastability/wastability/keepalive"
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

// explain is pure. It goes from what stops everything to what is only odd.
func explain(st stability.Status) explanation {
	var text reconnect.Text
	if st.LastDisconnectReason != reconnect.ReasonNone {
		text = st.LastDisconnectReason.Text()
	}
	if a := st.Auth; a != nil && !a.Exists && !a.Deleted && st.LastDisconnectReason == reconnect.ReasonQRExpired {
		text.Means = "No phone has been linked yet, and nobody scanned the codes that were shown."
	} else if text.Means != "" {
		text.Means = told(text.Means, st.LastDisconnectDetail, st.State.LastDisconnectCode)
	}
	down := first(st.DisconnectedSince, st.LastDisconnectAt, st.ModeSince)
	if text.Means == "" && st.WA == reconnect.StatusNeedsPairing {
		text.Means = "No phone has been linked yet."
	}
	if a := st.Auth; a != nil && a.Deleted && st.LastDisconnectReason == reconnect.ReasonQRExpired {
		// What came last is not what is wrong.
		text.Means = join("The session that was there ended for good at "+clock(a.DeletedAt)+", and nobody has scanned a new code since.",
			told(ended(a.Reason), st.State.FirstDisconnectDetail, st.State.FirstDisconnectCode))
	}
	switch {
	case st.Closed:
		return explanation{since: st.ModeSince, why: "The program ended its use of the account (it closed the Manager).", next: "Nothing: this instance is over, and its lock was given back.", do: "If that was not meant to be, start the program again."}

	case st.Mode != stability.ModeActive && st.RunError != nil:
		return explanation{
			since: st.RunEndedAt, why: "The part of the program that looks after the account (Run) has ended with an error: " + st.RunError.Error() + ".",
			next: "Nothing: this instance does not take the lock before Run is called again. Another one that stands by takes over.",
			do:   "Deal with the error, then start the program again.",
		}

	case st.Mode == stability.ModeReleased:
		return explanation{
			since: st.Yield.At, why: join(text.Means, "This may be the fault of this instance, so it gave the lock up, and another one can try."),
			next: "This instance asks for the lock again at " + clock(st.AsksAgainAt) + ", unless another one has taken it.",
			do:   needed(text.Do),
		}

	case st.Mode == stability.ModePassive:
		return explainStandby(st)

	case st.WA == reconnect.StatusConnected:
		return explainConnected(st)

	case st.StoreUnavailable != nil:
		x := explanation{
			since: st.StoreUnavailableSince, why: reconnect.ReasonStoreUnavailable.Text().Means, do: bringBack(st),
			next: "The backend is asked again every few seconds; the connection is tried again as soon as it answers.",
		}
		if until := st.Heartbeats.TrustedUntil; until.After(st.At) {
			x.next += " If it has not answered at " + clock(until) + ", another instance may take the lock; this one then stands by."
		}
		return x

	case !st.PhoneCodeUntil.IsZero():
		return explanation{
			since: down, why: text.Means,
			do:   "Type the code that was asked for into the phone of this account: Settings, Linked devices, Link a device, Link with phone number instead. The code is shown only to whoever asked for it. If nobody has it, get another one: the old one is void then.",
			next: "The code to type can be used until " + clock(st.PhoneCodeUntil) + ". Then another one must be asked for.",
		}

	case st.QRAvailable:
		x := explanation{since: down, why: text.Means, do: "Scan the code that is shown, on the phone of this account: Settings, Linked devices, Link a device."}
		x.next = "The code is replaced by a new one when it expires; after some minutes without a scan no more are offered until somebody asks."
		return x

	case st.Parked && st.WA == reconnect.StatusNeedsPairing:
		return explanation{
			since: down, why: text.Means,
			next: "Nothing happens by itself: no code is offered until somebody asks for one.",
			do:   join(operatorFirst(st.LastDisconnectReason), pairAgain),
		}

	case st.Parked:
		return explanation{since: down, why: text.Means, next: join(text.Does, "Nothing happens until somebody asks for an attempt."), do: join(strings.TrimSuffix(text.Do, " Let it try again only then."), "Only then press Try now.")}

	case st.WA == reconnect.StatusNeedsPairing:
		return explanation{
			since: down, why: text.Means,
			next: "A connection for pairing is made, then a code to scan is shown.",
			do:   "Wait some seconds for the code, then scan it on the phone under Linked devices.",
		}
	}

	x := explanation{since: down, why: text.Means, do: needed(text.Do)}
	if lasts(st) || budgetSpent(st) {
		x.do = cmp.Or(text.DoIfItLasts(), "Check the network between this host and WhatsApp.")
	}
	switch {
	case st.Connecting:
		x.next = "An attempt is under way, and given up after " + fmt.Sprint(st.Settings.ConnectTimeout) + ". If it fails: " + lower(cmp.Or(text.Does, "It retries with growing pauses."))
	case !st.NextRetryAt.IsZero() && st.State.NotBefore.After(st.At):
		x.next = "One attempt is made when the ban is over, at " + clock(st.NextRetryAt) + ", and none before."
	case budgetSpent(st):
		x.next = "Restarting the process did not help, and as many restarts as are allowed within " + fmt.Sprintf("%g h", st.Settings.BudgetWindow.Hours()) +
			" were made: attempts are rare now. The next attempt is made at " + clock(st.NextRetryAt) + "."
		x.do = join(x.do, "When the cause is mended, press Try now.")
	case replacedAgain(st):
		x.next = "It came back, and was replaced again. It tries only rarely now, so that two copies do not fight. The next attempt is made at " + clock(st.NextRetryAt) + "."
		x.do = join(x.do, "When it is stopped, press Try now.")
	case st.LastDisconnectReason == reconnect.ReasonConnectionReplaced && !st.NextRetryAt.IsZero():
		x.next = "It pauses, then tries once. If it is replaced again it tries only rarely, so that two copies do not fight. The next attempt is made at " + clock(st.NextRetryAt) + "."
		x.do = join(x.do, "When it is stopped, press Try now.")
	case !st.NextRetryAt.IsZero():
		x.next = join(text.Does, "The next attempt is made at "+clock(st.NextRetryAt)+".")
	default:
		x.next = "No attempt is planned: it is the program's move."
		x.do = join(x.do, "If the program does not connect by itself, press Try now, or restart it.")
	}
	if x.why == "" {
		x.why = "It has not been connected yet."
	}
	return x
}

func explainStandby(st stability.Status) explanation {
	switch {
	case st.StoreUnavailable != nil:
		return explanation{
			since: st.StoreUnavailableSince, why: "The backend that keeps the session and its lock cannot be reached, so this instance cannot tell whether another one is active.",
			next: "The backend is asked again every few seconds; this instance then stands by or becomes active.",
			do:   bringBack(st),
		}
	case st.LockHolderHere:
		return explanation{
			since: st.ModeSince, why: "Another Manager in this same process holds the lock and looks after the connection. That is how it should be where a program makes two for one account.",
			next: "This instance takes over when the lock is released. Nobody needs to do anything.",
		}
	case st.LockHolder != "" && st.LockHolder != st.InstanceID:
		return explanation{
			since: st.ModeSince, why: "Another instance holds the lock and looks after the connection. That is how it should be.",
			next: "This instance takes over when the lock is released or expires. Nobody needs to do anything.",
		}
	}
	return explanation{
		since: st.ModeSince, why: "The program has not let this instance take the lock, and this instance knows of no other that holds it.",
		next: "The lock is taken as soon as the program asks for it (it calls Run, Activate or TryActivate) and it is free.",
		do:   "Wait a minute if the program has just been started. If this lasts, look at the program's log for what it waits for, and tell its developers.",
	}
}

func explainConnected(st stability.Status) explanation {
	if hb := st.Heartbeats; hb.Failures > 0 && !hb.TrustedUntil.IsZero() {
		return explanation{
			since: hb.LastRenewalAt, why: "The backend does not answer: the lock of this account could not be renewed since " + clock(hb.LastRenewalAt) + ".",
			next: "It is asked again and again. If it has not answered at " + clock(hb.TrustedUntil) + ", the connection is cut, before another instance can take the lock; all goes on by itself when the backend is back.",
			do:   bringBack(st),
		}
	}
	if st.StoreUnavailable != nil {
		return explanation{
			since: st.StoreUnavailableSince, why: reconnect.ReasonStoreUnavailable.Text().Means,
			next: "The backend is asked again every few seconds. If it stays away, the connection is cut before the lock can be taken by another instance.",
			do:   bringBack(st),
		}
	}
	switch st.Probes.Health {
	case keepalive.Degraded:
		stuck := st.Probes.HandlerAge >= st.Settings.HandlerAfter
		if w := st.Probes.WaitingSince; !stuck && !w.IsZero() && st.At.Sub(w) >= st.Settings.BacklogAfter {
			return explanation{
				since: st.Probes.Since, why: st.Probes.Text,
				next: "The connection is kept, and what waits is handled in its turn; nothing is lost. An incident is open while this lasts.",
				do:   "If it grows, let the program's event handlers do less: give slow work to goroutines or a queue of your own.",
			}
		}
		if st.Probes.Undecrypted > 0 && !stuck {
			return explanation{
				since: st.Probes.Since, why: st.Probes.Text,
				next: "The connection is kept. Their senders are asked to send them again, and most come then. An incident is open while this lasts.",
				do:   "If it lasts, look for another copy of this session (a second program, a restored backup), at the damaged rows that were set aside, and at the decryption failures in the program's log.",
			}
		}
		return explanation{
			since: st.Probes.Since, why: st.Probes.Text,
			next: "The connection is kept. Messages that cannot be handed over wait, and nothing is lost. An incident is open while this lasts.",
			do:   "Restart the program if it does not go on by itself: what was not handled comes again. Then look at its event handlers for a call that waits for ever.",
		}
	case keepalive.Mute:
		return explanation{
			since: st.Probes.Since, why: strings.TrimSuffix(st.Probes.Text, " "+st.Messages.Sent.Do),
			next: "The connection is kept, and messages come in. Nothing is sent again by itself. An incident is open until a send is accepted.",
			do:   st.Messages.Sent.Do,
		}
	case keepalive.Stale:
		return explanation{since: st.Probes.Since, why: st.Probes.Text, next: "The connection is cut now and made anew."}
	}
	if s := st.Messages.Sent; s.Do != "" && s.MuteSince.IsZero() {
		return explanation{
			since: first(s.NewChatsRefusedAt, st.ConnectedAt), why: s.Text, do: s.Do,
			next: "Messages are received as they come, and sends to existing chats go on. No incident is raised for this.",
		}
	}
	if n, oldest := untaken(st); n > 0 {
		return explanation{
			since: oldest, why: st.Messages.Received.Text, next: "The connection is kept, and other messages are handled as they come. These are handed over again with pauses of up to a quarter of an hour.",
			do: "Look in the program's log for why its handlers do not take them: a database, a queue, another service. Below is how often each was tried.",
		}
	}
	if st.Probes.Health == keepalive.Quiet {
		return explanation{since: st.ConnectedAt, next: "Nothing needs to happen: nobody writes, and the server answers pings. It goes on like this."}
	}
	return explanation{since: st.ConnectedAt, next: "Messages are received as they come."}
}

// untaken counts the messages that the program was given and has not taken, and
// says when the oldest of them was received.
func untaken(st stability.Status) (n int, oldest time.Time) {
	for _, s := range []stability.MessageState{stability.MessageRefused, stability.MessageKept, stability.MessageLeftAlone, stability.MessageSetAside} {
		g := st.Messages.Received.By[s]
		if n += g.Count; g.Count > 0 && (oldest.IsZero() || g.Oldest.Before(oldest)) {
			oldest = g.Oldest
		}
	}
	return n, oldest
}

// pairAgain is how a device is linked when there is none.
const pairAgain = "Press Show a code: a code to scan is there after some seconds. Scan it within a minute, on the phone: Settings, Linked devices, Link a device. Or get a code to type, with the phone number."

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
	return join(means, "What was reported: "+detail+".")
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
