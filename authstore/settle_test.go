package authstore

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A Device that is ended with a commit under way is followed by another in the
// same term. The new one has read what the commit wrote, or it never comes.
func TestNextDeviceOfATermKnowsEveryCommit(t *testing.T) {
	for name, lose := range map[string]func(*mapKV) func(){"the answer is late": late, "the answer is lost": lostAnswer} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				c, d, f := open(t, kv)
				require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
				answer := lose(kv)
				wrote := make(chan error, 1)
				go func() { wrote <- d.Sessions.PutSession(bg, "1:0", validSession(t, 2)) }()
				synctest.Wait()
				storeOf(d).retire(ErrSuperseded)
				require.ErrorIs(t, <-wrote, context.Canceled)
				time.AfterFunc(5*time.Second, answer)
				d, err := c.Device(bg, f)
				require.NoError(t, err)
				v, err := d.Sessions.GetSession(bg, "1:0")
				require.NoError(t, err)
				require.EqualValues(t, 2, sessionCounter(t, v))
				require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 3)))
				time.Sleep(time.Minute)
				_, d, _ = reopen(t, kv, c)
				v, err = d.Sessions.GetSession(bg, "1:0")
				require.NoError(t, err)
				require.EqualValues(t, 3, sessionCounter(t, v), "what was confirmed stands")
			})
		})
	}
}

func TestNextDeviceWaitsForAHangingCommitAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, f := open(t, kv)
		land := late(kv)
		go func() { _ = d.Sessions.PutSession(bg, "1:0", validSession(t, 2)) }()
		synctest.Wait()
		storeOf(d).retire(ErrSuperseded)
		began := time.Now()
		_, err := c.Device(bg, f)
		require.ErrorIs(t, err, ErrUnavailable)
		require.Equal(t, 30*time.Second, time.Since(began))
		ctx, cancel := context.WithTimeout(bg, time.Second)
		defer cancel()
		_, err = c.Device(ctx, f)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 31*time.Second, time.Since(began))
		kv.setEpoch(2)
		_, err = c.Device(bg, newFence(2))
		require.NoError(t, err, "a new term fences it off")
		require.Equal(t, 31*time.Second, time.Since(began))
		land()
	})
}

// The outcome of a write that was refused for good is known: nobody repeats it.
func TestRefusedWriteIsNotSettledAgain(t *testing.T) {
	kv := newMapKV()
	c, d, f := open(t, kv)
	var refused int
	kv.before.set(func(op string, _ Batch) error {
		if op == "commit" {
			refused++
			return ErrTooLarge
		}
		return nil
	})
	require.ErrorIs(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)), ErrTooLarge)
	require.NotZero(t, refused)
	before := refused
	storeOf(d).retire(ErrSuperseded)
	_, err := c.Device(bg, f)
	require.NoError(t, err)
	require.Equal(t, before, refused)
	kv.before.set(nil)
	require.NoError(t, c.Close(bg))
}

// Several writes may have ended without an answer. A next device settles all of
// them, in their order, or there is none.
func TestEveryWriteWithoutAnAnswerIsSettled(t *testing.T) {
	for _, failing := range []string{"1", "2", "3"} {
		t.Run("the store fails at "+failing, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				c, _, f := open(t, kv)
				require.NoError(t, c.EndTerm(bg))
				key := func(id string) Key { return Key{"test", id} }
				for _, id := range []string{"1", "2", "3"} {
					c.cfg.writes.giveUp(f.Epoch(), unknownDone{"test", Batch{Put: []Entry{{key(id), nil}, {key("newest"), []byte(id)}}}})
				}
				kv.before.set(func(op string, b Batch) error {
					if op == "commit" && b.Put[0].Key == key(failing) {
						return errDown
					}
					return nil
				})
				for range 2 {
					_, err := c.Device(bg, f)
					require.ErrorIs(t, err, ErrUnavailable)
				}
				kv.before.set(nil)
				_, err := c.Device(bg, f)
				require.NoError(t, err)
				require.Equal(t, 4, kv.count("test"))
				require.Equal(t, "3", kv.data[key("newest")])
			})
		})
	}
}

// A write is settled once: applied again it would undo what was written since.
func TestSettledWriteIsNotAppliedAgain(t *testing.T) {
	kv := newMapKV()
	c, _, f := open(t, kv)
	key := Key{"test", "1"}
	c.cfg.writes.giveUp(f.Epoch(), unknownDone{"test", Batch{Put: []Entry{{key, []byte("older")}}}})
	require.NoError(t, c.EndTerm(bg))
	_, err := c.Device(bg, f)
	require.NoError(t, err)
	require.Equal(t, "older", kv.data[key])
	require.NoError(t, kv.Commit(bg, f.Epoch(), Batch{Put: []Entry{{key, []byte("newer")}}}))
	require.NoError(t, c.EndTerm(bg))
	_, err = c.Device(bg, f)
	require.NoError(t, err)
	require.Equal(t, "newer", kv.data[key])
	require.NoError(t, c.Close(bg))
}

// A term that finds itself fenced while it settles an earlier write is over.
func TestFencedTermSettlesNothing(t *testing.T) {
	kv := newMapKV()
	c, _, f := open(t, kv)
	require.NoError(t, c.EndTerm(bg))
	c.cfg.writes.giveUp(f.Epoch(), unknownDone{"test", Batch{Put: []Entry{{Key{"test", "1"}, nil}}}})
	kv.setEpoch(f.Epoch() + 1)
	_, err := c.Device(bg, f)
	require.ErrorIs(t, err, ErrFenced)
	require.Zero(t, kv.count("test"))
}
