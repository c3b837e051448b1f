package locktest_test

import "testing"

// The documentation shows what runs here.
func TestExampleRun(t *testing.T) { testLockConforms(t) }
