package authstore

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
)

// secretly is a Delivery of a part that has a secret.
type secretly struct{ follower }

func (*secretly) Secret([]byte) (store.MessageSecretInsert, bool) {
	return store.MessageSecretInsert{Chat: testJID(2), Sender: testJID(2), ID: "M", Secret: []byte{9}}, true
}

// A part that has a secret is kept itself, too.
func TestPartWithASecretIsBuffered(t *testing.T) {
	kv := newMapKV()
	_, d, _ := open(t, kv)
	ctx, hash := WithDelivery(bg, &secretly{}), [32]byte{7}
	require.NoError(t, d.EventBuffer.PutBufferedEvent(ctx, hash, []byte("text"), time.Unix(1, 0)))
	d = killed(t, kv)
	e, err := d.EventBuffer.GetBufferedEvent(bg, hash)
	require.NoError(t, err)
	require.NotNil(t, e)
	require.Equal(t, "text", string(e.Plaintext))
	require.Equal(t, time.Unix(1, 0), e.ServerTime)
	require.WithinDuration(t, time.Now(), e.InsertTime, time.Minute)
	secret, _, err := d.MsgSecrets.GetMessageSecret(bg, testJID(2), testJID(2), "M")
	require.NoError(t, err)
	require.Equal(t, []byte{9}, secret)
}

// Finished events stand in rows of a bounded size, and no term writes into the
// rows of one before it that it has not read.
func TestFinishedEventsStandInRowsOfABoundedSize(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	for term := range 2 {
		for i := range 3 * seenChunk {
			hash := [32]byte{byte(term), byte(i)}
			require.NoError(t, d.EventBuffer.PutBufferedEvent(bg, hash, []byte("text"), time.Now()))
			require.NoError(t, d.EventBuffer.ClearBufferedEventPlaintext(bg, hash))
		}
		s := storeOf(d)
		rows := make(map[string]int)
		s.mu.Lock()
		for name, bucket := range s.im.packed[tSeen] {
			rows[name] = len(bucket)
		}
		s.mu.Unlock()
		for name, size := range rows {
			require.LessOrEqual(t, size, seenChunk)
			require.Contains(t, name, "-")
		}
		c, d, _ = reopen(t, kv, c)
		require.Len(t, storeOf(d).im.seenAt, (term+1)*3*seenChunk)
	}
	for n := range 5 { // a term goes on with a row that is not full
		require.NoError(t, d.EventBuffer.PutBufferedEvent(bg, [32]byte{9, byte(n)}, []byte("text"), time.Now()))
		require.NoError(t, d.EventBuffer.ClearBufferedEventPlaintext(bg, [32]byte{9, byte(n)}))
		c, d, _ = reopen(t, kv, c)
		require.Equal(t, 7, kv.count("seen"))
	}
}

// An entry of the book that was asked to be durable is so while nobody is paired,
// and what is not there is removed without a commit.
func TestEntryIsDurableWhileNobodyIsPaired(t *testing.T) {
	kv := newMapKV()
	c := New(kv)
	d, err := c.Device(bg, newFence(1))
	require.NoError(t, err)
	require.Nil(t, d.ID)
	stored := func() (n int) {
		for k := range kv.data {
			if k.Kind == specOf(tMessage).kind && strings.HasPrefix(k.ID, globalGen+"/") {
				n++
			}
		}
		return n
	}
	require.NoError(t, c.PutMessageEntry(bg, "a", []byte("x"), true))
	require.Equal(t, 1, stored())
	require.NoError(t, c.PutMessageEntry(bg, "b", []byte("x"), false))
	require.Equal(t, 1, stored(), "it rides")
	require.NoError(t, c.PutMessageEntry(bg, "c", []byte("x"), true))
	require.Equal(t, 3, stored())
	commits := kv.Commits()
	require.NoError(t, c.PutMessageEntry(bg, "never", nil, true))
	require.Equal(t, commits, kv.Commits())
	require.NoError(t, c.Close(bg))
}

// A device that was cut tells nobody what stands in its memory: the entries of the
// next term are newer.
func TestBookOfACutDeviceIsNotRead(t *testing.T) {
	c, d, _ := open(t, newMapKV())
	require.NoError(t, c.PutMessageEntry(bg, "a", []byte("x"), true))
	storeOf(d).gate.cut(fmt.Errorf("test"))
	_, err := c.MessageEntries(bg)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, c.PutMessageEntry(bg, "a", nil, true), context.Canceled)
	require.ErrorIs(t, c.PutMessageEntry(bg, "b", []byte("x"), false), context.Canceled)
}

// The write that finds the term fenced is no failure of its message: the service
// is to deliver it again.
func TestWriteThatFindsTheTermFencedIsCanceled(t *testing.T) {
	kv := newMapKV()
	_, d, f := open(t, kv)
	kv.setEpoch(9)
	err := d.Sessions.PutSession(bg, "1:0", validSession(t, 1))
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, ErrFenced)
	require.EqualValues(t, 1, f.cuts.Load())
}

// Decryption does not begin on a device that was never saved, nor on one that is
// over.
func TestDecryptionBeginsOnALiveDeviceOnly(t *testing.T) {
	c := New(newMapKV())
	d, err := c.Device(bg, newFence(1))
	require.NoError(t, err)
	began := false
	decrypt := func() error {
		return d.Container.(*deviceStore).DoDecryptionTxn(bg, func(context.Context) error { began = true; return nil })
	}
	require.ErrorIs(t, decrypt(), ErrNotSaved)
	pair(t, d, testJID(1))
	require.NoError(t, c.EndTerm(bg))
	require.ErrorIs(t, decrypt(), context.Canceled)
	require.False(t, began)
	require.NoError(t, c.Close(bg))
}
