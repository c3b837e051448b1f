package authstore

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// A term that goes on for a year holds in memory what is of its last two weeks.
func TestLongTermHoldsNoMoreThanAShortOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, _ := open(t, kv)
		s := storeOf(d)
		fortnight := func(n int) (held int) {
			for i := range 200 {
				hash := [32]byte{byte(n), byte(i)}
				require.NoError(t, d.EventBuffer.PutBufferedEvent(bg, hash, []byte("plain"), time.Now()))
				require.NoError(t, d.EventBuffer.ClearBufferedEventPlaintext(bg, hash))
			}
			time.Sleep(eventTTL + time.Hour)
			require.NoError(t, d.EventBuffer.DeleteOldBufferedHashes(bg))
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.im.count() + len(s.im.packed[tSeen]) + len(s.im.seenAt)
		}
		first := fortnight(0)
		for n := 1; n < 26; n++ {
			require.LessOrEqual(t, fortnight(n), first)
		}
		require.Zero(t, kv.count("seen"))
	})
}

// What was sent is kept for a week, but not in memory; and what has left memory
// is still found.
func TestSentEventsLeaveMemoryWhenTheyAreSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		s := storeOf(d)
		for i := range 2000 {
			require.NoError(t, s.AddOutgoingEvent(bg, testJID(1), fmt.Sprint("ID", i), "wa", fmt.Append(nil, "text ", i)))
			if i%50 == 0 {
				require.NoError(t, s.flush("test"))
			}
		}
		require.NoError(t, s.flush("test"))
		s.mu.Lock()
		held := len(s.im.flat[tOutgoing])
		s.mu.Unlock()
		require.Less(t, held, 500)
		for _, i := range []int{0, 1000, 1999} {
			_, text, err := s.GetOutgoingEvent(bg, testJID(1), types.EmptyJID, fmt.Sprint("ID", i))
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint("text ", i), string(text))
		}
	})
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

// However long a store is away, it is asked every few seconds and no more often.
func TestLongOutageIsNotHammered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, f := open(t, kv, WithOutagePatience(3*time.Hour))
		end := time.Now().Add(2 * time.Hour)
		var calls atomic.Int64
		const most = 2 * 3600
		kv.before.set(func(string, Batch) error {
			if calls.Add(1) > most || time.Now().After(end) {
				return nil
			}
			return errDown
		})
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
		require.LessOrEqual(t, calls.Load(), int64(most))
		require.WithinDuration(t, end, time.Now(), 5*time.Second)
		require.Zero(t, f.cuts.Load())
	})
}

// An import that was dropped leaves nothing, and no part of a value either: the
// account is paired as if it had never been.
func TestDroppedImportLeavesNoParts(t *testing.T) {
	kv, f := source(t)
	to := newMapKV()
	to.limits = Limits{MaxValue: 2000, MaxBatch: 4000, MaxKeys: 20}
	ctx, cancel := context.WithCancel(bg)
	_, err := Import(ctx, FromKV("old", kv, f), New(to), newFence(1), OnProgress(func(p Progress) {
		if p.Kind == "outgoing" {
			cancel()
		}
	}))
	require.ErrorIs(t, err, context.Canceled)
	require.Positive(t, to.count(kindPart))
	require.NoError(t, DropImport(bg, New(to), newFence(1)))
	require.Empty(t, to.data)
	open(t, to)
}

// The account's LID map is not the import's to replace: a row of it that cannot
// be read stops the import, and stays as it is.
func TestImportDoesNotWriteOverAMapItCannotRead(t *testing.T) {
	kv, f := source(t)
	for name, c := range map[string]struct {
		spoil func(raw string) string
		want  error
	}{
		"newer":   {func(raw string) string { return "\x02" + raw[1:] }, ErrNewerFormat},
		"damaged": {func(raw string) string { return raw[:len(raw)-1] + "\x00" }, ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			to := newMapKV()
			tc, d, _ := open(t, to)
			require.NoError(t, d.LIDs.PutLIDMapping(bg, types.NewJID("901", types.HiddenUserServer), types.NewJID("1999", types.DefaultUserServer)))
			require.NoError(t, tc.DeleteDevice(bg, d))
			require.NoError(t, tc.Close(bg))
			before := make(map[Key]string)
			for k, raw := range to.data {
				if k.Kind == "lid" {
					before[k] = c.spoil(raw)
					to.data[k] = before[k]
				}
			}
			require.NotEmpty(t, before)
			_, err := Import(bg, FromKV("old", kv, f), New(to), newFence(1))
			require.ErrorIs(t, err, c.want)
			for k, raw := range before {
				require.Equal(t, raw, to.data[k])
			}
		})
	}
}

// Mappings that come together count one after the other: each sees what those
// before it have set and removed.
func TestMappingsOfOneCallFollowEachOther(t *testing.T) {
	pn := func(n int) types.JID { return types.NewJID(fmt.Sprint(n), types.DefaultUserServer) }
	lid := func(n int) types.JID { return types.NewJID(fmt.Sprint(900+n), types.HiddenUserServer) }
	for name, c := range map[string]struct {
		calls [][2]int // LID, number
		want  map[int]int
	}{
		"two swap":             {[][2]int{{2, 1}, {1, 2}}, map[int]int{1: 2, 2: 1}},
		"three turn":           {[][2]int{{2, 1}, {3, 2}, {1, 3}}, map[int]int{1: 2, 2: 3, 3: 1}},
		"one goes and returns": {[][2]int{{2, 1}, {1, 1}, {2, 2}}, map[int]int{1: 1, 2: 2}},
		"one takes from both":  {[][2]int{{2, 1}, {2, 3}}, map[int]int{3: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			kv := newMapKV()
			cont, d, _ := open(t, kv)
			for n := 1; n <= 3; n++ {
				require.NoError(t, d.LIDs.PutLIDMapping(bg, lid(n), pn(n)))
			}
			var together []store.LIDMapping
			for _, m := range c.calls {
				together = append(together, store.LIDMapping{LID: lid(m[0]), PN: pn(m[1])})
			}
			require.NoError(t, d.LIDs.PutManyLIDMappings(bg, together))
			want := map[int]int{3: 3}
			if name == "one takes from both" || name == "three turn" {
				want = map[int]int{}
			}
			for n, l := range c.want {
				want[n] = l
			}
			for range 2 {
				back := make(map[int]types.JID)
				for n := 1; n <= 3; n++ {
					got, err := d.LIDs.GetLIDForPN(bg, pn(n))
					require.NoError(t, err)
					if l, ok := want[n]; ok {
						require.Equal(t, lid(l), got, "number %d", n)
						back[l] = pn(n)
					} else {
						require.True(t, got.IsEmpty(), "number %d", n)
					}
				}
				for l := 1; l <= 3; l++ {
					got, err := d.LIDs.GetPNForLID(bg, lid(l))
					require.NoError(t, err)
					require.Equal(t, back[l], got, "LID %d", l)
				}
				cont, d, _ = reopen(t, kv, cont)
			}
		})
	}
}

// A term that ends while half a patch of the app state waits for the rest leaves
// nothing running: Close returns.
func TestCloseDoesNotWaitForHalfAPatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, d, f := open(t, newMapKV())
		require.NoError(t, d.AppState.PutAppStateVersion(bg, "regular", 7, [128]byte{7}))
		f.lost.Store(true)
		f.setUntil(time.Now())
		require.ErrorIs(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)), context.Canceled, "it finds the term over")
		ctx, cancel := context.WithTimeout(bg, time.Minute)
		defer cancel()
		_ = c.Close(ctx)
		require.NoError(t, ctx.Err())
	})
}

// A device that may come back is moved to sealed names with the one in whose
// place it would come.
func TestDeviceThatCanComeBackIsMovedToo(t *testing.T) {
	kv := plainNames(t)
	want := content(t, kv)
	c, d, f := open(t, kv, nameSeal)
	require.NoError(t, c.DeleteDevice(bg, d))
	d, err := c.Device(bg, f)
	require.NoError(t, err)
	pair(t, d, testJID(2)) // and never logs in
	c, d, f = reopen(t, kv, c, nameSeal, WithSealedNames())
	require.Equal(t, testJID(2), *d.ID)
	c.cfg.background.Wait()
	require.Empty(t, telling(kv))
	require.False(t, moving(t, kv))
	require.NoError(t, d.Delete(bg))
	require.NoError(t, c.Restore(bg, f))
	require.Equal(t, want, content(t, kv))
	d, err = c.Device(bg, f)
	require.NoError(t, err)
	require.Equal(t, testJID(1), *d.ID)
	key, err := d.SenderKeys.GetSenderKey(bg, "120363@g.us", "15550104:0")
	require.NoError(t, err)
	require.NotNil(t, key)
	require.NoError(t, c.Close(bg))
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

// A send that is given up while its write waits for another session holds none
// of its own any more.
func TestWriteThatIsGivenUpHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		var wg sync.WaitGroup
		hold := make(chan struct{})
		wg.Go(func() {
			_ = d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
				_, err := d.Sessions.GetSession(ctx, "2:0")
				<-hold
				return err
			})
		})
		synctest.Wait()
		sent := make(chan error, 1)
		go func() {
			if _, err := d.Sessions.GetManySessions(bg, []string{"1:0"}); err != nil {
				sent <- err
				return
			}
			ctx, cancel := context.WithTimeout(bg, time.Second)
			defer cancel()
			sent <- d.Sessions.PutManySessions(ctx, map[string][]byte{"1:0": validSession(t, 1), "2:0": validSession(t, 1)})
		}()
		require.ErrorIs(t, <-sent, context.DeadlineExceeded)
		began := time.Now()
		received := make(chan error, 1)
		go func() { received <- receiveStep(t, d, "1:0", 0) }()
		select {
		case err := <-received:
			require.NoError(t, err)
			require.Zero(t, time.Since(began))
		case <-time.After(time.Hour):
			t.Error("what the peer sends is never decrypted")
		}
		close(hold)
		wg.Wait()
	})
}

// Of two tokens of one user the newer is kept, in whatever order they come, also
// in one call; and one that says when ours was given is not outdone by silence.
func TestNewestOfTokensThatComeTogetherIsKept(t *testing.T) {
	for _, order := range [][]int64{{100, 200, 300}, {300, 200, 100}, {200, 300, 100}} {
		_, d, _ := open(t, newMapKV())
		user := testJID(4)
		require.NoError(t, storeOf(d).later(bg, "put", soon, put(tToken, user.ToNonAD().String(), token{at: 50, sent: 40, bytes: []byte("50")}.value())))
		var together []store.PrivacyToken
		for _, at := range order {
			together = append(together, store.PrivacyToken{User: user, Token: fmt.Append(nil, at), Timestamp: time.Unix(at, 0)})
		}
		require.NoError(t, d.PrivacyTokens.PutPrivacyTokens(bg, together...))
		require.Equal(t, token{300, 40, []byte("300")}, storedToken(t, d, user), strings.Trim(fmt.Sprint(order), "[]"))
	}
}
