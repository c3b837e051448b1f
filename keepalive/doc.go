// Package keepalive judges whether a connection is really alive.
//
// An open socket proves nothing: the network may swallow every byte, or a
// message handler may be stuck while pings are answered. A [Monitor] looks at
// an [Observation], the clocks that the owner of the connection keeps, and
// gives one [Verdict]: a health value, since when, and a plain sentence.
//
// It is pure: no goroutine, no timer, no I/O, and so it can never block.
//
//	down      no connection
//	stale     the socket is open and dead: end it and reconnect
//	degraded  the link is alive, but messages do not get through: a handler is
//	          stuck, what waits for one waits too long, or decryption failures
//	          pile up
//	mute      the link is alive and messages come in, but what is sent is
//	          refused, or not answered
//	quiet     nothing came for a while, and pings are answered
//	ok        all else
//
// The uppermost that fits is reported.
//
// # What is activity
//
// Everything the server sends: bytes read, events, messages, answered pings.
// The time of the connect is the baseline, so that a connection on which
// nothing ever came is checked like any other. The probes are the answered
// pings of whatsmeow, which pings every 20 to 30 s. A good probe is activity:
// silence of the people who write is no fault, and a quiet account is never
// torn down.
//
// # When it is stale
//
// After Policy.MaxFailures probes in a row went unanswered (whatsmeow's
// KeepAliveTimeout with its ErrorCount), or after Policy.StaleAfter without
// any activity. The first is the fast way: 30 s to the ping, 10 s for its
// answer, twice, so at most 80 s. The second needs nothing but the clocks.
//
// Silence for Policy.ProbeAfter only sets Verdict.Probe: somebody should send a
// ping now. It never ends a connection by itself.
//
// # A stuck handler and a backlog
//
// One handler that runs for Policy.HandlerAfter is stuck. A thousand messages
// that take 50 ms each are a backlog: the last one waits for a minute, and no
// handler is at fault. So the run of the oldest handler is judged, not the wait
// behind it; the wait counts after Policy.BacklogAfter, with its own words.
//
// # Mute
//
// The owner of the connection counts what becomes of sends and says since when
// too many in a row failed (Observation.MuteSince). The link is as good as ever,
// so a new one would not help: mute ends no connection and asks for no probe.
//
// # What can go wrong
//
//   - The dialer is not ours, so bytes read are unknown: answered pings cause
//     no event. The probe asked for by Verdict.Probe takes their place.
//   - The wall clock is stepped: give instants with their monotonic reading.
//     Instants in the future count as now.
package keepalive
