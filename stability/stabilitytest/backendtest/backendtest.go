// Package backendtest is the conformance suite of what a stability.Backend
// promises as a whole. Its parts have suites of their own: lock/locktest,
// authstore/authstoretest, reconnect/reconnecttest and guard/guardtest.
package backendtest

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
)

// Run tests backends. newAccount makes an account that nobody has used, and
// returns what opens one more instance of it.
func Run(t *testing.T, newAccount func(t *testing.T) (instance func(t *testing.T) stability.Backend)) {
	t.Run("Destroy removes nothing while an instance holds the account", func(t *testing.T) {
		open := newAccount(t)
		a := begin(t, open(t), "a")
		a.fill()
		b := open(t)
		for _, own := range []stability.Backend{a.Backend, b} {
			require.ErrorIs(t, own.Destroy(t.Context()), lock.ErrHeld)
		}
		a.expect("session", "2026")
		require.NoError(t, a.commit("more"), "and the holder goes on")
		a.expect("more", "2026")
	})
	t.Run("Destroy removes all, and the account can be begun anew", func(t *testing.T) {
		open := newAccount(t)
		a := begin(t, open(t), "a")
		a.fill()
		a.release()
		b := open(t)
		require.NoError(t, b.Destroy(t.Context()))
		require.NoError(t, b.Destroy(t.Context()), "once more is no error")
		c := begin(t, open(t), "c")
		c.expect("", "")
		c.fill()
		c.expect("session", "2026")
		require.ErrorIs(t, a.commit("late"), lock.ErrFenced, "a write of the term before, whatever its number")
		c.expect("session", "2026")
	})
	t.Run("Destroy of an account that nobody has used is no error", func(t *testing.T) {
		open := newAccount(t)
		require.NoError(t, open(t).Destroy(t.Context()))
		begin(t, open(t), "a").expect("", "")
	})
	t.Run("Destroy works after Close", func(t *testing.T) {
		open := newAccount(t)
		a := begin(t, open(t), "a")
		a.fill()
		a.release()
		require.NoError(t, a.Close())
		require.NoError(t, a.Destroy(t.Context()))
		begin(t, open(t), "b").expect("", "")
	})
	t.Run("Destroy whose context has ended removes nothing", func(t *testing.T) {
		open := newAccount(t)
		a := begin(t, open(t), "a")
		a.fill()
		a.release()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, a.Destroy(ctx), context.Canceled)
		begin(t, open(t), "b").expect("session", "2026")
	})
}

// holder is an instance that holds the lock.
type holder struct {
	stability.Backend
	t   *testing.T
	rec lock.Record
}

func begin(t *testing.T, b stability.Backend, name string) *holder {
	t.Helper()
	rec, granted, err := b.Lock.Acquire(t.Context(), name, name+"'s attempt", time.Minute)
	require.NoError(t, err)
	require.True(t, granted)
	return &holder{b, t, rec}
}

func (h *holder) release() {
	h.t.Helper()
	require.NoError(h.t, h.Lock.Release(h.t.Context(), h.rec))
}

var (
	key  = authstore.Key{Kind: "session", ID: "d/1"}
	when = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
)

func (h *holder) commit(value string) error {
	return h.Auth.Commit(h.t.Context(), h.rec.Epoch, authstore.Batch{Put: []authstore.Entry{{Key: key, Value: []byte(value)}}})
}

// fill writes something of each kind.
func (h *holder) fill() {
	h.t.Helper()
	require.NoError(h.t, h.commit("session"))
	require.NoError(h.t, h.State.Save(h.t.Context(), h.rec.Epoch, reconnect.State{LastDisconnectAt: when}))
	_, _, err := h.Incidents.Raise(h.t.Context(), guard.Incident{ID: "wa_something_active", FirstDetectedAt: when, DetectedAt: when, LastCheckedAt: when})
	require.NoError(h.t, err)
}

// expect looks for this value and a state of this year; "" is none, and then
// there is no incident either.
func (h *holder) expect(value, year string) {
	h.t.Helper()
	got, err := h.Auth.Get(h.t.Context(), key)
	require.NoError(h.t, err)
	require.Equal(h.t, value, string(got[key]))
	st, err := h.State.Load(h.t.Context())
	require.NoError(h.t, err)
	incidents, err := h.Incidents.List(h.t.Context())
	require.NoError(h.t, err)
	if year == "" {
		require.True(h.t, st.LastDisconnectAt.IsZero())
		require.Empty(h.t, incidents)
		return
	}
	require.Equal(h.t, year, st.LastDisconnectAt.Format("2006"))
	require.Len(h.t, incidents, 1)
}
