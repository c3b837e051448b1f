// Package autoheal breaks a reconnect loop.
//
// Sometimes only a fresh process helps: leaked sockets, a poisoned resolver, a
// bug. A [Healer] looks at the attempts that failed and says when to give the
// process up, and when not to because that was tried too often. It is pure;
// the Manager does what it says.
//
// # When
//
// A loop is Policy.Attempts attempts within the sliding Policy.Window, or
// Policy.Failures failures in a row however far apart (attempts can be slow).
// Both lists survive restarts in the connection's state, and only counted
// failures stand in them. Trouble that a fresh process cannot cure never does:
// a missing pairing, a ban, a rejected client, another copy of the session, an
// unreachable store, the host's own wish. Connecting does not empty the
// window: flapping is a loop too.
//
// # The heal, in this order
//
//  1. Empty the window and record the restart, in one save.
//     If that fails there is no heal: a restart that nobody counts is how a
//     crash loop without end begins.
//  2. Raise the incident wa_reconnect_loop.
//  3. Release the lock, so that a standby takes over at once. A new term in the
//     same process keeps it where everybody would meet the same.
//  4. Exit with code 1 through a replaceable function (or begin a new term in
//     the same process).
//
// Each step is bounded by [StepTimeout].
//
// # The budget
//
// At most Policy.Budget restarts within Policy.BudgetWindow. Beyond it the
// verdict is [Exhausted]: no restart, attempts at least Verdict.Floor apart,
// incident wa_restart_budget_exhausted, until the oldest restart has left its
// window.
package autoheal
