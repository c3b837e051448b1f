package authstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
)

func TestMessageEntriesOutliveTheDeviceThatWasThere(t *testing.T) {
	kv, aead := newMapKV(), NewAESGCM([32]byte{7})
	c := New(kv, WithAEAD(aead))
	require.Error(t, c.PutMessageEntry(bg, "a", []byte("x"), true), "nothing was loaded")
	_, err := c.MessageEntries(bg)
	require.Error(t, err)
	d := paired(t, c, newFence(1))
	require.NoError(t, c.PutMessageEntry(bg, "a", []byte("kept"), true))
	require.NoError(t, c.PutMessageEntry(bg, "b", []byte("rides"), false))
	require.NoError(t, c.PutMessageEntry(bg, "c", []byte("goes"), true))
	require.NoError(t, c.PutMessageEntry(bg, "c", nil, true))
	require.NoError(t, c.PutMessageEntry(bg, "never", nil, true))
	require.NoError(t, d.Delete(bg))
	require.NoError(t, c.Close(bg))
	for k, v := range kv.data {
		require.NotContains(t, string(v), "kept", "%s: sealed", k.Kind)
	}

	c = New(kv, WithAEAD(aead))
	d, err = c.Device(bg, newFence(1))
	require.NoError(t, err)
	require.Nil(t, d.ID)
	got, err := c.MessageEntries(bg)
	require.NoError(t, err)
	require.Equal(t, map[string][]byte{"a": []byte("kept"), "b": []byte("rides")}, got)
	got["a"][0] = 'X'
	again, err := c.MessageEntries(bg)
	require.NoError(t, err)
	require.Equal(t, "kept", string(again["a"]), "what is given out is a copy")
	// It is written while nobody is paired, too.
	require.NoError(t, c.PutMessageEntry(bg, "a", nil, true))
	require.NoError(t, c.PutMessageEntry(bg, "b", []byte("more"), false))
	require.NoError(t, c.Close(bg))
	c = New(kv, WithAEAD(aead))
	_, err = c.Device(bg, newFence(1))
	require.NoError(t, err)
	got, err = c.MessageEntries(bg)
	require.NoError(t, err)
	require.Equal(t, map[string][]byte{"b": []byte("more")}, got)
	require.NoError(t, c.Close(bg))
}

// The first entry about a message is on its way when the message is done with.
func TestEntryThatIsRemovedBesideItsFirstWriteIsGone(t *testing.T) {
	for name, durable := range map[string]bool{"at once": true, "deferred": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				c, _, _ := open(t, kv)
				release := kv.holdCommit("message")
				written := make(chan error, 1)
				go func() { written <- c.PutMessageEntry(bg, "a", []byte("kept"), true) }()
				synctest.Wait()
				gone := make(chan error, 1)
				go func() { gone <- c.PutMessageEntry(bg, "a", nil, durable) }()
				synctest.Wait()
				release()
				require.NoError(t, <-written)
				require.NoError(t, <-gone)
				got, err := c.MessageEntries(bg)
				require.NoError(t, err)
				require.Empty(t, got)
				require.NoError(t, c.Close(bg))
				require.Zero(t, kv.count("message"))
				require.Empty(t, storeOf(c.current.device).queue.entries)
			})
		})
	}
}

// paired is the device of c, paired.
func paired(t testing.TB, c *Container, f Fence) *store.Device {
	d, err := c.Device(bg, f)
	require.NoError(t, err)
	pair(t, d, testJID(1))
	return d
}

// follower is a Delivery that does as it is told.
type follower struct {
	begin, failed, finish error
	began, ended          []string
	last                  *store.BufferedEvent
	others                [][32]byte
}

func (f *follower) OtherHashes(context.Context, [32]byte) [][32]byte { return f.others }

func (f *follower) Begin(_ context.Context, hash [32]byte, known *store.BufferedEvent) error {
	f.began, f.last = append(f.began, fmt.Sprintf("begin %d", hash[0])), known
	return f.begin
}

func (f *follower) Failed(_ context.Context, err error) error {
	f.ended = append(f.ended, err.Error())
	if f.failed != nil {
		return f.failed
	}
	return err
}

func (f *follower) Finish(_ context.Context, plaintext []byte) error {
	f.ended = append(f.ended, "finish "+string(plaintext))
	return f.finish
}

func TestDeliveryDecidesAboutEachPartOfItsMessage(t *testing.T) {
	c := New(newMapKV())
	d := paired(t, c, newFence(1))
	defer func() { require.NoError(t, c.Close(bg)) }()
	buf, hash := d.EventBuffer, [32]byte{7}
	f := &follower{}
	ctx := WithDelivery(bg, f)

	e, err := buf.GetBufferedEvent(ctx, hash)
	require.NoError(t, err)
	require.Nil(t, e)
	require.NoError(t, buf.PutBufferedEvent(ctx, hash, []byte("text"), time.Now()))

	f.begin = fmt.Errorf("later: %w", context.Canceled)
	_, err = buf.GetBufferedEvent(ctx, hash)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, "text", string(f.last.Plaintext))

	f.begin, f.finish = nil, errors.New("could not be kept")
	require.ErrorIs(t, buf.ClearBufferedEventPlaintext(ctx, hash), f.finish)
	require.Equal(t, []string{"finish text"}, f.ended)
	e, err = buf.GetBufferedEvent(bg, hash)
	require.NoError(t, err)
	require.Equal(t, "text", string(e.Plaintext), "not finished")

	f.begin = ErrPartDone
	e, err = buf.GetBufferedEvent(ctx, hash)
	require.NoError(t, err)
	require.NotNil(t, e)
	require.Nil(t, e.Plaintext, "whatsmeow skips it")
	e, err = buf.GetBufferedEvent(bg, hash)
	require.NoError(t, err)
	require.Nil(t, e.Plaintext, "and it stays so")
	e, err = buf.GetBufferedEvent(ctx, [32]byte{8})
	require.NoError(t, err)
	require.NotNil(t, e, "one that was never decrypted is skipped too")
	require.Nil(t, e.Plaintext)
}

// Another version of whatsmeow names the same part of a message otherwise.
func TestPartThatAnotherVersionHasNamedIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c := New(kv)
		d := paired(t, c, newFence(1))
		open, done, same := [32]byte{1}, [32]byte{2}, [32]byte{3}
		for _, hash := range [][32]byte{open, done, same} {
			require.NoError(t, d.EventBuffer.PutBufferedEvent(bg, hash, []byte{hash[0]}, time.Unix(1700000000, 0)))
		}
		require.NoError(t, d.EventBuffer.ClearBufferedEventPlaintext(bg, done))
		require.NoError(t, c.Close(bg))

		ask := func(hash [32]byte, others ...[32]byte) *store.BufferedEvent {
			f := &follower{others: others}
			e, err := d.EventBuffer.GetBufferedEvent(WithDelivery(bg, f), hash)
			require.NoError(t, err)
			require.Equal(t, []string{fmt.Sprintf("begin %d", hash[0])}, f.began)
			require.Equal(t, e, f.last, "the delivery is told of it")
			return e
		}
		for _, died := range []bool{true, false} { // before the new name is in the store
			kv.mu.Lock()
			rows := maps.Clone(kv.data)
			kv.mu.Unlock()
			c = New(kv)
			var err error
			d, err = c.Device(bg, newFence(1))
			require.NoError(t, err)
			require.Nil(t, ask([32]byte{11}, [32]byte{12}, [32]byte{13}), "a new one")
			e := ask([32]byte{11}, [32]byte{12}, open)
			require.Equal(t, []byte{1}, e.Plaintext)
			require.Equal(t, time.Unix(1700000000, 0), e.ServerTime)
			e = ask([32]byte{21}, done)
			require.NotNil(t, e)
			require.Nil(t, e.Plaintext, "it was finished")
			require.Equal(t, []byte{3}, ask(same, [32]byte{31}, same).Plaintext)
			if died {
				require.NoError(t, c.Close(bg))
				kv.mu.Lock()
				kv.data = rows
				kv.mu.Unlock()
				continue
			}
			time.Sleep(time.Minute)
			require.Equal(t, []byte{1}, ask([32]byte{11}).Plaintext, "it has the new name")
			require.Nil(t, ask(open), "and no other")
			require.NoError(t, d.EventBuffer.ClearBufferedEventPlaintext(bg, [32]byte{11}))
			require.Nil(t, ask([32]byte{11}).Plaintext)
			require.Nil(t, ask(open, [32]byte{11}).Plaintext, "finished under both")
			require.NoError(t, c.SettleEvents(func([]byte) Leftover { return LeftoverPerhapsHandled }))
			n, _ := c.LeftoverEvents()
			require.Zero(t, n, "the service has all of them")
			require.NoError(t, c.Close(bg))
		}
	})
}

func TestDeliveryHearsOfAFailedDecryptionBeforeItsAcknowledgement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(newMapKV())
		d := paired(t, c, newFence(1))
		defer func() { require.NoError(t, c.Close(bg)) }()
		f := &follower{}
		ctx := WithDelivery(bg, f)
		bad := errors.New("no such session")
		err := d.EventBuffer.DoDecryptionTxn(ctx, func(ctx context.Context) error {
			require.NoError(t, d.Identities.PutIdentity(ctx, "1:0", [32]byte{1}))
			return bad
		})
		require.ErrorIs(t, err, bad)
		require.Equal(t, []string{bad.Error()}, f.ended)
		require.NoError(t, d.EventBuffer.DoDecryptionTxn(ctx, func(context.Context) error { return nil }))
		left := fmt.Errorf("left alone: %w", context.Canceled)
		require.ErrorIs(t, d.EventBuffer.DoDecryptionTxn(ctx, func(context.Context) error { return left }), context.Canceled)
		require.Len(t, f.ended, 1, "that one is not acknowledged")
		// The connection ended meanwhile, and whatever came of it: nothing is
		// acknowledged, so it is no message that cannot be decrypted.
		over, end := context.WithCancel(ctx)
		err = d.EventBuffer.DoDecryptionTxn(over, func(ctx context.Context) error {
			_, err := d.Sessions.GetSession(ctx, "1:0")
			require.NoError(t, err)
			end()
			return bad
		})
		require.ErrorIs(t, err, bad)
		require.Len(t, f.ended, 1)
		began := time.Now()
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)), "it holds nothing")
		require.Zero(t, time.Since(began))
		f.failed = errors.New("could not be noted")
		require.ErrorIs(t, d.EventBuffer.DoDecryptionTxn(ctx, func(context.Context) error { return bad }), f.failed)
	})
}

// forgiving is a follower that takes every failure upon itself.
type forgiving struct{ follower }

func (*forgiving) Failed(context.Context, error) error { return nil }

func TestFailedDecryptionWritesNothingWhateverItsDeliverySays(t *testing.T) {
	c := New(newMapKV())
	d := paired(t, c, newFence(1))
	defer func() { require.NoError(t, c.Close(bg)) }()
	require.NoError(t, d.EventBuffer.DoDecryptionTxn(WithDelivery(bg, &forgiving{}), func(ctx context.Context) error {
		require.NoError(t, d.Identities.PutIdentity(ctx, "1:0", [32]byte{1}))
		return errors.New("no such session")
	}))
	trusted, err := d.Identities.IsTrustedIdentity(bg, "1:0", [32]byte{2})
	require.NoError(t, err)
	require.True(t, trusted, "nothing was written")
}

func TestPanicInDecryptionIsAnErrorThatChangesNothing(t *testing.T) {
	c := New(newMapKV())
	d := paired(t, c, newFence(1))
	defer func() { require.NoError(t, c.Close(bg)) }()
	err := d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
		require.NoError(t, d.Identities.PutIdentity(ctx, "1:0", [32]byte{1}))
		panic("slice bounds out of range")
	})
	require.ErrorIs(t, err, ErrPanicked)
	require.NotErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "slice bounds out of range")
	trusted, err := d.Identities.IsTrustedIdentity(bg, "1:0", [32]byte{2})
	require.NoError(t, err)
	require.True(t, trusted, "nothing was written")
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)), "no window is left open")
}

// An entry of the book and its removal are written when the call returns, where
// that is asked for: a removal that is lost hands the message over once more.
func TestEntryOfAMessageIsDurableWhereThatIsAskedFor(t *testing.T) {
	for name, durable := range map[string]bool{"durable": true, "riding": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				c, d, _ := open(t, kv)
				require.NoError(t, c.PutMessageEntry(bg, "old", []byte("old"), true))
				require.NoError(t, storeOf(d).flush("test"))
				commits := kv.Commits()
				stored := func(want ...string) { // as a crash leaves it
					t.Helper()
					kv.mu.Lock()
					left := newMapKV()
					left.data = maps.Clone(kv.data)
					kv.mu.Unlock()
					entries, err := storeOf(killed(t, left)).c.MessageEntries(bg)
					require.NoError(t, err)
					require.ElementsMatch(t, want, slices.Collect(maps.Keys(entries)))
				}
				require.NoError(t, c.PutMessageEntry(bg, "new", []byte("new"), durable))
				if durable {
					stored("old", "new")
				}
				require.NoError(t, c.PutMessageEntry(bg, "old", nil, durable))
				if durable {
					stored("new")
				} else {
					stored("old")
					require.Equal(t, commits, kv.Commits(), "it waits for another commit")
				}
				time.Sleep(soon + 1)
				synctest.Wait()
				stored("new") // a second later in any case
			})
		})
	}
}

// A removal that was deferred is not made yet: one that has to be durable is.
func TestDurableRemovalBehindADeferredOneIsDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, _, _ := open(t, kv)
		require.NoError(t, c.PutMessageEntry(bg, "ID", []byte("entry"), true))
		require.NoError(t, c.PutMessageEntry(bg, "ID", nil, false))
		require.Equal(t, 1, kv.count("message"))
		require.NoError(t, c.PutMessageEntry(bg, "ID", nil, true))
		require.Zero(t, kv.count("message"))
		commits := kv.Commits()
		require.NoError(t, c.PutMessageEntry(bg, "ID", nil, true))
		require.Equal(t, commits, kv.Commits(), "there is nothing left to remove")
	})
}
