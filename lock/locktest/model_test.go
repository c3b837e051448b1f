package locktest

import (
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/lock"
)

// The checker must be able to say no.
func TestModelRefusesWhatNoLockWouldAnswer(t *testing.T) {
	acquire := func(call, ret int64, holder, nonce string, epoch int64, granted bool) porcupine.Operation {
		return porcupine.Operation{
			Input:  input{op: OpAcquire, holder: holder, nonce: nonce, lease: 100, call: call},
			Output: output{rec: lock.Record{Holder: holder, Epoch: epoch}, granted: granted, ret: ret},
			Call:   call, Return: ret,
		}
	}
	first := acquire(0, 1, "a", "n1", 1, true)
	for name, tc := range map[string]struct {
		second porcupine.Operation
		ok     bool
	}{
		"granted while another holds it":   {acquire(50, 51, "b", "n2", 2, true), false},
		"granted after expiry":             {acquire(101, 102, "b", "n2", 2, true), true},
		"granted at the edge of expiry":    {acquire(50, 100, "b", "n2", 2, true), true},
		"refused after expiry":             {acquire(102, 103, "b", "n2", 1, false), false},
		"an epoch twice":                   {acquire(101, 102, "b", "n2", 1, true), false},
		"an epoch left out":                {acquire(101, 102, "b", "n2", 3, true), false},
		"a second epoch for the same name": {acquire(2, 3, "a", "n1", 2, true), false},
		"the same epoch for the same name": {acquire(2, 3, "a", "n1", 1, true), true},
		"same holder, new name":            {acquire(2, 3, "a", "n2", 2, true), true},
	} {
		got := porcupine.CheckOperations(model(0), []porcupine.Operation{first, tc.second})
		require.Equal(t, tc.ok, got, name)
	}
	require.True(t, porcupine.CheckOperations(model(2*time.Nanosecond), []porcupine.Operation{first, acquire(98, 99, "b", "n2", 2, true)}), "within the slack")
}
