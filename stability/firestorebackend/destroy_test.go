package firestorebackend

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
)

func TestDestroyRemovesAllOfOneAccountAndNoOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := sim(t)
		_, docs := standing(t, s)
		client := onSim(t, s)
		host, err := client.Doc(DefaultRoot).Set(t.Context(), map[string]any{"mine": 1})
		require.NoError(t, err)
		require.NotNil(t, host)
		b, other := opened(t, client), opened(t, client, WithRoot("wa_metrics/other"))
		rec, theirs := hold(t, b), hold(t, other)
		require.NoError(t, other.Auth.Commit(t.Context(), theirs.Epoch, put("a", "theirs")))

		require.ErrorIs(t, destroyAccount(t.Context(), client), lock.ErrHeld)
		require.GreaterOrEqual(t, len(s.Snapshot("demo-sim")), len(docs), "nothing was removed")
		require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "mine")), "the holder goes on")

		require.NoError(t, b.Lock.Release(t.Context(), rec))
		require.NoError(t, destroyAccount(t.Context(), client))
		require.NoError(t, destroyAccount(t.Context(), client), "once more is no error")
		for _, d := range s.Snapshot("demo-sim") {
			require.True(t, d.Path == DefaultRoot || strings.HasPrefix(d.Path, "wa_metrics/other/"), "%s is left", d.Path)
		}
		require.Equal(t, map[string]string{"g1/a": "theirs"}, values(t, other))

		require.ErrorIs(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "late")), authstore.ErrFenced)
		require.ErrorIs(t, b.State.Save(t.Context(), rec.Epoch, reconnect.State{}), authstore.ErrFenced)
		fresh := hold(t, opened(t, client))
		require.EqualValues(t, 1, fresh.Epoch)
		require.ErrorIs(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "late")), authstore.ErrFenced)
	})
}

// However far it came, nobody takes what is left for a session, and the next
// Destroy goes on at once.
func TestDestroyThatWasKilledIsTakenUpAgain(t *testing.T) {
	t.Parallel()
	var kills int
	for n, done := 0, false; !done; n++ {
		synctest.Test(t, func(t *testing.T) {
			s := sim(t)
			w, _ := standing(t, s)
			killed := s.Fault(firestoresim.PermissionDenied()).From("killed").After(n).Always().Now()
			dying, err := open(onSim(t, s, firestoresim.Name("killed")), nil)
			require.NoError(t, err)
			err = dying.destroy(t.Context(), 3)
			dying.end()
			done = killed.Fired() == 0
			if done {
				require.NoError(t, err)
				require.Empty(t, s.Snapshot("demo-sim"))
				return
			}
			kills++
			require.ErrorIs(t, err, ErrPermission)
			var begun, left bool // documents of the session
			if _, there := s.Get("demo-sim", DefaultRoot+"/whatsmeow_auth/creds"); !there {
				begun = true
				for _, d := range s.Snapshot("demo-sim") {
					left = left || strings.Contains(d.Path, "/keys/")
				}
			}
			if kills%3 == 0 { // somebody gets the lock first
				switch err := tryDevice(t, w, "second"); {
				case !begun:
					require.NoError(t, err, "as if nothing had been asked")
				case left:
					require.ErrorIs(t, err, authstore.ErrCorrupt)
				}
				time.Sleep(2 * lock.DefaultLease)
			}
			require.NoError(t, destroyAccount(t.Context(), onSim(t, s)))
			require.Empty(t, s.Snapshot("demo-sim"))
		})
		if t.Failed() {
			t.Fatalf("killed after %d requests", n)
		}
	}
	require.Greater(t, kills, 8)
}

// tryDevice is what an instance finds, if there may be no account.
func tryDevice(t *testing.T, w *standingAccount, name string) error {
	b := w.open(name)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	var rec lock.Record
	for granted := false; !granted; {
		var err error
		if rec, granted, err = b.Lock.Acquire(ctx, name, name, lock.DefaultLease); err != nil {
			return err
		}
		time.Sleep(time.Second)
	}
	cont := authstore.New(b.Auth)
	defer func() { _ = cont.Close(context.Background()) }()
	_, err := cont.Device(ctx, heldTerm{rec})
	return err
}

func TestDestroyLosesNoReply(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := sim(t)
		standing(t, s)
		lost := s.Fault(firestoresim.DropReply()).Every(2).Always().Now()
		require.NoError(t, destroyAccount(t.Context(), onSim(t, s)))
		require.Positive(t, lost.Fired())
		require.Empty(t, s.Snapshot("demo-sim"))
	})
}

func TestDestroyOnTheEmulator(t *testing.T) {
	t.Parallel()
	c := onEmulator(t)
	b := opened(t, c, patient)
	rec := hold(t, b)
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "v")))
	require.ErrorIs(t, destroyAccount(t.Context(), c, patient), lock.ErrHeld)
	require.NoError(t, b.Lock.Release(t.Context(), rec))
	require.NoError(t, destroyAccount(t.Context(), c, patient))
	for _, path := range []string{"whatsmeow_auth", "whatsmeow_auth/creds/keys", "locks", "state", "incidents"} {
		docs, err := c.Collection(DefaultRoot + "/" + path).Documents(t.Context()).GetAll()
		require.NoError(t, err)
		require.Empty(t, docs, path)
	}
}
