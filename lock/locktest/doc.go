// Package locktest holds what every [lock.Store] is tested with: the
// conformance suite [Run], a [Store] in memory whose connections can be made to
// fail in every way a network can, and a linearizability checker for histories
// of calls, [Recorder].
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
