package stability_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// A device that was logged out is listed until it is restored or purged; the
// account can be paired anew then, and its client never notices a Reseal.
func TestADeletedDeviceIsListedAndCanBePurged(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a").run()
		a.pair()
		q, err := a.m.Quarantine(t.Context())
		require.NoError(t, err)
		require.Nil(t, q.Device)
		require.Empty(t, q.Rows)
		require.ErrorIs(t, a.m.PurgeDevice(t.Context()), authstore.ErrNothingDeleted)
		require.NoError(t, a.m.PurgeRows(t.Context()))
		rows := 0
		require.NoError(t, a.m.Reseal(t.Context(), func(done, total int) { rows = total }))
		require.Positive(t, rows)
		require.Equal(t, reconnect.StatusConnected, a.status().WA)

		jid := w.device().JID()
		w.sim.Fault(wasim.Failure(401)).For(w.account.JID()).OnNextLogin()
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		w.await("logged out", func() bool { return a.status().WA == reconnect.StatusNeedsPairing })
		time.Sleep(time.Second)
		q, err = a.m.Quarantine(t.Context())
		require.NoError(t, err)
		require.Equal(t, jid, q.Device.JID)
		require.NoError(t, a.m.PurgeDevice(t.Context()))
		require.ErrorIs(t, a.m.RestoreDevice(t.Context()), authstore.ErrNothingDeleted)
		a.forget()
		a.pair()
		a.stop()
		w.close()
	})
}

// Data that the given key does not open is an error of the setup: it is told,
// and nobody waits for the backend.
func TestAWrongKeyIsToldAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a", stability.WithAEAD(authstore.NewAESGCM([32]byte{1}))).run()
		a.pair()
		a.stop()
		b := w.byHand(stability.WithAEAD(authstore.NewAESGCM([32]byte{2})))
		ok, err := b.m.TryActivate(t.Context())
		require.NoError(t, err)
		require.True(t, ok)
		_, err = b.m.AuthState(t.Context())
		require.ErrorIs(t, err, authstore.ErrWrongKey)
		require.NoError(t, b.m.Status().StoreUnavailable)
		require.NoError(t, b.m.Close(t.Context()))
		w.close()
	})
}
