// Package firestoresim is Firestore for tests: its gRPC API in this process,
// which the official client talks to as if it were the service, and a launcher
// of the official emulator. One behaviour suite runs against both.
//
// # In process
//
//	s := firestoresim.New()
//	defer s.Close()
//	c, err := s.Client(ctx, "demo-x", firestoresim.Name("a"))
//	defer c.Close()
//
// Server, clients and connections are in memory, so that all of it lives in a
// testing/synctest bubble: make it there and end it there. Server time is
// time.Now plus an offset (WithClockOffset, SetClockOffset), in microseconds;
// commit times rise strictly. No mutex is held while anything waits.
//
// Projects and databases exist as soon as they are named. Get, Snapshot and
// Reset look behind the API; Stats, StatsOf and WithObserver count and show the
// RPCs and what they would be billed.
//
// # Faults
//
// A fault is prepared, aimed and armed:
//
//	s.Fault(firestoresim.DropReply()).On(firestoresim.Commit).Times(3).Now()
//	s.Fault(firestoresim.DropRequest()).From("a").Chance(0.05, seed).Always().Now()
//	f := s.Fault(firestoresim.Unavailable()).Always().Now()
//	f.Stop()
//	s.Fault(firestoresim.SilentListener()).Now()
//	s.Fault(firestoresim.Duplicate(time.Minute)).On(firestoresim.Commit).Now()
//	s.Silence("a")
//
// A call is struck by every delay, hang and duplicate that matches, and by the
// first other fault that does. Heal stops all; copies of requests that are on
// their way arrive.
//
// Edit changes a document as a person does in a console: no fault strikes it,
// and nothing is counted.
//
// A listener is refused behind its first request. A real network may refuse it
// earlier; then the client's iterator ends with iterator.Done and does not come
// back, so treat Done as the end of a listener that is to be made anew.
//
// # The official emulator
//
// StartEmulator starts one or takes the one of FIRESTORE_EMULATOR_HOST; in
// tests, NeedEmulator shares one per test binary and skips the test where there
// is none, or fails it if WASTABILITY_NEED_EMULATOR is 1. It is a process and a
// network: not for a bubble. TestMain ends it, see Main.
//
// The official client dials FIRESTORE_EMULATOR_HOST by itself and leaks that
// connection when it is given another. Both Client methods of this package
// therefore unset the variable for the moment in which they make a client; do
// not make clients by that variable in parallel with them.
//
// # Where the two differ
//
// The suite holds for both. Beyond it:
//
//   - The texts of errors.
//   - The emulator applies a commit document by document while others read.
//     Firestore promises one moment, and so it is here.
//   - The emulator gives all documents of an answer one read time. Firestore only
//     promises that it does not fall; here it rises with WithRisingReadTimes.
//   - UNIMPLEMENTED here: a read_time to read at; queries from no collection or
//     from several; find_nearest, explain, pipelines; aggregations other than
//     count; order_by and transactions in ListDocuments; transactions in
//     GetDocument; PartitionQuery, the Write stream, CreateDocument,
//     UpdateDocument and DeleteDocument. So are requests with fields that this
//     package does not know. Nothing is ignored silently.
//   - A write or read of a document in another database than the request's is
//     INVALID_ARGUMENT here; the emulator takes it.
//   - The emulator refuses malformed project ids and listeners without routing
//     headers; this server does not look at them. Nor does it refuse the
//     combinations of NOT_IN with other operators that Firestore does.
//   - A query in a transaction locks its collections here. The emulator may let
//     a document through that the query would not have found.
//   - A listener of a limited query gets changes here, and RESET with all
//     results from the emulator; of several documents, the emulator repeats
//     those that are missing. The client's snapshots are the same. Commits in
//     quick succession may come as one snapshot from either.
//   - A listener that resumes gets RESET and everything here. Existence filters
//     are not sent.
//   - The emulator may answer a write with UNKNOWN while a listener of the same
//     project ends. This server does not.
//
// Both differ from production: a request may have 10 MiB there
// (WithRequestLimit), locks are waited for longer (WithLockWait), and composite
// indexes are needed. Billed operations are counted by the public rules and have
// not been compared with a bill.
package firestoresim
