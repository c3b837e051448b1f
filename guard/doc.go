// Package guard raises incidents, once, and resolves them.
//
// An [Incident] is one trouble that somebody should know of. It has one id per
// type, so however often and by whomever it is seen, it is one document. An
// [IncidentStore] keeps them; a [Guard] decides, purely, from [Facts].
//
//	          it is so                 it is over (for ClearAfter, if it flaps)
//	(none) ------------> active ------------------------------> resolved
//	                     |    ^                                   |
//	                     +----+  every Refresh: LastCheckedAt     |
//	                       ^-------------- it is so again --------+
//
// One table says what can be wrong, when it is, and when it is over (trouble.go). Trouble
// that is not seen is not cured. A loop is over when the connection is back, and so is
// the lack of an instance that is fit to hold the lock. A logout is over when a device is
// paired, a ban when an attempt has shown that it is. Some troubles have an incident of
// their own, and are not reported as a stuck connection too: a ban, an outdated client,
// another copy of the session, the same demand for a new connection again and again, the
// host's own disconnect.
//
// Incidents about the connection are the holder's. An instance that loses the
// lock forgets them without resolving; the next holder adopts what the store
// says is active, and resolves what is over. The others (backend, lock,
// instance id) anybody may raise, and whoever still sees one refreshes it.
//
// A backend that does not answer cannot say who has told of it. So the instance
// that held the lock when the outage began tells, and one that stood by leaves
// it to that one for Policy.WatchedAfter. The cost: when the holder dies
// with its backend, a standby says so in its log and status at once, and tells
// after that time only. Processes that begin during an outage know of no holder
// and tell each.
//
// A raise that got lost is repeated by the next refresh; a resolve is planned
// again until [Guard.Resolved] confirms it.
//
// A [Sink] tells people: [NewSlogSink] a log, [NewWebhook] a program,
// [NewSlack], [NewDiscord], [NewTelegram], [NewPagerDuty] and [NewAlertmanager]
// the service of that name. E-mail is a few lines of the host's own; see the
// example of Sink.
package guard
