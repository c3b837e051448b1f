package authstore

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// Rows under a number move to its LID: sessions, identities and sender
// keys of every device, and nothing of anybody else.
func TestMigrationTakesEverythingOfEveryDevice(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	pn, lid := types.NewJID("15550002", types.DefaultUserServer), types.NewJID("902", types.HiddenUserServer)
	other := types.NewJID("155500020", types.DefaultUserServer)
	at := func(j types.JID, device uint16) string {
		j.Device = device
		return j.SignalAddress().String()
	}
	put := func(addr string, n byte) {
		require.NoError(t, d.Sessions.PutSession(bg, addr, validSession(t, uint32(n))))
		require.NoError(t, d.Identities.PutIdentity(bg, addr, [32]byte{n}))
		require.NoError(t, d.SenderKeys.PutSenderKey(bg, "1@g.us", addr, validSenderKey([]byte{n})))
	}
	has := func(addr string, n byte) {
		t.Helper()
		v, err := d.Sessions.GetSession(bg, addr)
		require.NoError(t, err)
		key, err := d.SenderKeys.GetSenderKey(bg, "1@g.us", addr)
		require.NoError(t, err)
		ours, err := d.Identities.IsTrustedIdentity(bg, addr, [32]byte{n})
		require.NoError(t, err)
		require.True(t, ours)
		strange, err := d.Identities.IsTrustedIdentity(bg, addr, [32]byte{200})
		require.NoError(t, err)
		if n == 0 {
			require.Nil(t, v)
			require.Nil(t, key)
			require.True(t, strange, "an identity that is not known")
			return
		}
		require.EqualValues(t, n, sessionCounter(t, v))
		require.Equal(t, validSenderKey([]byte{n}), key)
		require.False(t, strange, "a changed identity is noticed")
	}
	put(at(pn, 0), 1)
	put(at(pn, 3), 2)
	put(at(lid, 3), 3) // an older one, which the number's replaces
	put(at(other, 0), 4)
	require.NoError(t, d.Sessions.MigratePNToLID(bg, pn, lid))
	for range 2 {
		has(at(lid, 0), 1)
		has(at(lid, 3), 2)
		has(at(pn, 0), 0)
		has(at(pn, 3), 0)
		has(at(other, 0), 4)
		c, d, _ = reopen(t, kv, c)
	}
}

// A move to the LID respects whoever works with a session there: a receive is
// waited for, a send is broken. What moved stands in the end.
func TestMoveRespectsWorkUnderTheLID(t *testing.T) {
	pn, lid := types.NewJID("1", types.DefaultUserServer), types.NewJID("900", types.HiddenUserServer)
	for name, c := range map[string]struct {
		work func(t *testing.T, d *store.Device) error
		wait time.Duration
		want error
	}{
		"a receive": {func(t *testing.T, d *store.Device) error { return receiveStep(t, d, "900_1:0", time.Second) }, time.Second, nil},
		"a send":    {func(t *testing.T, d *store.Device) error { return sendStep(t, d, []string{"900_1:0"}, time.Second) }, 0, ErrWindowBroken},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, d, _ := open(t, newMapKV())
				require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 50)))
				require.NoError(t, d.Sessions.PutSession(bg, "900_1:0", validSession(t, 1)))
				done := make(chan error, 1)
				began := time.Now()
				go func() { done <- c.work(t, d) }()
				synctest.Wait()
				require.NoError(t, d.Sessions.MigratePNToLID(bg, pn, lid))
				require.Equal(t, c.wait, time.Since(began))
				require.ErrorIs(t, <-done, c.want)
				v, err := d.Sessions.GetSession(bg, "900_1:0")
				require.NoError(t, err)
				require.EqualValues(t, 50, sessionCounter(t, v))
			})
		})
	}
}

// A user's sessions are deleted while they move to the LID: whichever of the two
// comes first, no session that had to go stands there afterwards.
func TestDeleteAndMoveAtOnceLeaveNoSession(t *testing.T) {
	pn, lid := types.NewJID("1", types.DefaultUserServer), types.NewJID("900", types.HiddenUserServer)
	works := map[string]func(d *store.Device) error{
		"delete": func(d *store.Device) error { return d.Sessions.DeleteAllSessions(bg, "1") },
		"move":   func(d *store.Device) error { return d.Sessions.MigratePNToLID(bg, pn, lid) },
	}
	for _, order := range [][2]string{{"delete", "move"}, {"move", "delete"}} {
		t.Run(order[0]+" first", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				c, d, _ := open(t, kv)
				require.NoError(t, d.LIDs.PutLIDMapping(bg, lid, pn))
				require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
				require.NoError(t, d.Sessions.PutSession(bg, "1:3", validSession(t, 2)))
				held := make(chan struct{})
				kv.before.set(func(op string, _ Batch) error {
					if op == "commit" {
						<-held
					}
					return nil
				})
				done := make(chan error, 2)
				for _, work := range order {
					go func() { done <- works[work](d) }()
					synctest.Wait()
				}
				close(held)
				require.NoError(t, <-done)
				require.NoError(t, <-done)
				for range 2 {
					for _, addr := range []string{"1:0", "1:3", "900_1:0", "900_1:3"} {
						has, err := d.Sessions.HasSession(bg, addr)
						require.NoError(t, err)
						require.False(t, has, addr)
					}
					c, d, _ = reopen(t, kv, c)
				}
			})
		})
	}
}

// A key that moved to a LID is nowhere else, also where it was not used lately,
// and however full the cache is when the move looks it up.
func TestMovedSenderKeyIsGoneFromEveryHalfOfTheCache(t *testing.T) {
	pn, lid := testJID(2), types.JID{User: "902", Device: 1, Server: types.HiddenUserServer}
	moved := validSenderKey(make([]byte, 150))
	for more, whole := 0, false; !whole; more++ { // keys that are used afterwards; each is smaller than the one that moves
		kv := newMapKV()
		c, d, _ := open(t, kv, WithSenderKeyCache(4000))
		key := func(addr string) []byte {
			t.Helper()
			v, err := d.SenderKeys.GetSenderKey(bg, "1@g.us", addr)
			require.NoError(t, err)
			return v
		}
		other := func(n int) {
			require.NoError(t, d.SenderKeys.PutSenderKey(bg, "1@g.us", testJID(n).SignalAddress().String(), validSenderKey(make([]byte, 50))))
		}
		require.NoError(t, d.SenderKeys.PutSenderKey(bg, "1@g.us", pn.SignalAddress().String(), moved))
		s := storeOf(d)
		older := func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			_, ok := s.keys.older[senderKeyID("1@g.us", pn.SignalAddress().String())]
			return ok
		}
		n := 10
		for ; !older(); n++ {
			require.Less(t, n, 1000)
			other(n)
		}
		for i := range more {
			other(n + i)
		}
		if whole = !older(); !whole { // until that half was used up
			require.NoError(t, d.Sessions.MigratePNToLID(bg, pn, lid))
			require.Nil(t, key(pn.SignalAddress().String()), "%d more", more)
			require.Equal(t, moved, key(lid.SignalAddress().String()))
		}
		require.False(t, whole && more < 10)
		require.NoError(t, c.Close(bg))
	}
}
