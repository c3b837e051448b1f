// Package memorybackend keeps an account in memory: for tests, and for trying
// things out.
//
// A *Memory is one account's server. Each Backend made from it is one instance
// of it, as each process is one with a backend on a disk or a network. Two
// Managers with a Backend each of the same Memory are two replicas in one
// process. Nothing outlives the Memory.
//
// It keeps the promises of the other backends, so that a test proves something
// about them. Commits, state and lock are fenced by the same epoch. A released
// term is over and its epoch writes no more. An expired one still writes until
// another is granted. Values are copied on the way in and on the way out.
//
// Expiry is judged by the process's monotonic clock. No goroutine and no timer
// runs unless somebody waits in Changes. In a testing/synctest bubble, make the
// Memory inside the bubble.
package memorybackend
