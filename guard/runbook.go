package guard

import "strings"

// runbook returns one sentence (what to do now) and the longer text, fitted to
// the reason where that helps.
func runbook(t Type, f *Facts) (instructions, text string) {
	var steps []string
	means := f.Means
	switch t {
	case TypeDisconnectStuck:
		instructions = or(f.Do, "Check the network between this host and WhatsApp.")
		steps = []string{
			"The program keeps trying by itself. The admin page says when next, and can try now.",
			"Check network, DNS, proxy and firewall of this host, and whether other hosts can connect.",
			"If only this account is affected, open WhatsApp on the phone and look for a notice.",
		}
		if f.Reason != "" && f.NextRetryAt.IsZero() {
			steps[0] = "Nothing happens by itself. When the cause is dealt with, press Try now on the admin page, or let the program call Reconnect."
		}
	case TypeReconnectLoop:
		switch f.Heal {
		case HealExit:
			instructions = "Nothing yet: the process restarts by itself, or a standby takes over. Look at the logs if it happens again."
			steps = []string{
				"Too many attempts failed in a short time, so the lock was released and the process ended with code 1.",
				"Check that the platform restarts it.",
				"If it comes back, compare the reasons in the logs before each restart.",
			}
		case HealTerm:
			instructions = "Nothing yet: this instance begins anew by itself, or a standby takes over. Look at the logs if it happens again."
			steps = []string{
				"Too many attempts failed in a short time, so this instance ended its term. The process goes on, and begins another term by itself. The lock was released in between, unless every instance would fail in the same way.",
				"If it comes back, compare the reasons in the logs before each line \"breaking a reconnect loop\".",
				"A new term keeps what is wrong in the process itself. If other hosts can connect, restart the program.",
			}
		default:
			instructions = "Nothing yet: the account is begun anew by itself, or a standby takes over. Look at the logs if it happens again."
			steps = []string{
				"Too many attempts failed in a short time, so this instance ended its term. The process ended with code 1, or it goes on and begins another term: the program's settings decide.",
				"If the process ended, check that the platform restarts it.",
				"If it comes back, compare the reasons in the logs before each line \"breaking a reconnect loop\".",
			}
		}
	case TypeRestartLoop:
		means = "WhatsApp ends each new connection with the demand for another one (code 515). Once is normal after pairing; again and again it is not."
		instructions = "Update whatsmeow and restart. If it goes on, remove this linked device on the phone and pair again."
		steps = []string{
			"The program tries again with growing pauses. It does not restart for this: a fresh process would be treated the same way.",
			"Messages that were not acknowledged wait at WhatsApp meanwhile.",
			"Check whether your other accounts are treated the same way: then it is WhatsApp's own trouble, or this client version's.",
			"If only this account is affected, open WhatsApp on the phone and look for a notice before you pair again.",
		}
	case TypeRestartBudget:
		instructions = or(f.Do, "Look for the cause: the log says the reason before each restart.")
		steps = []string{
			"Restarting did not help. The program tries rarely now, and restarts no more until enough time has passed.",
			"Compare the reasons in the logs, check the network, update whatsmeow.",
			"When the cause is mended, press Try now on the admin page, or restart the program.",
		}
	case TypeLoggedOut:
		instructions = or(f.Do, "Pair again: scan the code of the admin page with the phone, under Linked devices.")
		steps = []string{
			"The session is gone; retrying cannot bring it back.",
			"Open WhatsApp on the phone. If it shows a notice about the account, do first what the notice says.",
			"Then open Settings, Linked devices, Link a device, and scan the code that the admin page shows.",
			"The old session is set aside until another device is paired. If the device was logged out in error, restore the session on the admin page.",
		}
	case TypeAccountBanned:
		instructions = or(f.Do, "Open WhatsApp on the phone and request a review.")
		steps = []string{
			"No code is offered and nothing is tried.",
			"When the ban was lifted, ask for a new code and pair again.",
		}
	case TypeTemporaryBan:
		until := ""
		if !f.NotBefore.IsZero() {
			until = ", at " + moment(f.NotBefore)
		}
		instructions = "Wait until the ban is over" + until + ". Do not connect this account from elsewhere."
		steps = []string{
			"The program makes one attempt when the ban is over, and none before, even if it is restarted.",
			"The detail says what WhatsApp objected to. Afterwards send less, and only to people who expect it.",
		}
	case TypeHolderUnfit:
		means = "Each instance that held the lock gave it up because it could not connect. The detail says which, and why."
		instructions = or(f.Do, "Check what these instances share: network, proxy, clock, certificates, build.")
		steps = []string{
			"The instances go on in turns, and together they make no more attempts than one would.",
			"If all of them meet the same, look at what they share. If only one does, mend that one: the other connects as soon as it can.",
			"A new instance makes one attempt at once.",
		}
	case TypeClientOutdated:
		instructions = or(f.Do, "Tell the program's developers: it must be built with a newer whatsmeow, and be started again.")
		steps = []string{
			"WhatsApp refuses the version of the program's client library, whatsmeow. Trying again seldom helps, so the program tries rarely.",
			"For the developers: update the whatsmeow module, build, deploy. A restart tries at once.",
		}
	case TypeConnectionConflict:
		instructions = "Find the other program that uses this session and stop it."
		steps = []string{
			"This instance holds the lock, so the other copy does not use it: an old host, a backup that was restored, a second program.",
			"This instance tries rarely, so that the two do not fight.",
			"When the other copy is stopped, press Try now on the admin page, or let the program call Reconnect.",
			"If you cannot find it, remove the linked device on the phone and pair again.",
		}
	case TypeInstanceIDNotUnique:
		means = "Another process runs with the same instance id, so the two take the lock from each other."
		instructions = "Give each process an instance id of its own, or none."
		steps = []string{"This instance does not fight for the lock: it stands by.", "Look for a copied environment variable or a fixed id in a deployment with more than one replica."}
	case TypeDegraded:
		means = f.DegradedText
		where := "Open the admin page: it says what is wrong."
		if means != "" {
			where = "Read below what is wrong."
		}
		instructions = where + " If a handler of the program hangs, restart the program: what was not handled comes again."
		steps = []string{
			"The link is alive; reconnecting would not help.",
			"A stuck handler: after the restart, look for a call in it that waits for ever.",
			"A backlog: let the handlers do less, and give slow work to goroutines. Nothing is lost meanwhile.",
			"Decryption failures: if they go on, pair again.",
		}
	case TypeSendsRefused:
		means = f.SendsMeans
		instructions = or(f.SendsDo, "Stop sending for a while, then try one message to somebody who wrote to this account lately.")
		steps = []string{
			"The connection is kept and messages come in. No refused send is tried again by itself: each has returned an error to the program.",
			"The status counts refused sends by code, and says when one was accepted last. The first accepted one ends this incident.",
			"Open WhatsApp on the phone and look for a notice about the account, and whether a message goes through from there.",
			"Check whether other accounts are treated the same way: then it is WhatsApp's own trouble, or this version of whatsmeow.",
		}
	case TypeDataDamaged:
		means = "Stored rows of this account could not be used. The connection goes on, and the protocol rebuilds most of what is missing."
		instructions = "Find out what damaged the data: disk, memory, a backup that was copied back, a second program that writes it."
		steps = []string{
			"A row that does not parse is set aside: see what is set aside on the admin page. A message that needed it comes again, or its sender is asked for it.",
			"A row that the backend refuses is kept in memory while this instance is active, and is lost then: compare the backend's limits and permissions with the detail.",
			"When the cause is mended, remove the rows that were set aside. A day without new damage also ends this incident.",
		}
	case TypeMessagesWaiting:
		means = "The program's own event handlers do not take received messages: they return false, or panic."
		instructions = "Look at the program's log and at what its handlers need: a database, a queue, another service."
		steps = []string{
			"No message is lost meanwhile: WhatsApp keeps what a handler refused, and the store keeps what a handler panicked at.",
			"They are handed over again by themselves, with pauses of up to a quarter of an hour.",
			"A message that fails again and again for a day, while others are taken, is set aside.",
		}
	case TypeMessagesSetAside:
		means = "Received messages were set aside: nothing is done with them before somebody asks."
		instructions = "See on the admin page why each was set aside, then hand it over again or remove it."
		steps = []string{
			"The list says of each who sent it, when, and why it is there. Where there is content it is kept, sealed.",
			"After the program was mended, hand them over again.",
			"One without content can only be asked of its sender. Remove it when that is done.",
		}
	case TypeStoreUnavailable:
		means = "The backend that keeps session and lock does not answer."
		instructions = "Bring the backend back: network, credentials, quota, disk space."
		steps = []string{
			"Nothing is received that could not be saved; what arrives meanwhile waits at WhatsApp.",
			"The program goes on by itself when the backend answers.",
		}
	case TypeLockFlapping:
		means = "The lock moves between instances again and again."
		instructions = "Check the network between the instances and the backend, and whether one of them keeps crashing."
		steps = []string{"Each move interrupts the connection.", "Compare the logs of all instances at the times of the moves."}
	}
	var b strings.Builder
	if means != "" {
		b.WriteString(means + "\n\n")
	}
	for _, s := range steps {
		b.WriteString("- " + s + "\n")
	}
	return instructions, strings.TrimRight(b.String(), "\n")
}

func or(s, otherwise string) string {
	if s != "" && s != "Nothing." { // an incident is open: that is no advice
		return s
	}
	return otherwise
}

// titles say in a few words what is wrong.
var titles = map[Type]string{
	TypeDisconnectStuck:     "Not connected for some time",
	TypeReconnectLoop:       "Attempts to connect fail again and again",
	TypeRestartLoop:         "WhatsApp ends each new connection",
	TypeRestartBudget:       "Not connected, and restarting did not help",
	TypeLoggedOut:           "Logged out: the phone must be linked again",
	TypeAccountBanned:       "WhatsApp has banned the account",
	TypeTemporaryBan:        "WhatsApp has banned the account for some time",
	TypeHolderUnfit:         "Not connected: each instance has tried in vain",
	TypeClientOutdated:      "Not connected: WhatsApp refuses this version of whatsmeow",
	TypeConnectionConflict:  "Another copy of the session connects too",
	TypeInstanceIDNotUnique: "Two processes have the same instance id",
	TypeDegraded:            "Connected, but messages are not handled as they should be",
	TypeSendsRefused:        "Connected, but WhatsApp does not accept what is sent",
	TypeStoreUnavailable:    "The backend does not answer",
	TypeLockFlapping:        "The lock moves between instances again and again",
	TypeDataDamaged:         "Stored data is damaged",
	TypeMessagesWaiting:     "The program does not take received messages",
	TypeMessagesSetAside:    "Received messages were set aside",
}

// Title says in a few words what is wrong, for headings and messages. For a
// type that the library does not raise it is made of the type's name.
func (t Type) Title() string {
	if s := titles[t]; s != "" {
		return s
	}
	return strings.ReplaceAll(strings.TrimPrefix(string(t), "wa_"), "_", " ")
}

// Types returns all incident types that the library raises.
func Types() []Type {
	types := make([]Type, len(troubles))
	for i := range troubles {
		types[i] = troubles[i].kind
	}
	return types
}

// Runbook returns what an incident of this type says where nothing more is
// known: one sentence (what to do now), and the longer text. An incident itself
// may fit both to its reason. Both are empty for a type that the library does
// not raise.
func (t Type) Runbook() (instructions, text string) { return runbook(t, &Facts{}) }
