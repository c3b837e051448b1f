// Package stability keeps a host's own whatsmeow client alive and honest.
//
// A [Manager] looks after the connection of one account: one instance at a
// time holds it, its session survives the machine, it comes back after every
// kind of disconnect and stops when it must, and what is wrong can be read from
// [Manager.Status]. The host keeps its *whatsmeow.Client and its handlers.
//
//	m, err := stability.New(stability.WithBackend(backend), stability.WithQR(show))
//	...
//	err = m.Run(ctx, func(ctx context.Context, c *whatsmeow.Client) error {
//		c.AddEventHandlerWithSuccessStatus(handle)
//		return nil
//	})
//
// # Terms
//
// Everything happens within a term of the lock (package lock). The device, its
// caches and the client on it belong to one term and are never used in another:
// a ratchet that was read in one term and written in the next would undo what
// another instance did in between. Two fences stand behind that and need no
// clock: every write to the store carries the term's epoch, and every write to
// the socket asks whether the term is held.
//
//	standby ──granted──▶ active ──▶ connecting ⇄ connected
//	   ▲                   │            │
//	   └──── term over ◀───┴────────────┘   (lost, cut, handed over)
//
// When trust in the lock ends the socket is cut, before the lease can be taken
// by another. The same happens when the store has been out of reach for too
// long: what was received but cannot be written down must not be acknowledged,
// and the server delivers it again to whoever connects next.
//
// # One loop
//
// Each term has one loop, which alone connects, ends connections and saves the
// state. Everything else (the receive tap, whatsmeow's events, the raw
// connection, the host's calls) only notes evidence under a lock that is never
// held across I/O, and wakes the loop. So every method may be called from any
// goroutine, also from inside a whatsmeow event handler.
//
// A connection ends once. The first evidence ends it; later evidence can only
// improve the reason, by the precedence table of package reconnect. A terminal
// reason cancels an attempt that was planned. Every end goes through the one
// procedure of internal/link, after which the client can be used again and
// nothing stale is left in it.
//
// An attempt is written to the persisted state before it begins. While the
// backend does not answer there is no attempt: one that nobody remembers would
// reset the clocks that a restart must not reset.
//
// # Messages
//
// The Manager's handler comes first and refuses a message when it could not be
// answered or acknowledged any more: on a connection that is down, and during
// a hand-over. whatsmeow then leaves it unacknowledged, and the server delivers
// it again. So does a handler of the host's that returns false from
// AddEventHandlerWithSuccessStatus; prefer that to AddEventHandler when
// handling can fail. A message may be handed over twice when the process dies
// between the handler's return and the note of it; use its id to tell.
//
// # Settings of the client
//
// Attach sets EnableAutoReconnect and InitialAutoReconnect to false,
// DisableLoginAutoReconnect and EnableDecryptedEventBuffer to true,
// AutoReconnectHook to nil, and a RefreshCAT that fails where there is none
// (whatsmeow would panic without). It replaces the HTTP clients. A proxy goes
// into [WithTransport].
//
// libsignal, under whatsmeow, prints to standard output and makes its logger
// without a lock; New gives it a silent one, once in a process, unless the
// program has set its own (go.mau.fi/libsignal/logger).
//
// # What stays behind
//
// whatsmeow starts one goroutine per client that received a history sync.
// Versions before 2026-01-07 never end it, later ones do after a minute; set
// ManualHistorySyncDownload to avoid it. A handler that blocks for ever keeps
// its goroutine. A host that calls its client's own Disconnect or Logout while
// frames arrive stops whatsmeow's taker of frames before its read pump; the pump
// is freed within seconds, which takes the client's logger: whoever replaces
// client.Log may leave one behind. Nothing else outlives Close.
package stability
