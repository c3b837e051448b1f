package stability_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
)

// The messages of an hour in which Firestore does not work stay with the
// service, and are delivered once, in whichever way it fails.
func TestAnHourWithoutFirestoreUnderTrafficLosesNoMessage(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]firestoresim.Fault{
		"unavailable":   firestoresim.Unavailable(),
		"silent":        firestoresim.Hang(),
		"replies lost":  firestoresim.DropReply(),
		"quota":         firestoresim.ResourceExhausted(),
		"no permission": firestoresim.PermissionDenied(),
	} {
		t.Run(name, func(t *testing.T) {
			someUnderRace(t)
			bubble(t, func(t *testing.T) {
				sim := firestoresim.New(firestoresim.WithLatency(20 * time.Millisecond))
				t.Cleanup(sim.Close)
				w := newWorld(t)
				w.memory = &firestoreServer{t: t, sim: sim}
				a := w.named("a").run().pair()
				stop := w.chatter(stabilitytest.Pick(20*time.Second, 5*time.Second))
				time.Sleep(time.Minute)
				device, before := w.device(), len(a.texts())
				require.NotZero(t, before)
				broken := sim.Fault(fault).Always().Now()
				logins := w.logins()
				time.Sleep(time.Hour)
				require.NotZero(t, broken.Fired())
				require.LessOrEqual(t, w.logins()-logins, 2, "it does not log in where nothing could be saved")
				sim.Heal()
				time.Sleep(5 * time.Minute)
				sent := stop()
				time.Sleep(2 * time.Minute)
				onceEach(t, sent, a.texts())
				require.Greater(t, sent, stabilitytest.Pick(150, 600), "there was traffic all the while")
				require.Zero(t, w.device().Stats().RetryReceipts)
				require.Equal(t, device, w.device(), "the same session")
				require.Len(t, w.account.Devices(), 1)
				require.NoError(t, a.status().StoreUnavailable)
				a.stop()
				w.close()
			})
		})
	}
}
