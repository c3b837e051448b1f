package adminhttp

import (
	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
)

// tone says how bad it is, worst first.
type tone string

const (
	bad  tone = "bad"  // somebody must do something
	warn tone = "warn" // not as it should be; it is being dealt with, or will be
	calm tone = "calm" // as it should be, elsewhere
	good tone = "good"
)

// rank orders accounts: worst first.
func (t tone) rank() int {
	switch t {
	case bad:
		return 0
	case warn:
		return 1
	case calm:
		return 2
	}
	return 3
}

// headline is what somebody reads first. Nothing in it counts or runs: a screen
// reader says it again only when it has changed.
type headline struct {
	State string // a stable word, for tests and styles
	Tone  tone
	Word  string // never the colour alone
	Text  string
}

// headlineOf is pure. It has the same cases as explain.
func headlineOf(st stability.Status) headline {
	switch {
	case st.Closed:
		return headline{"closed", bad, "Closed", "This instance looks after nothing any more."}
	case st.Mode != stability.ModeActive && st.RunError != nil:
		return headline{"run_failed", bad, "Stopped", "The program has stopped looking after the account, with an error."}
	case st.Mode == stability.ModeReleased:
		return headline{"released", warn, "Standing aside", "This instance could not connect, and lets another one try."}
	case st.Mode != stability.ModeActive:
		return headlineStandby(st)
	case st.WA == reconnect.StatusConnected:
		return headlineConnected(st)
	case st.StoreUnavailable != nil:
		return headline{"store_down", bad, "Not connected", "The backend does not answer, and nothing goes on without it."}
	case st.PasskeyAsked:
		return headline{"passkey", bad, "Not linked", "WhatsApp asks for a passkey, which the program must answer."}
	case !st.PhoneCodeUntil.IsZero():
		return headline{"phone_code", bad, "Not linked", "Type the code into the phone."}
	case st.QRAvailable:
		return headline{"code", bad, "Not linked", "Scan the code with the phone."}
	case st.LastDisconnectReason == reconnect.ReasonAccountBanned:
		return headline{"banned", bad, "Banned", "WhatsApp has banned this account."}
	case st.LastDisconnectReason == reconnect.ReasonAccountLocked:
		return headline{"locked", bad, "Locked", "WhatsApp has locked this account."}
	case st.Parked && st.WA == reconnect.StatusNeedsPairing:
		return headline{"waits_for_request", bad, "Not linked", "Show a code, then link the phone with it."}
	case st.Parked:
		return headline{"stopped", bad, "Not connected", "It does not come back by itself: somebody must ask for it."}
	case st.WA == reconnect.StatusNeedsPairing:
		return headline{"code_coming", warn, "Not linked", "A code to scan is on its way."}
	case st.State.NotBefore.After(st.At):
		return headline{"temporary_ban", warn, "Banned for now", "It comes back by itself when the ban is over."}
	case st.Connecting && lasts(st):
		return headline{"lasts", bad, "Not connected", "It tries again, and has not come back for long."}
	case st.Connecting:
		return headline{"connecting", warn, "Connecting", "An attempt is under way."}
	case st.NextRetryAt.IsZero():
		return headline{"no_plan", bad, "Not connected", "No attempt is planned."}
	case lasts(st):
		return headline{"lasts", bad, "Not connected", "It tries again, and has not come back for long."}
	case budgetSpent(st), replacedAgain(st), st.LastDisconnectReason.Action() != reconnect.ActionRetry && needed(st.LastDisconnectReason.Text().Do) != "":
		return headline{"slow", bad, "Not connected", "It tries again, but somebody should look at the cause."}
	}
	return headline{"retrying", warn, "Not connected", "It comes back by itself."}
}

func headlineStandby(st stability.Status) headline {
	switch {
	case st.StoreUnavailable != nil:
		return headline{"standby_store_down", bad, "Standby", "The backend does not answer: nobody here knows who is active."}
	case st.LockHolder != "" && st.LockHolder != st.InstanceID:
		return headline{"standby", calm, "Standby", "Another instance looks after the account."}
	}
	return headline{"not_active", warn, "Not active", "This instance does not look after the account, and knows of no other that does."}
}

func headlineConnected(st stability.Status) headline {
	if st.StoreUnavailable != nil {
		return headline{"connected_store_down", warn, "Connected", "But the backend does not answer: the connection is cut if that lasts."}
	}
	switch st.Probes.Health {
	case keepalive.Degraded:
		return headline{"degraded", warn, "Connected", "But messages are not handled as they should be."}
	case keepalive.Mute:
		return headline{"mute", warn, "Connected", "But WhatsApp does not accept what is sent."}
	case keepalive.Stale:
		return headline{"stale", warn, "Connected", "But nothing comes: the connection is being made anew."}
	}
	if s := st.Messages.Sent; s.Do != "" {
		return headline{"restricted", warn, "Connected", "But WhatsApp refuses to begin new chats."}
	}
	if n, _ := untaken(st); n > 0 {
		return headline{"messages_wait", warn, "Connected", "But the program has not taken all messages."}
	}
	if st.Probes.Health == keepalive.Quiet {
		return headline{"quiet", good, "Connected", "All is well, and nobody writes."}
	}
	return headline{"connected", good, "Connected", "All is well."}
}
