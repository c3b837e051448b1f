package reconnect

import "strings"

// Text explains a reason in three plain sentences or so: for status pages, log
// lines and runbooks.
type Text struct {
	Means string // what it means
	Does  string // what the library does
	Do    string // what a person should do
}

// DoIfItLasts is Do for trouble that has lasted already: without the advice to
// wait first. It is empty where there is nothing to do.
func (t Text) DoIfItLasts() string {
	do := t.Do
	waited := strings.HasPrefix(do, "If it goes on, ")
	if rest, ok := strings.CutPrefix(do, "Nothing, unless it goes on: then "); ok {
		do = rest
	} else if strings.HasPrefix(do, "Nothing") {
		_, do, _ = strings.Cut(do, ". ")
		waited = strings.HasPrefix(do, "If ")
	}
	if waited {
		_, do, _ = strings.Cut(do, ", ")
	}
	if do == "" {
		return ""
	}
	return strings.ToUpper(do[:1]) + do[1:]
}

var (
	textIntentional = Text{
		Means: "This program ended the connection itself.",
		Does:  "Nothing: it stays disconnected until the program connects again.",
		Do:    "Nothing.",
	}
	textLockLost = Text{
		Means: "This instance no longer holds the lock of this account, so it must not use the session.",
		Does:  "It has cut the connection and stands by; the instance that holds the lock connects.",
		Do:    "Nothing if another instance is active. If the lock moves often, check the network between the instances and the backend.",
	}
	textLoggedOut = Text{
		Means: "The account owner removed this device on the phone, or WhatsApp logged it out.",
		Does:  "It does not reconnect. The old credentials are archived, and a new code to scan can be offered.",
		Do:    "Pair again: scan the QR code or enter the pairing code on the phone under Linked devices.",
	}
	textAccountBanned = Text{
		Means: "WhatsApp refused the login with code 406: the account is banned.",
		Does:  "It stops and offers no QR code. The old credentials are archived.",
		Do:    "Open WhatsApp on the phone of this account and follow what it says (request a review). Only when the ban was lifted, pair again.",
	}
	textAccountLocked = Text{
		Means: "WhatsApp refused the login with code 403: the account is locked, or the phone was logged out.",
		Does:  "It stops and offers no QR code by itself. The old credentials are archived.",
		Do:    "Open WhatsApp on the phone of this account and follow what it says, then pair again.",
	}
	textTemporaryBan = Text{
		Means: "WhatsApp banned the account for a limited time.",
		Does:  "It makes no attempt before the ban is over, even if the program is restarted, then one attempt.",
		Do:    "Wait. Do not connect this account from elsewhere. Afterwards send less, and only to people who expect it.",
	}
	textClientOutdated = Text{
		Means: "WhatsApp no longer accepts this client version (code 405).",
		Does:  "It tries again rarely, in case the version is accepted again.",
		Do:    "Tell the program's developers: it must be built with a newer whatsmeow, or set a current version (store.SetWAVersion), and be started again.",
	}
	textUntrustedServer = Text{
		Means: "The server could not prove that it is WhatsApp: its Noise certificate is wrong.",
		Does:  "It stops. Nothing of the session was sent.",
		Do:    "Check for a proxy or firewall that intercepts the connection. If there is none, update whatsmeow. Let it try again only then.",
	}
	textConnectionReplaced = Text{
		Means: "The same session connected from somewhere else, and WhatsApp closed this connection.",
		Does:  "It pauses, then tries once. If it is replaced again it is parked: it tries only rarely, so that two copies do not fight.",
		Do:    "Find the other copy: a program started twice, an old host, a restored backup. Stop it.",
	}
	textPairingFailed = Text{
		Means: "A code was scanned, but the pairing could not be completed.",
		Does:  "It throws the unfinished device away; a new code to scan can be offered.",
		Do:    "Scan a new code. If it fails again, check that the store accepts writes.",
	}
	textMultideviceMismatch = Text{
		Means: "The code was scanned by a phone that cannot link devices.",
		Does:  "It waits: the code stays valid, and a new one can be offered when it has expired.",
		Do:    "Update WhatsApp on the phone, then scan again.",
	}
	textQRExpired = Text{
		Means: "Nobody scanned the QR code while it was valid.",
		Does:  "It stops offering codes until a new one is asked for.",
		Do:    "Ask for a new code and scan it within a minute.",
	}
	textStoreUnavailable = Text{
		Means: "The backend that keeps the session cannot be reached, so nothing received could be saved.",
		Does:  "It stays disconnected, looks for the backend every few seconds and goes on by itself when it is back.",
		Do:    "Bring the backend back: network, credentials, quota, disk space.",
	}
	textRestartRequired = Text{
		Means: "WhatsApp asked for a new connection (code 515). That is normal after pairing.",
		Does:  "It reconnects at once; this is not counted as a failure.",
		Do:    "Nothing.",
	}
	textRequested = Text{
		Means: "This program or its operator asked for a new connection.",
		Does:  "It reconnects at once; this is not counted as a failure.",
		Do:    "Nothing.",
	}
	textRedelivery = Text{
		Means: "Received messages were refused by this program's own handlers. WhatsApp delivers them again on a new connection only, so this one was ended.",
		Does:  "It reconnects at once, and WhatsApp delivers them again; this is not counted as a failure.",
		Do:    "Nothing, unless it goes on: then see which messages wait and why the handlers refuse them.",
	}
	textHandedOver = Text{
		Means: "The instance that had the connection handed the account over: it was stopped, restarted or updated, or gave the lock up.",
		Does:  "The instance that takes the lock connects.",
		Do:    "Nothing.",
	}
	textHolderLost = Text{
		Means: "The instance that had the connection is gone without handing it over: its process was killed or froze, its machine stopped, or the backend did not hear of it any more.",
		Does:  "The instance that has taken the lock connects at once; this is not counted as a failure.",
		Do:    "Nothing. If it happens often, find out why the process ends: its log, memory limits, deadlines of its supervisor.",
	}
	textClosedByProgram = Text{
		Means: "This program closed the connection itself, by its client's own Disconnect, while Run looks after the account.",
		Does:  "It reconnects after a second, and with growing pauses if that happens again and again; this is not counted as a failure.",
		Do:    "Nothing. A program that wants to stay disconnected ends Run; Reconnect takes the place of Disconnect and Connect.",
	}
	textServiceUnavailable = Text{
		Means: "WhatsApp is overloaded or restarting, or refused the connection at its edge.",
		Does:  "It retries with growing pauses, the first of half a minute.",
		Do:    "Nothing for some minutes. If it lasts, check whether a proxy or firewall answers in WhatsApp's place.",
	}
	textBadSession = Text{
		Means: "WhatsApp ended the connection with an error that it did not explain; the local session may be damaged.",
		Does:  "It retries with growing pauses. After some in a row (three, unless set otherwise) it repairs the local session; credentials are never deleted for this.",
		Do:    "If it goes on, look at the code in the status and update whatsmeow.",
	}
	textConnectRejected = Text{
		Means: "WhatsApp refused the login with a code that retrying rarely cures.",
		Does:  "It makes a few slow attempts (three, unless set otherwise), then stops.",
		Do:    "Look at the code in the status, update whatsmeow or the client settings, then restart.",
	}
	textConnectionLost = Text{
		Means: "The connection was open but dead: pings were not answered, or the socket had gone without a word.",
		Does:  "It closes the dead socket and reconnects at once, then with growing pauses.",
		Do:    "Nothing. If it happens often, check NAT timeouts and the network path.",
	}
	textTimedOut = Text{
		Means: "The server did not answer in time while connecting.",
		Does:  "It retries with growing pauses.",
		Do:    "Nothing for some minutes. If it lasts, check the network, proxy and firewall.",
	}
	textNetworkUnreachable = Text{
		Means: "The server could not be reached: refused, name not resolved, or TLS failed.",
		Does:  "It retries with growing pauses.",
		Do:    "Nothing for some minutes. If it lasts, check network, DNS, proxy, and the machine's certificates and clock.",
	}
	textConnectionClosed = Text{
		Means: "The connection was closed without a reason given.",
		Does:  "It retries with growing pauses.",
		Do:    "Nothing. If it happens often, check the network path.",
	}
	textUnknown = Text{
		Means: "The connection ended for a reason that this version of the library does not know.",
		Does:  "It retries with growing pauses.",
		Do:    "Update this instance to the version that the other instances run.",
	}
)
