// Package reconnect decides what follows the end of a connection: why it
// ended, whether to come back, and when.
//
// Everything here is pure. The package starts no goroutine, reads no clock and
// does no I/O; stability.Manager owns the sockets and timers and asks.
//
// # From evidence to a reason
//
// whatsmeow reports the end of a connection late, twice, wrongly or not at
// all, and its events arrive in any order. So a cause is evidence, not truth.
// [Classify] turns each piece into a [Cause]: a stanza, an event, an error
// from Connect, a watchdog's finding, or the host's own word. Stanzas come
// first, from the receive logger (the tap), and only they tell of 500 and 503.
// [Better] joins two causes for one end. It is commutative, associative and
// idempotent, so the order of arrival cannot matter.
//
// Which reason wins stands in one table, highest first. Between two lines of
// the first column everything above beats everything below; inside a line the
// order is fixed but of no importance.
//
//	reason                class       what follows                              counts
//	intentional           host        nothing                                   no
//	lock_lost             host        this term is over: stand by               no
//	handed_over           own         nothing here: the next holder connects    no
//	- - -
//	logged_out            permanent   NEEDS_PAIRING; a new code may be offered  no
//	account_banned        permanent   NEEDS_PAIRING; stop, no code              no
//	account_locked        permanent   NEEDS_PAIRING; stop, no code              no
//	- - -
//	temporary_ban         timed       not before now + its time (24 h)          no
//	client_outdated       operator    slow retry                                no
//	untrusted_server      operator    stop                                      no
//	- - -
//	connection_replaced   conflict    one try after a pause, then parked        no
//	- - -
//	pairing_failed        user        NEEDS_PAIRING; new device, new code       no
//	multidevice_mismatch  user        while pairing: a new code; else as        no
//	                                  connect_rejected
//	qr_expired            user        NEEDS_PAIRING; a new code on request      no
//	store_unavailable     host        wait for the backend                      no
//	- - -
//	restart_required      expected    at once                                   no
//	requested             own         at once                                   no
//	redelivery            own         at once                                   no
//	holder_lost           host        at once                                   no
//	closed_by_program     own         backoff                                   no
//	- - -
//	service_unavailable   transient   backoff, at least 30 s                    yes
//	bad_session           suspicious  backoff; repair after every third         yes
//	connect_rejected      operator    three slow retries, then stop             no
//	- - -
//	connection_lost       transient   at once, then backoff                     yes
//	timed_out             transient   backoff                                   yes
//	network_unreachable   transient   backoff                                   yes
//	- - -
//	connection_closed     transient   backoff                                   yes
//
// "counts" means: a failure in the eyes of auto-heal, that is, one that a
// fresh process could perhaps cure. [Reason.Text] has the same table in plain
// sentences for operators.
//
// # The machine
//
// A [Machine] belongs to one loop and sees one connection at a time:
//
//	        Attempt                Connected
//	down ------------> connecting ----------> up
//	 ^                     |                   |
//	 +---- Disconnected ---+-------------------+
//
// A connection ends once. The first Disconnected makes a [Decision]. Until the
// next Attempt or Connected, each further cause is joined to the first. If
// nothing better comes out, the same Decision is returned. If the reason
// improves, the machine goes back to the state before the end, and decides
// again with the same random draw. So the outcome is a function of the set of
// causes. It pays to wait a quarter of a second after the first cause.
//
// Two facts hold even if a higher reason hides them. A temporary ban is waited
// out although the host disconnected at the same moment. A session that is
// gone needs pairing whatever else ended the connection.
//
// connection_replaced does not say who is right: ask the lock. If it is lost,
// give lock_lost as a further cause; it outranks the conflict and undoes its
// entry. If the lock is still held, somebody uses the session outside of it.
// The machine pauses and tries once. A second replacement within
// Policy.ReplacedWindow parks it at Policy.SlowRetry, so that two copies never
// fight.
//
// # Delays
//
//	attempt   1   2   3   4   5    6    7    8 …
//	delay/s   1   2   4   8   16   32   60   60 …   each ±20 %
//
// RetryCount goes up by one with every retry that is scheduled (not for restart_required,
// requested, redelivery and store_unavailable), and back to zero only when a connection
// that was up for Policy.StableAfter ends. Connecting alone resets nothing, so a server
// that accepts and drops is met as slowly as one that refuses. The reasons
// restart_required, requested and redelivery are immediate up to Policy.RestartBurst
// times in a row, together. Beyond that they back off like the others, without counting.
//
// NextRetryAt is the given instant plus Delay, and zero if and only if
// ShouldReconnect is false. Nothing is ever scheduled inside a ban, and
// [Machine.Allowed] refuses an attempt there whoever wishes it.
//
// # Whose fault it may be
//
// Some ends may be the fault of this instance alone ([Cause.OfInstance]): its network,
// proxy, clock, certificates or build. They are network_unreachable, timed_out,
// untrusted_server, client_outdated, connect_rejected, and the HTTP answers 403, 407
// and 429 to the upgrade. A holder that meets them gives the lock up, so that another
// instance can try; an attempt that fails for any other reason would fail everywhere
// and never moves the lock. (If autoheal ends the process, the lock is released,
// whatever the reason.) The account's counters, windows and plans go on
// ([Machine.Yielded]). A holder that has not tried yet in this trouble makes one
// attempt at once. An instance that takes the lock back waits for the planned attempt,
// however far away it is ([Machine.Began]).
//
// # What survives the process
//
// The holder of the lock saves [State], fenced, and reads it at the start of a term
// ([NewMachine], [Machine.Resume]). So a restart resets nothing: not the clock of the
// outage, the backoff, the window of attempts, the budget of restarts, or a ban. Instants
// were written by another machine's wall clock, so they are clamped: nothing in the
// future but waits, and no wait longer than the policy can have meant (a ban:
// Policy.BanMax). A state that says CONNECTED was left by a process that died: its outage
// begins when it is first seen, and its reason is holder_lost. A restart is also how a
// person says "try now". It shortens a slow retry to the longest backoff, and gives one
// try after a stop. It shortens no ban and no pause after a replacement.
//
// [EncodeState] and [DecodeState] carry a format version: a newer one is
// [ErrNewerFormat] and is never overwritten. Unknown fields of the same
// version are kept, so that two releases can take turns.
//
// # What can go wrong
//
//   - A cause of the previous connection is given to the machine: it would end
//     the new one. Tag causes with their connection before they get here.
//   - whatsmeow's handshake errors have no types; their texts are matched. A
//     test makes the real client produce each of them, and fails when a new
//     version says it differently. An error that is not recognised is
//     connection_closed: a retry with backoff.
//   - An attribute value in a tapped stanza is not escaped, so text from the
//     server could imitate an attribute. It could do that anyway: it is the
//     server. No input makes Classify panic.
package reconnect
