// Package lock keeps one instance at a time in possession of a connection.
//
// This page is the protocol; the code below only has to do what it says.
//
// # Who is authoritative for what
//
// The [Store] decides who holds the lock. It judges expiry by one clock, its
// own; no two machines' wall clocks are ever compared. It hands out epochs:
// every new term gets an epoch one higher than any before it, and none is used
// twice, release or not.
//
// A [Lease] decides when this process stops believing. It may be wrong only
// in one direction: it may stop too early, never too late.
//
// The epoch decides what a late write is worth. Each writer of something for
// the connection passes the term's epoch along and gets [ErrFenced] when a
// newer one exists. That fence needs no clock at all.
//
// # States
//
//	           Acquire granted                    wall clock ran ahead
//	standby ────────────────────▶ held ◀──────────────────────────────▶ paused
//	   ▲                           │            a renewal confirms          │
//	   │                           │ released, lost, or trust ran out       │
//	   │      new Acquire,         ▼                                        │
//	   └──────new epoch────────  ended ◀────────────────────────────────────┘
//
// A term is trusted (Held is true) in state held only. Ended is final: Lost is
// closed, [Cause] says why, and only a new term, with a new epoch, follows. A
// Lease has at most one term at a time.
//
// # The trust window
//
//	trusted until = instant the last successful Acquire or Renew was SENT + lease − margin
//
// The instant is local and monotonic. It is that of sending, because the store
// starts its own count after that and before the reply. Counting from the
// reply would trust a slow request for longer than the store does. A slow
// renewal that succeeds therefore extends nothing by its slowness, and one
// that succeeds after the window ended extends nothing at all. The margin
// covers clocks that run at different rates and a write already on its way.
// With the defaults (lease 90 s, refresh 30 s, margin 10 s) the holder stops
// 10 s before the store can grant the lock to another.
//
// A timer ends the window. It waits for no network: a renewal that hangs is
// abandoned, not awaited. A renewal that fails is repeated within the window
// after a short, growing delay, so one error, and one renewal that hangs until
// its timeout, lose nothing. ErrLost from the store ends the term at once.
//
// # Suspended machines and stepped wall clocks
//
// On Linux the monotonic clock stands still while a machine is suspended, the
// lease at the store does not. So trust is paused as well while the wall clock
// has run ahead of the monotonic clock by more than the margin since the last
// confirmed request was sent. A pause triggers a renewal at once; if it
// succeeds, Held is true again, if the store says ErrLost the term ends.
// Pausing does not close Lost. An operator who steps the wall clock forward
// therefore causes a pause of one round trip, and one who steps it back none;
// neither loses the term nor extends it. The check is part of Held. Besides,
// the clocks are read every second (or margin/2, if that is less), and the
// gains of the wall clock are added up. Steps back are not taken off, lest
// they hide a suspend. One case is left: a suspend and a step back within the
// same second, while the store cannot be reached; then the epoch is the only
// fence.
//
// A process that is stopped (SIGSTOP, a long collection, a starved container)
// needs no such check: the monotonic clock goes on. Between a Held that is
// true and the act it permits the process can still be stopped. A write that
// it sends afterwards is refused for its epoch.
//
// # What is scoped to a term
//
// Epoch, trust, the renewal loop, and everything a caller derives from the
// store of the connection: sessions, caches, clients. Nothing of term N is used
// in term N+1. Requests in flight are abandoned when their term ends, and a
// late Release or Renew of term N does nothing to term N+1, because it carries
// the epoch.
//
// # What happens on each failure
//
//   - Renew fails: repeated within the window; [Stats] counts it.
//   - Renew hangs: abandoned after the call timeout, then repeated.
//   - Nothing succeeds until the window ends: the term ends with [ErrExpired].
//   - Renew answers ErrLost: the term ends with [ErrLost]. If the lock is now
//     held under this very holder id with a higher epoch, the cause is
//     [ErrInstanceIDNotUnique].
//   - A term that ended without Release is released in the background, once
//     and for a bounded time, so that others need not wait for the rest of the
//     lease and a store that keeps a file open closes it. The epoch makes that
//     harmless when another term has begun.
//   - Acquire's outcome is unclear (error, timeout): the same attempt is
//     repeated under the same nonce, which the store answers with the same
//     epoch; then the record is read. If it stays unclear until the context
//     ends, the nonce is kept, and the next attempt settles it: a term that was
//     granted unheard is then taken up, not left behind. A term settled so is
//     renewed before it is trusted, because it may have begun long ago. If no
//     attempt follows, nobody renews the unheard term and it expires; Close
//     tries to give it up first.
//   - The store's watch falls silent: standby polls behind it, and tries when
//     the lease of the last seen record must have run out, counted by the local
//     monotonic clock from the moment the record last changed.
//   - The store is down while in standby: Acquire waits and repeats, at a
//     growing interval, unless the error is a *backoff.PermanentError.
//
// # Holder ids
//
// The store grants a new term to the holder id that holds the lock already. So
// a process with a stable id takes over from its own predecessor at once, with
// a new epoch that fences the rest of the old term. Until its next renewal the
// predecessor, if it still runs, believes in its own term: with a stable id,
// exclusion in that short time rests on the epoch alone. [NewHolderID] makes
// an id that nobody else has; with it two copies never steal from each other.
//
// A Lease uses the same rule to follow one of its own terms by the next without
// giving the lock up: see [Lease.Succeed].
//
// If two processes run with one id, the one that loses its term does not fight. It
// reports ErrInstanceIDNotUnique, unless a call of its own Acquire became unclear less
// than two leases ago and may have arrived late. Then it reads the record first and waits
// while the other is alive: until the lock is free, held by another id, or its record has
// not changed for a whole lease.
package lock
