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

	renew := func(call, ret int64, lost bool) porcupine.Operation {
		held := lock.Record{Holder: "a", Epoch: 1}
		return porcupine.Operation{
			Input: input{op: OpRenew, held: held, lease: 100, call: call}, Output: output{rec: held, lost: lost, ret: ret}, Call: call, Return: ret,
		}
	}
	for name, tc := range map[string]struct {
		calls []porcupine.Operation
		ok    bool
	}{
		"lost while it holds it":                           {[]porcupine.Operation{renew(50, 60, true)}, false},
		"lost after expiry":                                {[]porcupine.Operation{renew(101, 102, true)}, true},
		"lost while it holds it, after most of a lease":    {[]porcupine.Operation{renew(10, 99, true)}, false},
		"renewed after another was granted":                {[]porcupine.Operation{acquire(101, 102, "b", "n2", 2, true), renew(103, 104, false)}, false},
		"renewed, repeated when it was over, and lost":     {[]porcupine.Operation{renew(50, 190, true), acquire(140, 141, "b", "n2", 1, false), acquire(151, 189, "b", "n3", 2, true)}, true},
		"nobody renewed it, and it held":                   {[]porcupine.Operation{acquire(140, 141, "b", "n2", 1, false)}, false},
		"renewed for less than a lease, and lost, it held": {[]porcupine.Operation{renew(102, 150, true), acquire(140, 141, "b", "n2", 1, false)}, false},
	} {
		require.Equal(t, tc.ok, porcupine.CheckOperations(model(0), append([]porcupine.Operation{first}, tc.calls...)), name)
	}
	require.True(t, porcupine.CheckOperations(model(2*time.Nanosecond), []porcupine.Operation{first, acquire(98, 99, "b", "n2", 2, true)}), "within the slack")
}
