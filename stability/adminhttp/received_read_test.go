package adminhttp_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/memorybackend"
)

func TestNothingIsSaidOfMessagesThatWereNotRead(t *testing.T) {
	const (
		all  = "Every received message was handled."
		away = "This instance does not hold the lock. Only an instance that holds it knows which messages wait."
	)
	said := func(p *place, want string) {
		t.Helper()
		require.Equal(t, want, p.answer(p.get(held), 200)["summary"])
	}
	t.Run("without the lock", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			p := newPlace(t)
			said(p, away)
			p.run().pair()
			said(p, all)
			p.cancel()
			require.NoError(t, <-p.result)
			p.cancel = nil
			require.Equal(t, stability.ModePassive, p.m.Status().Mode)
			said(p, away)
		})
	})
	t.Run("before the store answers", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			p := newPlace(t)
			p.hang.Store(true)
			p.run()
			p.await(func(st stability.Status) bool { return st.Mode == stability.ModeActive })
			time.Sleep(time.Second)
			said(p, "This instance has not read yet which messages wait.")
		})
	})
	t.Run("where nothing is stored", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			p := newPlace(t, stability.WithAuthStore(struct{ authstore.Store }{authstore.New(memorybackend.New().Backend().Auth)}))
			said(p, all)
		})
	})
}
