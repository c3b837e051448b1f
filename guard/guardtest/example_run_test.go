package guardtest_test

import "testing"

// The documentation shows what runs here.
func TestExampleRun(t *testing.T) { testIncidentsConform(t) }
