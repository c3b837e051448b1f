// Package locktest tests every [lock.Store]. [Run] is the conformance suite.
// [Store] is one in memory, whose connections can be made to fail in every way
// a network can. [Recorder] checks histories of calls for linearizability.
//
// A backend's test is one call:
//
//	func TestLockConformance(t *testing.T) {
//		locktest.Run(t, locktest.Config{
//			New: func(t *testing.T) func() lock.Store {
//				path := filepath.Join(t.TempDir(), "wa.db")
//				return func() lock.Store { return open(t, path) } // closes in t.Cleanup
//			},
//		})
//	}
package locktest
