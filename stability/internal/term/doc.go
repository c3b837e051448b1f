// Package term decides what a Manager does within one term of the lock.
//
// [Core] is the whole decision state of one term. It is pure: it has no mutex,
// no goroutine, no I/O, no clock, no randomness of its own and no whatsmeow
// client. It is given evidence and the time, and answers with effects:
//
//	Handle(evidence, now)   what is to be done about it
//	Next(now)               when to look again, if nothing comes before
//	View(now, socket)       what is, for status and for whoever waits
//
// Package stability holds the mutex, the socket, the timers and the host's
// callbacks. Everything that it sees goes in as [Evidence], from any goroutine,
// and is decided at once under its mutex: the dialer, HandleDisconnected and a
// cut term need the answer there. Effects that never block are carried out
// by whoever brought the evidence. The others are for the one loop of the term,
// which carries out one at a time, brings what came of it as evidence, and only
// then ticks again.
//
// # One table
//
// The table of rules (table.go) is everything that is done about evidence: by
// the kind of evidence, the phase of the term and the phase of the newest
// connection. The table of duties (next.go) is everything that falls due by
// itself, in the order in which it is done. A step that neither allows is a
// fault, which tests look for.
//
// # The term
//
//	          a loop is found        recorded
//	Working ──────────────────▶ Breaking ─────▶ Broken
//	   ▲                           │               │ people were told
//	   └────── not recorded ───────┘               ▼
//	   │ the lock is to be given up
//	   └──────▶ Yielding ── people were told ──▶ Leaving
//	any of the four ── Stop ─────────────────▶ Leaving ──┐
//	any of the four ── CutTerm ──────────────▶ Dropped ──┴─▶ Finished
//	                   (lock lost, store unusable)
//
// In Leaving the lock is held until everything is written down. In Dropped
// nothing is written any more. A term ends once: the first cause stays.
//
// # Giving the lock up
//
// A lease says that a process lives, not that it can connect. Some ends may be
// this instance's own fault (reconnect.Cause.OfInstance), and another instance may
// well connect. So the term is given up:
//
//	YieldAfter from its first attempt that failed for such a reason,
//	at once when such an end would stop the attempts, or make them rare,
//	never for another reason, nor while a connection is up or being made,
//	never before the term has lasted YieldPause(n), n being how often its
//	holder gave up before in this trouble.
//
// An attempt that is under way then is overdue: it has ten seconds more, and
// ends as timed_out. A holder that gave up before, in this process, keeps to what
// is planned for the account, and gives up again also without an attempt, where
// none is due for long. A holder that has not tried in this trouble makes one
// attempt at once. A person who asks for an attempt gets it first.
//
// # The connection
//
// There is one connection at most, the newest. Evidence that carries the number
// of an older one, or of an older attachment, changes nothing. An end that the
// host tells of without any connection is the end of one that nobody saw begin.
//
//	NoConn ─▶ Opening ─▶ Dialed ──┐
//	             └─────▶ Foreign ─┴▶ Waiting ─▶ Up
//	the host connects by itself ───▶ Waiting ─▶ Offering ─▶ Passkey
//	                                 Waiting ─▶ Accepted
//	each of these ─ the first cause ends it ─▶ Ended ─▶ (Drained) ─▶ Over
//	Over ─▶ Opening, Waiting (the next one); a new attachment ─▶ NoConn
//
// Some steps may be left out, for what is seen comes from several goroutines: codes
// lead to Offering from every live phase but Up, a login to Up from Dialed on, and a
// phone that accepts to Accepted from Dialed, Waiting, Offering and Passkey.
//
// Ended: the loop brings the connection to its very end, so that the client can
// be used again. Drained: it was replaced, and the lock is asked who holds it.
// Over: what follows was decided. A better reason may still come, until the
// next attempt is recorded; it changes what was decided. An attempt whose socket
// opens only behind its end is cut at once. If it is the host's own, it is the
// next connection, whatever has become of the one before.
//
// # Health
//
// The loop tells what it sees before each tick ([Seen]): bytes, events, what waits
// for a handler, sends. The core adds what it knows by itself, whether there is a
// connection and which pings were answered, and has a keepalive.Monitor judge it.
// A connection on which nothing is heard ends as connection_lost. One that is only
// quiet is asked with a ping, one at a time.
//
// # The next attempt
//
//	NoPlan ─▶ Planned (Unasked) ─due─▶ Recorded ─written down─▶ an attempt begins
//
// An attempt is in the state that is written down before it begins, or it does
// not begin. It is never made inside a temporary ban, whoever asks for it. A
// terminal reason cancels it.
//
// # The device
//
//	            the store says which
//	Unread ──┬──▶ Unpaired ─a phone accepts─▶ Paired
//	   ▲     │     │   │                        │
//	   │     └─────┼───┼───────────────────────▶│
//	   │           │   │ pairing failed         ├─▶ Deleted: somebody deleted it; the reason is on its way
//	   │           │   └─▶ Spoilt ◀─────────────┤
//	   │           └─────▶ Gone ◀───────────────┤   Gone: the service ended it; what is stored must not come back
//	   │                                        └─▶ Shut: ended under a client that does not let go of it
//	   │ the store gave its last device back
//	every one of them
//
// Behind Spoilt, Gone and Shut the store is read again: Unpaired or Paired.
// Deleted becomes Gone, Spoilt or Shut when its connection ends, and Spoilt and
// Shut become Gone if the end says that the service removed the device.
//
// # The state and the client
//
//	Saved ─▶ Unsaved ─▶ Saving ─┬▶ Saved            it is written down
//	                            ├▶ Unsaved          that failed
//	                            └▶ Stale ─▶ Unsaved it has changed meanwhile
//	Saved ─▶ Saving                                 the record of a restart
//
//	NoClient ─▶ Attached ─▶ Retired ─▶ Attached   the next one
//	                │          ▲
//	                └▶ Replaced┘                  a newer one takes its place
//
// # Asking
//
//	Open, Parked ─ somebody asks ─▶ Asked ─ a login, a pairing ─▶ Open
//	Open, Asked ─ the attempts have stopped, the offers are over, or none is made unasked ─▶ Parked
//	Parked ─ an attempt is planned, or the store has its last device back ─▶ Open
//
// # Invariants
//
// The exploration (explore_test.go) plays the worst that can surround a Core:
// any evidence at any moment, late, twice, or from an older connection, and
// every effect may fail or hang. These always hold:
//
//	OneConnection             one open socket at most
//	OneClientOnADevice        a client connects only on the present device, and one client is in use at most
//	OneLoop                   one long effect at a time
//	NoAttemptUnrecorded       the state that is written down has the attempt that begins
//	NoAttemptInABan           no attempt begins before a temporary ban is over
//	TerminalBeatsPlan         behind a terminal reason no attempt begins before somebody asks
//	NothingBeginsWhileEnding  a term that ends dials nothing
//	NothingEndsByItself       a term is torn down because somebody asked, or to break a loop
//	AnEndIsAnEnd              what ended does not come back
//	ToldOnce                  each end is told to observers, and once
//	NoHealUnrecorded          a loop is broken only when the restart is written down
//	NoYieldUnrecorded         the lock is given up only when the state says by whom and why
//	OnlyTheUnfitYield         it is given up for reasons of this instance alone, and not as soon as it was got back
//	TheUnfitYieldInTime       a term in which attempts go on failing for such a reason is given up
//	NoCodeBeforeAsked         where codes are offered on request, no connection for pairing begins before a person asks
//	NoCodeForALinkedDevice    codes to scan are shown only while no device is linked
//	ClosingIsNoGoodbye        a program that closes the connection of Run's client gets another one
//	SilenceEnds               a connection ends on which nothing is heard any more
//	QuietIsLeftAlone          and no other one does for its silence
//	OnePing                   one ping at a time
//	WhoAsksIsHeard            nothing stays parked when somebody has asked
//	NeverAtRest               there is a deadline, an effect under way, or somebody who was told what is asked of them
//	ViewIsTrue                View says what is, shows no plan in a term that ends, and changes nothing
//	NoFault                   no step is taken that the tables do not allow
package term
