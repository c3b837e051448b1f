// Package authstoretest is the conformance suite of authstore.KV.
//
// A backend that passes Run keeps what authstore relies on. A batch is applied
// whole or not at all. Only the newest epoch writes, and committed values are
// read. A repeated batch changes nothing. Fencing cannot be tested without a
// lock, so the suite takes the KV together with the lock.Store whose epochs
// fence it.
//
// Faulty wraps any KV with faults: requests that never arrive, replies that
// are lost after the write was applied, latency, calls that hang. It counts
// what passes, which makes it the meter for "how many commits per message" too.
//
// StoreIsComplete says what an authstore.Store of your own lacks.
//
// The environment variable WASTABILITY_FULL=1 makes the random tests larger, as
// everywhere in this library.
package authstoretest

import "os"

// pick is stabilitytest.Pick, which this package is below.
func pick(def, full int) int {
	if os.Getenv("WASTABILITY_FULL") == "1" {
		return full
	}
	return def
}
