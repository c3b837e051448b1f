package adminhttp

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
)

// situation is one that an account may be in, with a headline and with
// sentences at length. Without a tell it is explained as the next one that
// fits.
type situation struct {
	headline
	is   func(stability.Status) bool
	tell func(about) explanation
}

// again is what follows a failed attempt, as a rule.
const again = "It tries again, with growing pauses."

// situations is pure. The first that fits counts: it goes from what stops
// everything to what is only odd.
var situations = slices.Concat([]situation{
	{headline{"closed", bad, "Closed", "This instance looks after nothing any more."},
		func(st stability.Status) bool { return st.Closed },
		func(a about) explanation {
			return explanation{since: a.ModeSince, why: "The program ended its use of the account (it closed the Manager).", next: "Nothing: this instance is over, and its lock was given back.", do: "If that was not meant to be, start the program again."}
		}},
	{headline{"run_failed", bad, "Stopped", "The program has stopped looking after the account, with an error."},
		func(st stability.Status) bool { return st.Mode != stability.ModeActive && st.RunError != nil },
		func(a about) explanation {
			return explanation{
				since: a.RunEndedAt, why: "The part of the program that looks after the account (Run) has ended with an error: " + a.RunError.Error() + ".",
				next: "Nothing happens here before the program is started again, or calls Run again. Another instance takes over if one stands by.",
				do:   "Deal with the error, then start the program again.",
			}
		}},
	{headline{"released", warn, "Standing aside", "This instance could not connect, and lets another one try."},
		func(st stability.Status) bool { return st.Mode == stability.ModeReleased },
		func(a about) explanation {
			return explanation{
				since: a.Yield.At, why: join(a.text.Means, "This may be the fault of this instance, so it gave the lock up, and another one can try."),
				next: "This instance asks for the lock again at " + clock(a.AsksAgainAt) + ", unless another one has taken it.",
				do:   needed(a.text.Do),
			}
		}},
}, whileStandingBy, whileConnected, whileOff)

var whileStandingBy = []situation{
	{headline{"standby_store_down", bad, "Standby", "The backend does not answer: nobody here knows who is active."},
		func(st stability.Status) bool { return passive(st) && st.StoreUnavailable != nil },
		func(a about) explanation {
			return explanation{
				since: a.StoreUnavailableSince, why: "The backend that keeps the session and its lock cannot be reached, so this instance cannot tell whether another one is active.",
				next: "The backend is asked again every few seconds; this instance then stands by or becomes active.",
				do:   bringBack(a.Status),
			}
		}},
	{headline{"lock_may_be_free", warn, "Not active", "This instance does not look after the account, and has not asked lately whether another one does."},
		func(st stability.Status) bool { return passive(st) && st.LockMayBeFree },
		func(a about) explanation {
			x := explanation{
				since: a.ModeSince, why: "Another instance held the lock when this one last asked, at " + clock(a.LockSeenAt) + ". It may still hold it, and renew its lease; or it may be gone.",
				next: "The lock is taken as soon as the program asks for it (it calls Run, Activate or TryActivate) and it is free.",
				do:   "Look whether another instance is active. If none is, look at this program's log for what it waits for, and tell its developers.",
			}
			if a.Running {
				x.next, x.do = "The lock is asked for again, and taken when it is free.", "If this lasts, look at the program's log for what the backend answers."
			}
			return x
		}},
	{headline{"standby", calm, "Standby", "Another instance looks after the account."},
		func(st stability.Status) bool {
			return passive(st) && st.LockHolder != "" && st.LockHolder != st.InstanceID
		},
		func(a about) explanation {
			x := explanation{
				since: a.ModeSince, why: "Another instance holds the lock and looks after the connection. That is how it should be.",
				next: "This instance takes over when the lock is released or expires. Nobody needs to do anything.",
			}
			if a.LockHolderHere {
				x.why = "Another Manager in this same process holds the lock and looks after the connection. That is how it should be where a program makes two for one account."
				x.next = "This instance takes over when the lock is released. Nobody needs to do anything."
			}
			if a.LastDisconnectReason == reconnect.ReasonLockLost {
				x.why = "This instance had the connection until " + clock(a.LastDisconnectAt) + ", and lost the lock then. Another instance has taken it, and looks after the connection."
				x.do = "Nothing now. If the lock moves often, check the network between the instances and the backend, and whether this process is paused at times."
				x.next = "This instance takes over again when the lock is released or expires."
			}
			if !a.Running { // by hand nobody here asks for it
				x.next = "This instance can take over when the lock is released or expires, and the program asks for it."
			}
			return x
		}},
	{headline{"not_active", warn, "Not active", "This instance does not look after the account, and knows of no other that does."},
		passive,
		func(a about) explanation {
			switch {
			case a.LockKept:
				return explanation{
					since: a.ModeSince, why: join(a.text.Means, "A reconnect loop was broken, and this instance keeps the lock for a new term."),
					next: "The program begins a new term. If it does not within half a minute, the lock is given up, and another instance can take it.",
				}
			case a.LockHolder != "": // it is this one
				return explanation{
					since: a.ModeSince, why: join(a.text.Means, "This instance ends its term."),
					next: "In some seconds the lock is given up, unless it is lost already or is kept for a new term.",
				}
			case a.Running:
				return explanation{
					since: a.ModeSince, why: "The program asks for the lock, and has not been given it yet. This instance knows of no other that holds it.",
					next: "The lock is asked for again and again, and taken as soon as it is free.",
					do:   "Wait a minute if the program has just been started. If this lasts, look at the program's log for what the backend answers.",
				}
			}
			return explanation{
				since: a.ModeSince, why: "The program has not asked this instance to look after the account, and this instance knows of no other that does.",
				next: "This instance looks after the account as soon as the program asks for that (it calls Run, Activate or TryActivate), unless another instance does then.",
				do:   "Wait a minute if the program has just been started. If this lasts, look at the program's log for what it waits for, and tell its developers.",
			}
		}},
}

var whileConnected = []situation{
	{headline{"connected_store_down", warn, "Connected", "But the backend does not answer: the connection is cut if that lasts."},
		func(st stability.Status) bool {
			hb := st.Heartbeats
			return connected(st) && (st.StoreUnavailable != nil || hb.Failures > 0 && !hb.TrustedUntil.IsZero())
		},
		func(a about) explanation {
			if hb := a.Heartbeats; hb.Failures > 0 && !hb.TrustedUntil.IsZero() {
				return explanation{
					since: hb.LastRenewalAt, why: "The backend does not answer: the lock of this account could not be renewed since " + clock(hb.LastRenewalAt) + ".",
					next: "It is asked again and again. If it has not answered at " + clock(hb.TrustedUntil) + ", the connection is cut, before another instance can take the lock; all goes on by itself when the backend is back.",
					do:   bringBack(a.Status),
				}
			}
			return explanation{
				since: a.StoreUnavailableSince, why: reconnect.ReasonStoreUnavailable.Text().Means,
				next: "The backend is asked again every few seconds. If it stays away, the connection is cut before the lock can be taken by another instance.",
				do:   bringBack(a.Status),
			}
		}},
	{headline{"degraded", warn, "Connected", "But messages are not handled as they should be."},
		inHealth(keepalive.Degraded), tellDegraded},
	{headline{"mute", warn, "Connected", "But WhatsApp does not accept what is sent."},
		inHealth(keepalive.Mute),
		func(a about) explanation {
			return explanation{
				since: a.Probes.Since, why: strings.TrimSuffix(a.Probes.Text, " "+a.Messages.Sent.Do),
				next: "The connection is kept, and messages come in. Nothing is sent again by itself. An incident is open until a send is accepted.",
				do:   a.Messages.Sent.Do,
			}
		}},
	{headline{"stale", warn, "Connected", "But nothing comes: the connection is being made anew."},
		inHealth(keepalive.Stale),
		func(a about) explanation {
			return explanation{since: a.Probes.Since, why: a.Probes.Text, next: "The connection is cut now and made anew."}
		}},
	{headline{"restricted", warn, "Connected", "But WhatsApp refuses to begin new chats."},
		func(st stability.Status) bool {
			return connected(st) && st.Messages.Sent.Do != "" && st.Messages.Sent.MuteSince.IsZero()
		},
		func(a about) explanation {
			s := a.Messages.Sent
			return explanation{
				since: first(s.NewChatsRefusedAt, a.ConnectedAt), why: s.Text, do: s.Do,
				next: "Messages are received as they come, and sends to existing chats go on. No incident is raised for this.",
			}
		}},
	{headline{"messages_wait", warn, "Connected", "But the program has not taken all messages."},
		func(st stability.Status) bool { n, _ := untaken(st); return connected(st) && n > 0 },
		func(a about) explanation {
			_, oldest := untaken(a.Status)
			by := a.Messages.Received.Missed
			left, aside := by[stability.MessageLeftAlone].Count, by[stability.MessageSetAside].Count
			next := "Other messages are handled as they come."
			switch r := a.Messages.Received; {
			case by[stability.MessageRefused].Count > 0 && !r.Redelivers:
				next += " WhatsApp delivers refused messages again at the next login. The library was not told how to connect, so it waits for the program to do so."
			case by[stability.MessageRefused].Count > 0:
				next += " For those that were refused the connection is made anew, with pauses of up to a quarter of an hour between: it is away for a moment each time."
			}
			if by[stability.MessageKept].Count > 0 {
				next += " Those that are kept here are handed over again with pauses of up to a quarter of an hour."
			}
			if left > 0 {
				next += " Those that the program may have ended at are left alone for now, and handed over again later."
			}
			if aside > 0 {
				next += " Those that were set aside stay so until somebody hands them over again or removes them, or until they reach the age that the program sets for them, if it sets one."
			}
			return explanation{
				since: oldest, why: a.Messages.Received.Text, next: next,
				do: "Look in the program's log for why its handlers do not take them: a database, a queue, another service. Below is how often each was tried.",
			}
		}},
	{headline{"quiet", good, "Connected", "All is well, and nobody writes."},
		inHealth(keepalive.Quiet),
		func(a about) explanation {
			return explanation{since: a.ConnectedAt, next: "Nothing needs to happen: nobody writes, and the server answers pings. It goes on like this."}
		}},
	{headline{"connected", good, "Connected", "All is well."},
		connected,
		func(a about) explanation {
			return explanation{since: a.ConnectedAt, next: "Messages are received as they come."}
		}},
}

// whileOff are those of an instance that is active and not connected.
var whileOff = []situation{
	{headline{"store_down", bad, "Not connected", "The backend does not answer, and nothing goes on without it."},
		func(st stability.Status) bool { return st.StoreUnavailable != nil },
		func(a about) explanation {
			x := explanation{
				since: a.StoreUnavailableSince, why: reconnect.ReasonStoreUnavailable.Text().Means, do: bringBack(a.Status),
				next: "The backend is asked again every few seconds; the connection is tried again as soon as it answers.",
			}
			if until := a.Heartbeats.TrustedUntil; until.After(a.At) {
				x.next += " If it has not answered at " + clock(until) + ", another instance may take the lock; this one then stands by."
			}
			return x
		}},
	{headline{"passkey", bad, "Not linked", "WhatsApp asks for a passkey, which the program must answer."},
		func(st stability.Status) bool { return st.PasskeyAsked },
		func(a about) explanation {
			return explanation{
				since: a.down, why: "The code was scanned, and WhatsApp asks for a passkey before it links the phone.",
				next: "Once the program has answered, the phone is linked. If nobody answers within some minutes, a new code to scan is shown.",
				do:   "Look where the program asks for the passkey (on a page of its own, or on the phone), and answer there. If it asks nowhere, it cannot answer yet: tell its developers. For a new code, press Begin the attempt anew.",
			}
		}},
	{headline{"phone_code", bad, "Not linked", "Type the code into the phone."},
		func(st stability.Status) bool { return !st.PhoneCodeUntil.IsZero() },
		func(a about) explanation {
			return explanation{
				since: a.down, why: a.text.Means,
				do:   "Type the code that was asked for into the phone of this account: Settings, Linked devices, Link a device, Link with phone number instead. The code is shown only to whoever asked for it. If nobody has it, get another one: the old one is void then.",
				next: "The code to type can be used until " + clock(a.PhoneCodeUntil) + ". Then another one must be asked for.",
			}
		}},
	{headline{"code", bad, "Not linked", "Scan the code with the phone."},
		func(st stability.Status) bool { return st.QRAvailable },
		func(a about) explanation {
			return explanation{
				since: a.down, why: a.text.Means, do: "Scan the code that is shown, on the phone of this account: Settings, Linked devices, Link a device.",
				next: "The code is replaced by a new one when it expires; after some minutes without a scan no more are offered until somebody asks.",
			}
		}},
	{headline{"banned", bad, "Banned", "WhatsApp has banned this account."},
		func(st stability.Status) bool { return st.LastDisconnectReason == reconnect.ReasonAccountBanned }, nil},
	{headline{"locked", bad, "Locked", "WhatsApp has locked this account."},
		func(st stability.Status) bool { return st.LastDisconnectReason == reconnect.ReasonAccountLocked }, nil},
	{headline{"waits_for_request", bad, "Not linked", "Show a code, then link the phone with it."},
		func(st stability.Status) bool { return st.Parked && st.WA == reconnect.StatusNeedsPairing },
		func(a about) explanation {
			return explanation{
				since: a.down, why: a.text.Means,
				next: "Nothing happens by itself: no code is offered until somebody asks for one.",
				do:   pairAfter(operatorFirst(a.LastDisconnectReason)),
			}
		}},
	{headline{"stopped", bad, "Not connected", "It does not come back by itself: somebody must press Try now."},
		func(st stability.Status) bool { return st.Parked },
		func(a about) explanation {
			do := "Press Try now when it should be connected again."
			if first := needed(a.text.Do); first != "" {
				do = strings.TrimSuffix(first, " Let it try again only then.") + " Only then press Try now."
			}
			return explanation{
				since: a.down, why: a.text.Means, next: join(a.text.Does, "Nothing happens until somebody presses Try now."),
				do: do,
			}
		}},
	{headline{"code_coming", warn, "Not linked", "A code to scan is on its way."},
		func(st stability.Status) bool { return st.WA == reconnect.StatusNeedsPairing },
		func(a about) explanation {
			return explanation{
				since: a.down, why: a.text.Means,
				next: "A connection for pairing is made, then a code to scan is shown.",
				do:   "Wait some seconds for the code, then scan it on the phone under Linked devices.",
			}
		}},
	{headline{"temporary_ban", warn, "Banned for now", "It comes back by itself when the ban is over."},
		func(st stability.Status) bool { return st.State.NotBefore.After(st.At) && !st.NextRetryAt.IsZero() },
		func(a about) explanation {
			return a.off("One attempt is made when the ban is over, at "+clock(a.NextRetryAt)+", and none before.", "")
		}},
	{headline{"lasts", bad, "Not connected", "It tries again, and has not come back for long."},
		func(st stability.Status) bool { return lasts(st) && (st.Connecting || planned(st)) }, nil},
	{headline{"connecting", warn, "Connecting", "An attempt is under way."},
		func(st stability.Status) bool { return st.Connecting },
		func(a about) explanation {
			fails := cmp.Or(a.text.Does, again)
			if r := a.LastDisconnectReason; r == reconnect.ReasonConnectionLost || r != reconnect.ReasonNone && !r.Counts() && r.Action() != reconnect.ActionSlowRetry && r.Action() != reconnect.ActionWait {
				fails = again // that it came for this reason says nothing of a failure
			}
			x := a.off("An attempt is under way, and given up after "+keepalive.Span(a.Settings.ConnectTimeout)+" at the latest. If it fails: "+lower(fails), "")
			x.do = cmp.Or(x.do, "Nothing now: wait for this attempt.")
			return x
		}},
	{headline{"no_plan", bad, "Not connected", "The next attempt is the program's to make."},
		func(st stability.Status) bool { return !planned(st) },
		func(a about) explanation {
			next := "No attempt is planned: it is the program's move."
			if !a.NextRetryAt.IsZero() {
				next = "It is the program's move: its next attempt has been due since " + clock(a.NextRetryAt) + "."
			}
			return a.off(next, "If the program does not connect by itself, press Try now, or restart it.")
		}},
	{headline{"slow", bad, "Not connected", "It tries again, but somebody should look at the cause."},
		budgetSpent,
		func(a about) explanation {
			return a.off("Restarting the process did not help, and as many restarts as are allowed within "+fmt.Sprintf("%g h", a.Settings.BudgetWindow.Hours())+
				" were made: attempts are rare now. The next attempt is made at "+clock(a.NextRetryAt)+".", "When the cause is mended, press Try now.")
		}},
	{headline{"slow", bad, "Not connected", "It tries again, but somebody should look at the cause."},
		replacedAgain,
		func(a about) explanation {
			return a.off("It came back, and was replaced again. It tries only rarely now, so that two copies do not fight. The next attempt is made at "+clock(a.NextRetryAt)+".", "When it is stopped, press Try now.")
		}},
	{headline{"slow", bad, "Not connected", "It tries again, but somebody should look at the cause."},
		func(st stability.Status) bool {
			return st.LastDisconnectReason.Action() != reconnect.ActionRetry && needed(st.LastDisconnectReason.Text().Do) != ""
		}, nil},
	{headline{"retrying", warn, "Not connected", "It comes back by itself."},
		func(st stability.Status) bool { return st.LastDisconnectReason == reconnect.ReasonConnectionReplaced },
		func(a about) explanation {
			return a.off("It pauses, then tries once. If it is replaced again it tries only rarely, so that two copies do not fight. The next attempt is made at "+clock(a.NextRetryAt)+".", "When it is stopped, press Try now.")
		}},
	{headline{"retrying", warn, "Not connected", "It comes back by itself."},
		func(stability.Status) bool { return true },
		func(a about) explanation {
			return a.off(join(a.text.Does, "The next attempt is made at "+clock(a.NextRetryAt)+"."), "")
		}},
}

// headlineOf is what is read first.
func headlineOf(st stability.Status) headline {
	for _, s := range situations {
		if s.is(st) {
			return s.headline
		}
	}
	return headline{}
}

// explain is what is said at length.
func explain(st stability.Status) explanation {
	for _, s := range situations {
		if s.tell != nil && s.is(st) {
			return s.tell(tellAbout(st))
		}
	}
	return explanation{}
}

func passive(st stability.Status) bool { return st.Mode != stability.ModeActive }

func connected(st stability.Status) bool { return st.WA == reconnect.StatusConnected }

// planned reports whether the next attempt has its time. By hand it is the
// program that makes it, so one whose time has come is nothing to count on.
func planned(st stability.Status) bool {
	return !st.NextRetryAt.IsZero() && (st.Running || st.NextRetryAt.After(st.At))
}

// inHealth is for a connection with that health.
func inHealth(h keepalive.Health) func(stability.Status) bool {
	return func(st stability.Status) bool { return connected(st) && st.Probes.Health == h }
}

func tellDegraded(a about) explanation {
	stuck := a.Probes.HandlerAge >= a.Settings.HandlerAfter
	x := explanation{since: a.Probes.Since, why: a.Probes.Text}
	switch w := a.Probes.WaitingSince; {
	case !stuck && !w.IsZero() && a.At.Sub(w) >= a.Settings.BacklogAfter:
		x.next = "The connection is kept, and what waits is handled in its turn; nothing is lost. An incident is open while this lasts."
		x.do = "If it grows, let the program's event handlers do less: give slow work to goroutines or a queue of your own."
	case !stuck && a.Probes.Undecrypted > 0:
		x.next = "The connection is kept. Their senders are asked to send them again, and most come then. An incident is open while this lasts."
		x.do = "If it lasts, look for another copy of this session (a second program, a restored backup), at the damaged rows that were set aside, and at the decryption failures in the program's log."
	default:
		x.next = "The connection is kept. Messages that cannot be handed over wait, and nothing is lost. An incident is open while this lasts."
		x.do = "Restart the program if it does not go on by itself: what was not handled comes again. Then look at its event handlers for a call that waits for ever."
	}
	return x
}
